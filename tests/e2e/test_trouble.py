"""Trouble in the middle: two at once, cut connections, killed processes, lost power, full disks, hosts that hang. What serves is always
exactly the old or exactly the new generation, and the record says what happened."""
import json
import os
import re
import shutil
import signal
import time

import service
from harness import Workstation
from service import Stream, wait_process

SECONDS = 340
SHARES = {"clock"}


class Trouble(service.Good):
    def setUp(self):
        super().setUp()
        self.serving = self.place.status()["serving"]
        self.addCleanup(self.in_order)

    def in_order(self):
        """Whatever happened: one generation serves, all of it, and nothing else is there."""
        view = self.place.status(code=0)
        self.assertEqual((view["ready"], view["deployment"]), (1, None))
        self.assertEqual([u for u in self.place.units() if "-s0-g" in u], [f"stillframe-demo-s0-g{view['serving']}.service"])
        links = self.alpha.sh("readlink /nix/var/nix/profiles/stillframe-demo").stdout.strip()
        self.assertEqual(links, f"stillframe-demo-{view['serving']}-link")
        self.assertTrue(all(r["events"][-1].get("outcome") for r in self.place.history()))

    # --- two at once

    def test_two_at_once(self):
        process = self.slow()
        self.until("checking")
        with Workstation() as other:
            other.prefix = self.hosts.client_command()
            shutil.copytree(self.place.ws.root / "state", other.root / "state", symlinks=True)
            env = {"NIX_REMOTE": f"local?root={self.place.ws.store}"}
            second = Stream(other.stillframe("--json", "deploy", "--snapshot", "good", cwd=self.place.project, code=1, **env))
            error = second.host()
            self.assertRegex(error["error"], r"^alpha: a deploy is under way, begun by tester@.* at 20\d\d-.*Z$")
            self.assertEqual(error["hint"], "watch it: stillframe attach; stop it: stillframe cancel; if it hangs: stillframe unlock")
            self.assertEqual(Stream(other.stillframe("--json", "rollback", cwd=self.place.project, code=1)).host()["status"], "failed")
        shown = self.place.run("status").out
        self.assertRegex(shown, r"a deploy is under way, begun by tester@.*: stillframe attach")
        out, err, code = wait_process(process)
        self.assertEqual(code, 0, out + err)
        self.assertEqual(self.place.mark(), "slow")

    # --- stopping it

    def test_ctrl_c_while_it_copies(self):
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(40 << 20))
        self.addCleanup(weight.unlink)
        self.alpha.line(rate_mbit=100)
        self.addCleanup(self.alpha.line)
        self.place.behave(mark="never")
        process = self.place.start("--json", "deploy", "--offline")
        self.until("copying")
        process.send_signal(signal.SIGINT)
        out, err, code = wait_process(process)
        self.assertEqual(code, 130, out + err)
        self.alpha.line()
        record = self.place.history()[0]
        self.assertEqual((record["events"][-1]["status"], record["events"][-1]["text"]), ("cancelled", "interrupted"))
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_ctrl_c_while_it_starts(self):
        process = self.slow(60)
        self.until("checking")
        process.send_signal(signal.SIGINT)
        out, err, code = wait_process(process)
        self.assertEqual(code, 130, out + err)
        record = self.place.history()[0]["events"][-1]
        self.assertEqual(record["status"], "cancelled")
        self.assertRegex(record["text"], r"^cancelled by tester@")
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_cancel_from_anywhere(self):
        process = self.slow(60)
        self.until("checking")
        said = self.place.run("cancel").out
        self.assertRegex(said, r"^alpha  the deploy begun by tester@\S+ is told to stop; the generation before it serves on$")
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn("cancelled by tester@", out)
        none = self.place.run("cancel", code=1)
        self.assertIn("alpha: no deployment of demo is under way here", none.err)

    def test_unlock(self):
        nobody = self.place.run("unlock").out
        self.assertEqual(nobody, "alpha  nobody holds it\n")
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(60 << 20))
        self.addCleanup(weight.unlink)
        self.alpha.line(rate_mbit=60)
        self.addCleanup(self.alpha.line)
        self.place.behave(mark="never")
        process = self.place.start("--json", "deploy", "--offline")
        self.until("copying")
        self.assertRegex(self.place.run("unlock").out, r"^alpha  taken from tester@\S+, who had it since 20.*Z$")
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn("the lease was taken away (stillframe unlock)", out)
        self.alpha.line()
        process = self.slow()
        self.until("checking")
        refused = self.place.run("unlock", code=1).err
        self.assertRegex(refused, r"error: alpha: an activation of demo is under way, begun by tester@.*\n  hint: stillframe cancel stops it")
        wait_process(process)

    # --- cut off

    def cut(self):
        """Every connection of the workstation ends, as by a router that forgot them."""
        self.alpha.sh("pkill -KILL -f 'sshd-session: root' || pkill -KILL sshd-session", check=False)

    def test_a_connection_cut_while_it_copies(self):
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(60 << 20))
        self.addCleanup(weight.unlink)
        self.alpha.line(rate_mbit=150)
        self.addCleanup(self.alpha.line)
        self.place.behave(mark="after all")
        process = self.place.start("--json", "deploy", "--offline")
        self.wait(lambda: int(self.alpha.sh("cat /var/lib/stillframe/incoming/*.nar 2>/dev/null | wc -c").stdout) > 16 << 20)
        self.cut()
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn("the connection ended during the transfer", out)
        self.alpha.line()
        self.wait(lambda: self.place.history()[0]["events"][-1]["status"] == "interrupted")
        done = self.place.deploy()
        copied = next(e for e in done.events if e["type"] == "copied")
        self.assertGreater(copied["sent"]["resumed_bytes"], 12 << 20)
        self.assertEqual(self.place.mark(), "after all")

    def test_a_connection_cut_while_it_activates_changes_nothing(self):
        process = self.slow(5, "goes on")
        self.until("checking")
        self.cut()
        out, err, code = wait_process(process)
        self.assertEqual(code, 0, out + err)
        events = [json.loads(line) for line in out.splitlines()]
        lost = [e for e in events if e["type"] == "lost"]
        self.assertEqual([e["host"] for e in lost], ["alpha"])
        self.assertIn("the conversation ended", lost[0]["error"]["message"])
        host = events[-1]["hosts"][0]
        self.assertEqual((host["status"], host["changed"], host["generation"]), ("succeeded", True, self.serving + 1))
        # Each step is told once.
        steps = [(e["event"]["at"], e["event"]["text"]) for e in events if e["type"] == "event"]
        self.assertEqual(len(steps), len(set(steps)))
        watched = Stream(self.place.run("--json", "attach"))
        self.assertEqual((watched.events[0]["type"], watched.events[0]["version"]), ("attempt", 1))
        self.assertEqual(watched.statuses()[0], "queued")
        self.assertEqual(watched.result["hosts"][0]["outcome"]["status"], "succeeded")
        self.assertEqual(self.place.mark(), "goes on")

    def test_a_cut_connection_may_end_in_a_failure_and_a_stop_still_arrives(self):
        process = self.slow("exit", "never")
        self.until("checking")
        self.cut()
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn("its last words", out)
        process = self.slow(60, "never")
        self.until("checking")
        self.cut()
        self.wait(lambda: '"type":"lost"' in process.stdout.readline())
        process.send_signal(signal.SIGINT)
        out, err, code = wait_process(process)
        self.assertEqual(code, 130, out + err)
        self.assertEqual(json.loads(out.splitlines()[-1])["hosts"][0]["status"], "cancelled")
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_a_rollback_whose_connection_is_cut(self):
        self.place.deploy(mark="late", start=4)
        late = self.place.status()["serving"]
        self.place.deploy("--snapshot", "good")
        process = self.place.start("--json", "rollback")
        self.until("checking")
        self.cut()
        out, err, code = wait_process(process)
        self.assertEqual(code, 0, out + err)
        self.assertIn('"type":"lost"', out)
        self.assertEqual((self.place.status()["serving"], self.place.mark()), (late, "late"))

    def test_a_host_that_stays_away_is_not_known(self):
        """The line is gone for longer than anybody waits; the host goes on."""
        process = self.slow(10, "far")
        self.until("checking")
        self.alpha.network(False)
        try:
            out, err, code = wait_process(process, 240)
        finally:
            self.alpha.network(True)
        self.assertEqual(code, 5, out + err)
        host = json.loads(out.splitlines()[-1])["hosts"][0]
        self.assertEqual((host["status"], host["changed"], host["generation"]), ("unknown", None, None))
        self.assertRegex(host["error"], "^alpha: the connection was lost, and it is not known what came of it; asked for 60 s: ")
        self.assertIn("stillframe attach --hosts alpha", host["hint"])
        self.assertIn("succeeded", self.place.run("attach").out)
        self.assertEqual(self.place.mark(), "far")

    def test_a_killed_workstation(self):
        process = self.slow(3, "orphan")
        self.until("checking")
        process.kill()
        process.communicate()
        text = self.place.run("attach").out
        self.assertRegex(text, r"alpha  succeeded  generation \d+ serves")
        self.assertEqual(self.place.mark(), "orphan")

    def test_detached(self):
        self.place.behave(mark="detached", start=2)
        done = self.place.run("deploy", "--offline", "--detach")
        self.assertRegex(done.out.splitlines()[-1], r"^20\S+ goes on by itself: stillframe attach shows it, stillframe cancel stops it$")
        self.assertIn("succeeded", self.place.run("attach").out)
        self.assertEqual(self.place.mark(), "detached")
        both = self.place.run("deploy", "--offline", "--detach", "--dry-run", code=2)
        self.assertIn("the argument '--detach' cannot be used with '--dry-run'", both.err)
        self.place.describe("alpha", service={"models": "/mnt/elsewhere"})
        self.addCleanup(self.place.describe, "alpha")
        refused = self.place.run("deploy", "--offline", "--detach", code=1)
        self.assertIn("alpha: there is no folder /mnt/elsewhere", refused.text)
        told = Stream(self.place.run("--json", "deploy", "--offline", "--detach", code=1))
        self.assertIn("there is no folder /mnt/elsewhere", told.events[-1]["error"]["message"])
        told = Stream(self.place.run("--json", "deploy", "--snapshot", "good", "--again", "--detach", code=1))
        self.assertIn("there is no folder /mnt/elsewhere", told.host()["error"])

    # --- the host itself

    def activation(self):
        return next(u for u in self.place.units() if "-activation-" in u)

    def test_a_killed_activation_is_brought_to_an_end(self):
        process = self.slow(60)
        self.until("checking")
        self.alpha.run("systemctl", "kill", "--signal=KILL", self.activation())
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        record = self.place.history()[0]["events"][-1]
        self.assertEqual((record["status"], record["text"]), ("interrupted", "the activation was interrupted"))
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_a_stopped_activation(self):
        process = self.slow(60)
        self.until("checking")
        self.alpha.run("systemctl", "stop", self.activation())
        out, err, code = wait_process(process)
        self.assertEqual((code, self.place.status()["serving"]), (1, self.serving), out + err)
        self.assertIn("stopped by a signal", out)

    def so_far(self, attempts, status):
        """Whether the attempt after so many has had this status."""
        record = f"/var/lib/stillframe/services/demo/attempts/{attempts + 1:06}.jsonl"
        return f'"status":"{status}"' in self.alpha.sh(f"cat {record} 2>/dev/null", check=False).stdout

    def test_power_is_lost_at_every_stage(self):
        for status, seconds in (("copying", 0), ("checking", 60), ("checking", 0)):
            with self.subTest(status, seconds=seconds):
                before = self.place.status()["serving"]
                self.place.behave(mark=f"power {status} {seconds}", start=seconds)
                attempts = len(self.place.history())
                process = self.place.start("--json", "deploy", "--offline")
                self.wait(lambda: self.so_far(attempts, status) or process.poll() is not None)
                self.alpha.power_loss()
                out, err, code = wait_process(process)
                self.alpha.boot()
                self.alpha.wait_ready()
                self.wait(lambda: (self.place.status() or {}).get("ready") == 1)
                now = self.place.status()["serving"]
                # Exactly one side of the commit; with a slow start only the old one is possible.
                self.assertIn(now, (before, before + 1) if not seconds else (before,), out + err)
                mark = self.place.mark()
                self.assertEqual(mark == f"power {status} {seconds}", now != before, mark)
                self.in_order()

    def test_a_full_disk(self):
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(40 << 20))
        self.addCleanup(weight.unlink)
        self.alpha.fill_disk(leave_mib=290)
        self.addCleanup(self.alpha.unfill)
        host = self.place.deploy(code=1, mark="no room").host()
        self.assertRegex(host["error"], r"^alpha: the store has \d+ MiB free, \d+ MiB are needed$")
        self.assertEqual(host["hint"], "free space on the host: stillframe retention, nix-collect-garbage")
        self.assertEqual(self.place.history()[0]["events"][-1]["status"], "failed")
        self.alpha.unfill()
        self.alpha.line(rate_mbit=100)
        self.addCleanup(self.alpha.line)
        process = self.place.start("--json", "deploy", "--offline")
        self.until("copying")
        self.alpha.fill_disk()
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn("No space left on device", out)
        self.alpha.unfill()
        self.assertEqual(self.place.history()[0]["events"][-1]["status"], "failed")
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_a_host_that_hangs(self):
        # Its network answers, and nothing behind it: all its processes are stopped.
        freeze = self.alpha.cgroup
        before = self.place.mark()

        def all_processes(number):
            for procs in [freeze, *freeze.rglob("*")]:
                if procs.is_dir():
                    for pid in (procs / "cgroup.procs").read_text().split():
                        os.kill(int(pid), number)
        all_processes(signal.SIGSTOP)
        try:
            host = self.place.deploy("--snapshot", "good", "--again", code=1).host()
        finally:
            all_processes(signal.SIGCONT)
        self.assertRegex(host["error"], r"^alpha: (cannot connect to alpha: .*(timed out|banner)|no SSH connection to alpha within 20 s)")
        self.assertFalse(host["on_host"])
        # Only the workstation knows of it.
        shown = self.place.run("history", "-n", "1").out
        self.assertRegex(shown, r"alpha +failed +alpha: ")
        self.assertEqual(self.place.mark(), before)

    def test_hosts_that_refuse(self):
        """Each is told apart, leaves the old generation serving, and is in the history."""
        before = self.place.mark()
        hide = "for p in nix-store nix-daemon; do mv /usr/bin/$p /usr/bin/$p.hidden; done"
        show = "for p in nix-store nix-daemon; do mv /usr/bin/$p.hidden /usr/bin/$p; done"
        key = self.place.ws.root / "stranger"
        service.subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        config = self.hosts.ssh_config.read_text()
        stranger, unknown, changed = (self.place.ws.root / name for name in ("stranger.conf", "unknown.conf", "changed.conf"))
        stranger.write_text(config.replace(str(self.hosts.state / "key"), str(key)))
        known = self.hosts.state / "known_hosts"
        (self.place.ws.root / "none").write_text("")
        unknown.write_text(config.replace(str(known), str(self.place.ws.root / "none")))
        (self.place.ws.root / "other").write_text("alpha " + (key.with_suffix(".pub")).read_text())
        changed.write_text(config.replace(str(known), str(self.place.ws.root / "other")))
        for what, host, pattern in [
            ("wrong key", {"ssh-config": str(stranger)}, r"alpha: cannot connect to alpha: .*Permission denied \(publickey\)"),
            ("unknown host key", {"ssh-config": str(unknown)}, r"alpha: cannot connect to alpha: .*(Host key verification failed|host key is known)"),
            ("changed host key", {"ssh-config": str(changed)}, r"alpha: cannot connect to alpha: Host key verification failed\."),
            ("sudo that asks", {"user": "nosudo"}, r"alpha: no root's rights: `sudo -n true`: sudo: a password is required"),
            ("no Nix", {}, r"alpha: Nix is not installed"),
        ]:
            with self.subTest(what):
                self.place.describe("alpha", **host)
                if what == "no Nix":
                    self.alpha.sh(hide)
                try:
                    failed = self.place.deploy("--snapshot", "good", "--again", code=1).host()
                finally:
                    self.place.describe("alpha")
                    if what == "no Nix":
                        self.alpha.sh(show)
                self.assertRegex(failed["error"], f"^{pattern}")
                self.assertTrue(failed["hint"])
                self.assertRegex(self.place.run("history", "-n", "1").out, f"alpha +failed +{pattern}")
                self.assertEqual(self.place.mark(), before)

    def test_hosts_are_looked_at_before_the_environment_is_captured(self):
        known = self.place.run("snapshots", "list", "--json").json
        self.addCleanup(self.place.describe, "alpha")
        self.place.behave(mark="never taken")
        for host, pattern in [({"service": {"models": "/srv/none"}}, r"alpha: there is no folder /srv/none"),
                              ({"user": "nosudo"}, r"alpha: no root's rights: ")]:
            self.place.describe("alpha", **host)
            for more in ([], ["--dry-run"], ["--detach"]):
                with self.subTest(pattern, more=more):
                    refused = self.place.run("deploy", "--offline", *more, code=1)
                    self.assertRegex(refused.err, f"(?m)^error: {pattern}")
                    self.assertRegex(refused.err, "(?m)^  hint: ")
                    self.assertEqual(refused.out, "")
            said = Stream(self.place.run("--json", "deploy", "--offline", code=1)).events
            self.assertEqual([list(event) for event in said], [["error"]])
            self.assertRegex(said[0]["error"]["message"], f"^{pattern}")
        self.assertEqual(self.place.run("snapshots", "list", "--json").json, known)
        self.place.describe("alpha")
        self.assertEqual(self.place.status()["serving"], self.serving)

    def test_a_network_that_is_lost_while_it_activates(self):
        process = self.slow(4, "alone")
        self.until("checking")
        self.alpha.network(False)
        time.sleep(6)
        self.alpha.network(True)
        wait_process(process)
        self.wait(lambda: self.place.mark() == "alone")
        self.wait(lambda: self.place.status()["deployment"] is None, 60)

    def test_who_has_it_is_never_a_ghost(self):
        # The workstation is gone without a word while it copies: nothing tells the host but silence.
        weight = self.place.pack.parent / "w.safetensors"
        weight.write_bytes(os.urandom(60 << 20))
        self.addCleanup(weight.unlink)
        self.alpha.line(rate_mbit=60)
        self.addCleanup(self.alpha.line)
        self.place.behave(mark="ghost")
        process = self.place.start("--json", "deploy", "--offline")
        self.until("copying")
        self.alpha.network(False)
        process.kill()
        process.communicate()
        self.alpha.sh("true")
        time.sleep(1)
        self.assertTrue(re.search("holder", self.alpha.sh("cat /var/lib/stillframe/services/demo/lease.json").stdout))
        self.wait(lambda: not self.alpha.sh("ls /var/lib/stillframe/services/demo/lease.json 2>/dev/null", check=False).stdout, 45)
        self.alpha.network(True)
        self.alpha.line()
        record = self.place.history()[0]["events"][-1]
        self.assertEqual(record["status"], "interrupted")
