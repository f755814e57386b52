"""The number of instances follows the queue, and nothing is lost on the way: from none to three and back, by the gateway's word and a root
program that hears nothing else."""
import json
import subprocess
import sys
import time
from pathlib import Path

import owned
import service
from service import SERVICE
from test_jobs import Jobs, graph

SECONDS = 420
POLICY = 'slots = 3\nscaling = { minimum = 0, maximum = 3, target-waiting = 1, cool-down = "1s", idle = "4s" }'

ASK = """
import os, socket, sys
uid, folder, name, text = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4].encode()
os.chdir(folder)
os.setgroups([]); os.setgid(uid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(name)
try:
    s.sendall(text)
    s.shutdown(socket.SHUT_WR)
except OSError:
    pass
try:
    print(s.makefile().read())
except ConnectionResetError:
    # What was not read of the question takes the answer with it.
    print('{"refused": "cut"}')
"""


class Scaled(Jobs):
    @classmethod
    def setUpClass(cls):
        service.Case.setUpClass.__func__(cls)
        cls.configured()
        cls.place.deploy("--label", "one", mark="one")

    @classmethod
    def configured(cls, policy=POLICY, **more):
        cls.owned = owned.Owned(cls.place, 3)
        cls.place.configure(service=policy, text=owned.OWNED, drain="20s", **more)

    def running(self):
        """The instances' units that systemd has."""
        return sorted(name for name, state in self.place.units().items() if "-s" in name and "-g" in name and state == "active")

    def scaling(self):
        return self.place.status()["scaling"]

    def until_running(self, count, limit=60):
        self.wait(lambda: len(self.running()) == count, limit)

    def ask(self, text, uid=None):
        """What the root program answers, to this user."""
        folder = f"/proc/{self.alpha.pid()}/root/run/stillframe-scalers"
        uid = self.gateway_user() if uid is None else uid
        # Of the host's own processes: another namespace's have no id there.
        enter = ["nsenter", "--target", str(self.alpha.pid()), "--pid", "--"]
        done = subprocess.run([*enter, sys.executable, "-c", ASK, str(uid), folder, SERVICE, text], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def gateway_user(self):
        return int(self.alpha.run("systemctl", "show", "-p", "UID", "--value", "stillframe-demo-gateway.service").stdout)

    def generation(self):
        return self.place.status()["serving"]

    def slot(self, slot, to, **more):
        return json.dumps({"version": 1, "generation": self.generation(), "slot": slot, "to": to, **more}) + "\n"

    def decisions(self):
        log = self.alpha.sh("journalctl -q --no-pager -o cat -t demo-gateway | grep 'scaling: ' || true").stdout
        return [line for line in log.splitlines() if " -> " in line]


class FromNoneToThreeAndBack(Scaled):
    def test_forty_jobs(self):
        # The deployment started one to see that it works; there is nothing to do.
        self.until_running(0)
        self.wait(lambda: self.scaling()["actual"] == 0)
        status = self.place.status(code=0)
        self.assertEqual((status["wanted"], status["instances"], status["scaling"]["actual"]), (0, [], 0))
        self.assertEqual(json.loads(self.place.local("alpha", "/-/ready"))["status"], "ready")
        clients = self.clients("--clients", "4", "--jobs", "10", "--seconds", "1", "--ahead", "10")
        waits = self.wait(lambda: self.waiting_job())
        self.assertIn("an instance", waits["waiting_for"])
        self.assertIsNotNone(waits["position"])
        most = 0
        while clients.poll() is None:
            running = len(self.running())
            self.assertLessEqual(running, 3)
            most = max(most, running)
        self.assertEqual(most, 3)
        seen = self.outcome(clients)
        self.all_ended(seen, 40)
        self.until_running(0, 90)
        # Nothing of them is left, and nothing counts as broken.
        self.wait(lambda: self.place.units() == {
            "stillframe-demo-gateway.service": "active", "stillframe-demo-gateway.socket": "active",
            "stillframe-demo-scaler.service": "active", "stillframe-demo-scaler.socket": "active"})
        self.assertEqual(self.alpha.sh("systemctl list-units --failed --plain --no-legend").stdout, "")
        self.assertEqual(self.place.status(code=0)["ready"], 0)
        # It takes whoever heals things by hand no time to see that they are meant so.
        time.sleep(3)
        self.assertEqual(self.running(), [])
        told = self.decisions()
        self.assertTrue(any("0 -> 1 instances: " in line for line in told), told)
        self.assertTrue(any("1 -> 0 instances: no jobs" in line for line in told), told)
        self.assertFalse([line for line in told if "not done" in line], told)
        freed = self.alpha.sh("journalctl -q --no-pager -o cat | grep -c '^free: '").stdout
        self.assertGreaterEqual(int(freed), 3)
        view = self.scaling()
        self.assertEqual((view["minimum"], view["maximum"], view["wanted"], view["ready"]), (0, 3, 0, 0))
        self.assertGreater(view["wait_p95_ms"], view["wait_p50_ms"])
        self.assertGreaterEqual(len(view["decisions"]), 6)
        page = self.place.inside("alpha", ["curl", "-sS", "http://127.0.0.1:8189/metrics"]).stdout
        for line in ('instances{state="off"} 3', 'instances{state="ready"} 0', "instances_wanted 0", 'job_wait_seconds{quantile="0.95"} '):
            self.assertIn(f"stillframe_gateway_{line}", page)
        ups = next(line for line in page.splitlines() if 'scaling_decisions_total{to="up"}' in line)
        self.assertGreaterEqual(int(ups.split()[-1]), 3)
        # A picture is there for whoever asks, though nothing ran: the request waits for an instance.
        name = next(iter(seen["jobs"].values()))["files"][0]
        self.place.local("alpha", f"/view?filename={name}", "--fail")
        self.assertIn("0 -> 1 instances: 1 requests wait", self.decisions()[-1])

    def waiting_job(self):
        [entry] = self.place.run("jobs", "--state", "queued", "--json").json["hosts"]
        return next((job for job in entry["jobs"] if job.get("waiting_for")), None)


class WhatTheRootProgramHears(Scaled):
    def test_two_sentences_of_one_user(self):
        # Paused, so that nobody else asks.
        self.until_running(0)
        self.place.run("scale", "--pause")
        units = self.place.units()
        state = self.alpha.sh("cat /var/lib/stillframe/services/demo/state.json").stdout
        generation = self.generation()

        def refused(kind, text, **options):
            answer = self.ask(text, **options)
            self.assertIn(answer.get("refused"), (kind, "cut"), answer)

        # Of others nothing is heard: root, the instances' and any other user.
        for uid in (0, 1, 65534, self.gateway_user() + 1):
            refused("caller", self.slot(0, "up"), uid=uid)
        for text in ("", "slot 0 up\n", "{}\n", "[]\n", self.slot(0, "up").strip(), self.slot(0, "restart"), self.slot(-1, "up"), self.slot("0", "up"),
                     self.slot(0, "up", unit="ssh.service"), self.slot(0, "up", version=2), "x" * 100_000 + "\n", "\x01\n",
                     self.slot(0, "up").replace('"up"', '"up;reboot"')):
            refused("malformed", text)
        for other in (generation - 1, generation + 1, 0, 2**63):
            refused("generation", self.slot(0, "up", generation=other))
        for slot in (3, 4, 2**32 - 1):
            refused("bounds", self.slot(slot, "up"))
        self.assertEqual(self.alpha.sh("cat /var/lib/stillframe/services/demo/state.json").stdout, state)
        log = self.alpha.sh("journalctl -q --no-pager -o cat -t demo-scaler").stdout
        for why, count in (("is not the user of stillframe-demo-gateway.service", 4), ("this is no request: ", 13), ("serves, not generation ", 4), ("there is no slot ", 3)):
            self.assertEqual(log.count(why), count, log)
        # But for the program itself, which was started to hear them.
        started = {name: unit for name, unit in self.place.units().items() if "scaler" not in name}
        self.assertEqual(started, {name: unit for name, unit in units.items() if "scaler" not in name})
        # The two sentences, each of them twice.
        for _ in range(2):
            self.assertEqual(self.ask(self.slot(1, "up")), {})
        self.assertEqual(self.running(), [f"stillframe-demo-s1-g{generation}.service"])
        self.wait(lambda: self.place.status()["ready"] == 1)
        for _ in range(2):
            self.assertEqual(self.ask(self.slot(1, "down")), {})
        self.assertEqual(self.running(), [])
        # An operator's bounds hold for the gateway, too.
        self.place.run("scale", "--maximum", "1")
        self.assertEqual(self.ask(self.slot(2, "up")), {})
        refused("bounds", self.slot(0, "up"))
        self.place.run("scale", "--minimum", "1")
        refused("bounds", self.slot(2, "down"))
        self.place.run("scale", "--reset")

    def test_an_instance_with_a_job_stays(self):
        self.until_running(0)
        self.place.run("scale", "--pause")
        self.assertEqual(self.ask(self.slot(0, "up")), {})
        job = self.post(graph(6))["prompt_id"]
        self.wait(lambda: self.get("/prompt")["exec_info"]["queue_remaining"] == 1 and self.place.status()["instances"][0]["queue"])
        self.assertEqual(self.ask(self.slot(0, "down"))["refused"], "occupied")
        self.ended(job)
        self.assertEqual(self.runs()[job], 1)
        self.place.run("scale", "--reset")

    def test_not_while_a_deployment_changes_the_service(self):
        self.place.run("scale", "--reset")
        self.place.behave(mark="slow", start=4)
        deploying = self.place.start("--json", "deploy", "--offline")
        self.wait(lambda: self.alpha.sh("grep -l '\"activating\":true' /var/lib/stillframe/services/demo/lease.json", check=False).stdout)
        answer = self.ask(self.slot(2, "up"))
        self.assertEqual(answer["refused"], "busy", answer)
        self.assertIn("a deploy begun by", answer["why"])
        busy = self.place.run("scale", "--minimum", "1", code=1)
        self.assertIn("scale when it has ended", busy.err)
        out, err, code = service.wait_process(deploying)
        self.assertEqual(code, 0, err)
        self.until_running(0)


class WithoutADeployment(Scaled):
    def test_an_operator_says_otherwise(self):
        self.until_running(0)
        before = self.generation()
        done = self.place.run("scale", "--minimum", "2")
        self.assertIn("minimum 2", done.out)
        self.until_running(2)
        self.wait(lambda: self.place.status(code=0)["ready"] == 2)
        self.assertEqual(self.generation(), before)
        record = self.place.history()[0]
        self.assertEqual((record["kind"], record["events"][0]["text"]), ("scale", "minimum 2"))
        self.assertIn("scale", self.place.run("history").out)
        text = self.place.run("status").out
        self.assertIn("2 instances wanted (2 to 3), 2 there, 2 ready: ", text)
        self.assertIn("back: stillframe scale --reset", text)
        for arguments, why in ((["--minimum", "4"], "4 instances are asked for, and there are 3 slots"),
                               (["--maximum", "1"], "the maximum is 1, below the minimum of 2"),
                               (["--minimum", "0", "--maximum", "0"], "a maximum of 0 lets nothing run")):
            refused = self.place.run("scale", *arguments, code=1)
            self.assertIn(why, refused.err)
        # It outlives a deployment and a start of the host, which begins with the minimum.
        self.place.deploy("--label", "two", mark="two")
        self.wait(lambda: len(self.running()) == 2 and self.place.status()["ready"] == 2)
        self.alpha.reboot()
        self.wait(lambda: len(self.running()) == 2 and self.place.status()["ready"] == 2, 60)
        self.place.run("scale", "--reset")
        self.until_running(0)
        self.place.run("scale", "--pause")
        self.assertEqual(self.ask(self.slot(2, "up")), {})
        self.alpha.reboot()
        # Of the configuration now: none. A job waits, because it is paused, and runs when that is over.
        self.wait(lambda: self.place.status().get("scaling"), 60)
        self.assertEqual(self.running(), [])
        job = self.post(graph(0.1))["prompt_id"]
        time.sleep(2)
        shown = self.place.run("jobs", "show", job).out
        self.assertIn("waits for an instance, and none is started: paused by", shown)
        self.place.run("scale", "--resume")
        self.ended(job)

    def test_a_fixed_number_is_told_so(self):
        self.configured("slots = 2")
        self.place.deploy("--label", "fixed", mark="fixed")
        self.assertEqual(len(self.running()), 2)
        self.assertNotIn("scaling", self.place.status(code=0))
        self.assertFalse([name for name in self.place.units() if "scaler" in name])
        refused = self.place.run("scale", "--minimum", "1", code=1)
        self.assertIn("demo has 2 instances always", refused.err)
        self.configured()
        self.place.deploy("--label", "again", mark="again")
        self.until_running(0)
