"""Ctrl-C in a real terminal, which sends it to every process of the foreground group: at every stage the deployment is cancelled on the
hosts, the generation before it serves on, and the program says so."""
import json
import os
import subprocess
import time

import service
from terminal import Terminal

SECONDS = 150
SHARES = {"clock"}


class CtrlC(service.Good):
    count = 2

    def setUp(self):
        super().setUp()
        self.place.configure(drain="60s")
        self.serving = self.place.status()["serving"]
        self.newest = self.attempts()
        self.addCleanup(self.in_order)

    def in_order(self):
        for host in self.hosts.hosts:
            view = self.place.status(host.name, code=0)
            self.assertEqual((view["ready"], view["deployment"]), (1, None))
        self.assertEqual((self.place.status()["serving"], self.place.mark()), (self.serving, "good"))

    def attempts(self, host="alpha"):
        names = self.hosts[host].sh("ls /var/lib/stillframe/services/demo/attempts", check=False).stdout.split()
        return max((int(name.split(".")[0]) for name in names if name.endswith(".jsonl")), default=0)

    def terminal(self, *arguments):
        terminal = Terminal(self.place, *arguments)
        self.addCleanup(terminal.close)
        return terminal

    def until(self, terminal, status, host="alpha", newer=None):
        """Until a new attempt of the host is so far."""
        newer = self.newest if newer is None else newer

        def reached():
            terminal.read(0.01)
            number = self.attempts(host)
            record = f"/var/lib/stillframe/services/demo/attempts/{number:06}.jsonl"
            return number > newer and f'"status":"{status}"' in self.hosts[host].sh(f"cat {record}").stdout
        return self.wait(reached)

    def pressed(self, terminal, error=r"cancelled by tester@\S+", limit=30):
        """Ctrl-C, and all that must come of it."""
        before = len(terminal.said)
        started = time.monotonic()
        terminal.press()
        code = terminal.ended()
        said = terminal.said[before:]
        self.assertEqual(code, 130, terminal.said)
        self.assertLess(time.monotonic() - started, limit)
        lines = [line for line in said.splitlines() if line.startswith("alpha  cancelled")]
        self.assertEqual(len(lines), 1, said)
        self.assertRegex(lines[0], rf"^alpha  cancelled(; generation {self.serving} serves)?: {error}$")
        self.assertNotRegex(said, "conversation ended|error:")
        self.assertEqual(said.count("stopping at the next safe point"), 1)

    def recorded(self, host="alpha"):
        last = self.place.history(host)[0]["events"][-1]
        self.assertEqual(last["status"], "cancelled", last)

    def busy(self, seconds=60):
        """The serving instance has work for so long: it does not drain."""
        prompt = json.dumps({"prompt": {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}}}})
        self.place.local("alpha", "/prompt", "-d", prompt)

    def test_while_it_connects(self):
        self.place.snapshot("never", mark="never")
        self.alpha.network(False)
        self.addCleanup(self.alpha.network, True)
        terminal = self.terminal("deploy", "--snapshot", "never", "--hosts", "alpha")
        self.wait(lambda: terminal.read(0.1) and "deploying" in terminal.said)
        time.sleep(1)
        self.pressed(terminal, "interrupted", limit=5)
        self.alpha.network(True)

    def test_while_it_copies(self):
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(40 << 20))
        self.addCleanup(weight.unlink)
        self.place.behave(mark="never")
        self.place.snapshot("large")
        self.alpha.line(rate_mbit=50)
        self.addCleanup(self.alpha.line)
        terminal = self.terminal("deploy", "--snapshot", "large", "--hosts", "alpha")
        self.until(terminal, "copying")
        self.pressed(terminal, "interrupted")
        self.alpha.line()
        self.recorded()

    def test_while_it_starts(self):
        self.place.snapshot("slow", mark="never", start=60)
        terminal = self.terminal("deploy", "--snapshot", "slow", "--hosts", "alpha")
        self.until(terminal, "starting")
        self.pressed(terminal)
        self.recorded()

    def test_while_it_checks(self):
        self.place.snapshot("slow", mark="never", start=60)
        for _ in range(3):
            self.newest = self.attempts()
            terminal = self.terminal("deploy", "--snapshot", "slow", "--hosts", "alpha")
            self.until(terminal, "checking")
            self.pressed(terminal)
            self.recorded()

    def test_while_the_old_one_drains(self):
        self.place.snapshot("next", mark="never")
        self.busy(8)
        terminal = self.terminal("deploy", "--snapshot", "next", "--hosts", "alpha")
        self.until(terminal, "draining")
        self.pressed(terminal)
        self.recorded()

    def test_of_a_rollback(self):
        self.place.deploy("--label", "late", "--hosts", "alpha", mark="late", start=6)
        self.place.deploy("--snapshot", "good", "--hosts", "alpha")
        self.serving = self.place.status()["serving"]
        for status in ("starting", "checking"):
            self.newest = self.attempts()
            terminal = self.terminal("rollback", "--hosts", "alpha")
            self.until(terminal, status)
            self.pressed(terminal)
            self.recorded()
        self.busy(10)
        self.newest = self.attempts()
        terminal = self.terminal("rollback", "--hosts", "alpha")
        self.until(terminal, "draining")
        self.pressed(terminal)
        self.recorded()

    def test_hosts_that_were_switched_go_back(self):
        self.place.snapshot("half", mark="half")
        self.place.describe("beta", service={"health": {"path": "/nothing-here", "deadline": "2min"}})
        self.addCleanup(self.place.describe, "beta")
        newest = self.attempts("beta")
        beta = self.place.status("beta")["serving"]
        terminal = self.terminal("deploy", "--snapshot", "half")
        self.until(terminal, "checking", host="beta", newer=newest)
        self.assertEqual(self.place.mark("alpha"), "half")
        terminal.press()
        self.assertEqual(terminal.ended(), 130, terminal.said)
        self.assertRegex(terminal.said, rf"(?m)^alpha  reverted; generation {self.serving} serves: taken back: beta failed: cancelled by ")
        self.assertRegex(terminal.said, rf"(?m)^beta  cancelled; generation {beta} serves: cancelled by tester@\S+$")

    def test_a_detached_one_is_stopped_as_long_as_it_is_waited_for(self):
        self.place.snapshot("never", mark="never")
        self.alpha.network(False)
        self.addCleanup(self.alpha.network, True)
        terminal = self.terminal("deploy", "--detach", "--snapshot", "never", "--hosts", "alpha")
        logs = self.place.ws.root / "state/stillframe/deployments"
        begun = time.time()
        self.wait(lambda: any('"type":"begin"' in log.read_text() for log in logs.glob("*.log") if log.stat().st_mtime >= begun - 1))
        time.sleep(1)
        terminal.press()
        self.assertEqual(terminal.ended(10), 130, terminal.said)
        self.assertRegex(terminal.said, r"(?m)^alpha  cancelled  interrupted$")
        self.alpha.network(True)

    def test_a_question_leaves_nothing_behind(self):
        """What decides nothing is ended by its Ctrl-C, with all that it started."""
        terminal = self.terminal("logs", "-f", "--hosts", "alpha")
        self.wait(lambda: terminal.read(0.1) and terminal.said)
        # The clients of this test's connections alone.
        clients = lambda: [line for line in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()
                           if "ssh -S" in line and f" {terminal.pid} " in line]
        self.assertEqual(len(clients()), 1)
        pid = int(clients()[0].split()[0])
        terminal.press()
        terminal.ended()
        self.wait(lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z", limit=5)
