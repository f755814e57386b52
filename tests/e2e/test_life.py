"""The life of a service: restarted without a request lost, stopped for good and started as it was, and what becomes of each when it is cut in
the middle."""
import json
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import service
from service import Stream, wait_process

SECONDS = 330
SHARES = {"clock"}
TWO = "scaling = { minimum = 2, maximum = 2 }\nslots = 2"
OWNED = '[service.jobs]\nqueue = "gateway"\n'


class Case(service.Case):
    def act(self, *words, code=0):
        return Stream(self.place.run("--json", *words, code=code))

    def load(self, script, *arguments):
        command = ["ip", "netns", "exec", self.alpha.netns, sys.executable, Path(__file__).with_name(script), "http://127.0.0.1:8188", *arguments]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def seen(self, process):
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        return json.loads(out)

    def processes(self):
        found = {}
        for unit in self.place.units():
            if re.search(r"-s\d+-g\d+\.service$", unit):
                found[unit] = self.alpha.run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()
        return found

    def post(self, seconds):
        graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}},
                 "2": {"class_type": "Save", "inputs": {"filename_prefix": "life", "images": ["1", 0]}}}
        answer = self.place.local("alpha", "/prompt", "-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps({"prompt": graph}))
        return json.loads(answer)["prompt_id"]

    def port(self):
        """Whether anything answers on the public port."""
        return self.place.inside("alpha", ["curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:8188/-/health"], check=False).returncode == 0

    def kinds(self):
        return [(record["kind"], record["events"][-1]["status"]) for record in self.place.history()]

    def activation(self):
        """The unit of the attempt that is under way."""
        units = self.wait(lambda: [unit for unit in self.place.units() if "-activation-" in unit])
        return units[0]

    def until(self, kind, text):
        """Until the newest record is of that kind, and says so."""
        record = f"$(ls /var/lib/stillframe/services/{service.SERVICE}/attempts/*.jsonl | tail -n 1)"
        self.wait(lambda: text in (said := self.alpha.sh(f"cat {record}").stdout) and f'"kind":"{kind}"' in said)


class Alone(Case):
    """One instance, which has the queue."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.configure(drain="20s")
        cls.place.deploy("--label", "good", mark="good")

    def test_a_restart_loses_no_request(self):
        load = self.load("load.py", "--requests", "4", "--uploads", "1", "--jobs", "2", "--sockets", "4")
        self.wait(lambda: len(self.alpha.run("ss", "-tn", "state", "established", "sport", "=", ":8188").stdout.splitlines()) > 6)
        generation = self.place.status()["serving"]
        for _ in range(3):
            before = self.processes()
            done = self.act("restart", "--all")
            self.assertEqual((done.host()["status"], done.host()["generation"]), ("succeeded", generation), done.text)
            self.assertEqual(done.events[0]["act"], {"do": "restart", "instances": []})
            after = self.processes()
            self.assertEqual(before.keys(), after.keys())
            self.assertNotEqual(before, after)
        seen = self.seen(load)
        self.assertEqual(seen["failures"], [])
        self.assertGreater(seen["count"]["requests"], 20)
        self.assertGreater(seen["count"]["jobs"], 0)
        # The gateway waits as long as the service says again.
        self.assertIn('"hold_ms": 15000', self.alpha.run("cat", "/run/stillframe/demo/gateway.json").stdout)

    def test_what_is_wrong_is_said_before_anything_is_done(self):
        refused = self.act("restart", "s7-g1", code=1).host()
        self.assertEqual(refused["error"], "alpha: demo has no instance s7-g1 that serves")
        self.assertEqual(refused["hint"], f"it has: s0-g{self.place.status()['serving']}")
        self.assertIn("required arguments were not provided", self.place.run("restart", code=2).err)
        already = self.act("start").host()
        self.assertEqual((already["status"], already["error"]), ("succeeded", f"generation {self.place.status()['serving']} of demo serves already"))
        (other := self.place.ws.root / "other").mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", self.place.project / "stillframe.toml", self.place.project / "hosts", other], check=True)
        for words in (("stop",), ("restart", "--all")):
            host = Stream(self.place.ws.stillframe("--json", *words, cwd=other, code=1)).host()
            self.assertRegex(host["error"], rf"^alpha: demo is served for another project, {self.place.project} of tester@\S+; this one is {other} of")
            self.assertIn("--take-over", host["hint"])
        self.assertEqual(self.place.mark(), "good")

    def test_a_stopped_service_answers_nothing_and_starts_as_it_was(self):
        self.place.behave(mark="next")
        generation = self.place.deploy().host()["generation"]
        job = self.post(2.0)
        started = time.monotonic()
        done = self.act("stop")
        self.assertEqual((done.host()["status"], done.host()["generation"]), ("succeeded", None), done.text)
        self.assertGreater(time.monotonic() - started, 1.5, "the job was not waited for")
        self.assertEqual(done.statuses(), ["queued", "draining", "succeeded"])
        self.assertFalse(self.port())
        self.wait(lambda: self.place.units() == {})
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], view["stopped"]["generation"], view["wanted"]), (None, generation, 0))
        text = self.place.run("status").out
        self.assertRegex(text, rf"alpha  demo was stopped by tester@\S+ at \S+Z; generation {generation}, snapshot .* served: stillframe start")
        self.assertIn("alpha  was stopped by tester@", self.place.run("drift").out)
        self.assertEqual(self.kinds()[0], ("stop", "succeeded"))
        again = self.act("stop").host()
        self.assertRegex(again["error"], r"^demo was stopped by tester@\S+ at")
        self.assertEqual(self.act("restart", "--all", code=1).host()["hint"], "start it: stillframe start")
        self.alpha.reboot()
        self.wait(lambda: self.alpha.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip() == "active", 60)
        self.assertFalse(self.port())
        self.assertEqual((self.place.units(), self.place.status(code=0)["serving"]), ({}, None))
        # Not even the files of its state being lost starts it.
        self.alpha.sh("cd /var/lib/stillframe/services/demo && rm state.json state.copy.json")
        self.place.run("host", "repair")
        self.assertEqual(self.place.status(code=0)["stopped"]["generation"], generation)
        done = self.act("start")
        self.assertEqual((done.host()["status"], done.host()["generation"]), ("succeeded", generation), done.text)
        self.assertEqual(self.place.mark(), "next")
        self.only_units_of(generation)
        self.assertEqual(self.kinds()[0], ("start", "succeeded"))
        # Its picture is where it was.
        self.assertEqual(self.place.local("alpha", f"/view?filename=life_{job}.png", "-o", "/dev/null", "-w", "%{http_code}", check=False)[:1] in "24", True)
        self.assertIn("life", self.alpha.run("ls", f"/var/lib/private/stillframe-data/demo/output/s0-g{generation}").stdout)
        # And a rollback goes where it went before.
        self.act("rollback")
        self.assertEqual(self.place.mark(), "good")

    def test_a_deployment_starts_a_stopped_service_and_says_so(self):
        self.act("stop")
        dry = self.place.run("deploy", "--dry-run", "--snapshot", "good").out
        self.assertRegex(dry, r"alpha  starts it, which tester@\S+ stopped at generation \d+")
        self.place.behave(mark="never", start=600)
        self.place.configure(quick=service.QUICK.replace("20s", "2s"), drain="20s")
        failed = self.place.deploy(code=1).host()
        self.assertEqual((failed["status"], failed["generation"]), ("failed", None))
        self.assertIsNotNone(self.place.status(code=0)["stopped"])
        self.assertFalse(self.port())
        self.place.configure(drain="20s")
        self.place.deploy("--snapshot", "good")
        self.assertEqual((self.place.mark(), self.place.status()["stopped"] if "stopped" in self.place.status() else None), ("good", None))

    def test_killed_in_the_middle_it_ends_in_a_defined_state(self):
        generation = self.place.status()["serving"]
        for words in (("restart", "--all"), ("stop",)):
            with self.subTest(words[0]):
                self.post(3.0)
                process = self.place.start("--json", *words)
                self.until(words[0], "finishes what it has")
                self.alpha.run("systemctl", "kill", "--signal=KILL", self.activation())
                out, err, code = wait_process(process)
                host = Stream(type("Done", (), {"code": code, "err": err, "out": out})).host()
                self.assertEqual((code, host["status"], host["generation"]), (1, "interrupted", generation), out + err)
                self.assertEqual(self.place.mark(), "good")
                self.only_units_of(generation)
        for words in (("restart", "--all"), ("stop",)):
            with self.subTest(f"power lost: {words[0]}"):
                self.post(30.0)
                process = self.place.start("--json", *words)
                self.until(words[0], "finishes what it has")
                self.alpha.power_loss()
                process.kill()
                process.communicate()
                self.alpha.boot()
                self.alpha.wait_ready()
                self.wait(lambda: self.port(), 60)
                self.wait(lambda: self.place.status().get("serving") == generation and self.place.status()["ready"] == 1, 60)
                self.assertEqual(self.kinds()[0], (words[0], "interrupted"))

    def test_ctrl_c_leaves_what_served(self):
        for words in (("restart", "--all"), ("stop",)):
            with self.subTest(words[0]):
                self.post(8.0)
                process = self.place.start("--json", *words)
                self.until(words[0], "finishes what it has")
                process.send_signal(signal.SIGINT)
                out, err, code = wait_process(process)
                self.assertEqual(code, 130, out + err)
                self.assertEqual(self.kinds()[0], (words[0], "cancelled"))
                self.assertEqual(self.place.status(code=0)["ready"], 1)
                self.assertEqual(self.place.mark(), "good")


class Owned(Case):
    """Two instances, and the gateway has the queue."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.configure(service=TWO, text=OWNED, drain="20s")
        cls.place.deploy("--label", "good", mark="good")

    def test_jobs_go_on_through_restarts_a_stop_and_a_start(self):
        clients = self.load("jobclients.py", "--clients", "4", "--jobs", "25", "--seconds", "0.5", "--limit", "240")
        time.sleep(2)
        before = self.processes()
        done = self.act("restart", "--all")
        self.assertEqual(done.host()["status"], "succeeded", done.text)
        after = self.processes()
        self.assertEqual({unit: after[unit] != pid for unit, pid in before.items()}, dict.fromkeys(before, True))
        # Of one alone.
        self.act("restart", "s1-g1")
        last = self.processes()
        self.assertEqual([unit for unit in after if after[unit] != last[unit]], ["stillframe-demo-s1-g1.service"])
        stopped = self.act("stop")
        self.assertEqual(stopped.host()["status"], "succeeded", stopped.text)
        self.assertFalse(self.port())
        self.act("start")
        out, _ = clients.communicate(timeout=300)
        seen = json.loads(out)
        self.assertEqual((seen["failures"], len(seen["jobs"])), ([], 100))
        self.assertEqual({job["status"] for job in seen["jobs"].values()}, {"success"})
        files = [name for job in seen["jobs"].values() for name in job["files"]]
        self.assertEqual(len(files), len(set(files)))


class Several(Case):
    """Hosts one after the other."""
    count = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.deploy("--label", "good", mark="good")

    def test_a_failure_stops_the_rest(self):
        done = self.act("restart", "--all")
        order = [e["host"] for e in done.events if e["type"] == "event" and e["event"]["status"] == "succeeded"]
        self.assertEqual((order, done.result["failed"]), (["alpha", "beta"], 0))
        self.assertIn("each host has its own instance s0-g1", self.place.run("restart", "s0-g1", code=2).err)
        # A program that does not come back.
        self.alpha.sh("mv /srv/models /srv/away")
        unit = "stillframe-demo-s0-g1.service"
        self.alpha.sh(f"mkdir -p /run/systemd/system/{unit}.d && printf '[Service]\\nExecStartPre=/bin/false\\n' >/run/systemd/system/{unit}.d/broken.conf && systemctl daemon-reload")
        failed = self.act("restart", "--all", code=1)
        self.assertEqual((failed.host()["status"], failed.host("beta")["status"]), ("failed", "cancelled"), failed.text)
        self.assertIn("not begun: alpha failed", failed.host("beta")["error"])
        self.alpha.sh(f"mv /srv/away /srv/models; rm -r /run/systemd/system/{unit}.d; systemctl daemon-reload")
        self.act("restart", "--all")
        self.assertEqual((self.place.mark("alpha"), self.place.mark("beta")), ("good", "good"))


class Renamed(Case):
    """Another name, with all that is the service's."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.configure(text=OWNED, drain="20s")
        cls.place.deploy("--label", "good", mark="good")
        cls.place.deploy("--label", "next", mark="next")

    def test_all_that_is_its_own_has_the_new_name(self):
        job = self.post(0.1)
        self.wait(lambda: json.loads(self.place.local("alpha", f"/history/{job}")))
        self.assertIn("is no name for a service", self.place.run("rename", "Studio!", "--yes", code=2).err)
        refused = self.place.run("rename", "studio", code=2)
        self.assertIn("alpha  demo finishes what it has and stops, is called studio, and starts as it was", refused.out)
        self.assertEqual(self.place.mark(), "next")
        toml = self.place.project / "stillframe.toml"
        text = toml.read_text()
        done = self.place.run("rename", "studio", "--yes", "--json").json
        self.assertEqual((done["from"], done["to"], done["failed"], done["hosts"][0]["moved"]), ("demo", "studio", 0, True))
        self.assertEqual(toml.read_text(), text.replace('name = "demo"', 'name = "studio"'))
        view = self.place.status(code=0)
        self.assertEqual((view["service"], view["serving"], view["ready"]), ("studio", 2, 1))
        self.assertEqual(self.place.mark(), "next")
        # Its job, its picture, its history, and its way back.
        self.assertIn(job, self.place.local("alpha", f"/history/{job}"))
        self.assertEqual(self.kinds()[:3], [("start", "succeeded"), ("rename", "succeeded"), ("stop", "succeeded")])
        left = self.alpha.sh("find / -xdev \\( -path /proc -o -path /sys -o -path /nix/store -o -path /var/log -o -path /dev \\) -prune -o -name '*demo*' -print; "
                             "find /nix/var /var/lib /run -name '*demo*' -not -path '*/journal/*' -not -path '/run/systemd/units/*'").stdout.split()
        self.assertEqual(left, [])
        self.act("rollback")
        self.assertEqual(self.place.mark(), "good")
        self.alpha.reboot()
        self.wait(lambda: (self.place.status() or {}).get("ready") == 1, 60)
        self.assertEqual(self.place.mark(), "good")
        self.place.deploy("--snapshot", "next")
        # One that was cut off before anything had moved: the state still has the old name.
        self.act("stop")
        begun = json.dumps({"version": 1, "from": "studio", "to": "atelier"})
        self.alpha.sh(f"echo '{begun}' >/var/lib/stillframe/services/.renaming-studio")
        self.alpha.reboot()
        self.wait(lambda: self.alpha.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip() == "active", 60)
        done = self.place.run("rename", "atelier", "--yes", "--json").json
        self.assertEqual((done["hosts"][0]["moved"], done["hosts"][0]["started"]), (False, None))
        self.assertEqual(self.place.status(code=0)["service"], "atelier")
        self.act("start")
        self.assertEqual(self.place.mark(), "next")
        self.act("remove", "--yes", "--data")
        self.assertEqual(self.alpha.sh("ls -A /var/lib/stillframe/services").stdout, "")


if __name__ == "__main__":
    unittest.main()
