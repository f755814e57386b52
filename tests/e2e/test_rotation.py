"""A hundred rotations under steady mixed load: no request fails, and no WebSocket is cut before its drain limit. ROTATIONS=10 for a
quick look."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import service
from service import Stream

SECONDS = 400
ALONE = True

ROTATIONS = int(os.environ.get("ROTATIONS", "100"))
DRAIN = 1.0


class Rotation(service.Case):
    def load(self, url="http://127.0.0.1:8188", *arguments):
        command = ["ip", "netns", "exec", self.alpha.netns, sys.executable, Path(__file__).with_name("load.py"), url, *arguments]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def seen(self, process):
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        return json.loads(out)

    def test_rotations_under_load(self):
        self.place.configure(drain=f"{DRAIN:.0f}s")
        labels = ["red", "blue"]
        for label in labels:
            self.place.snapshot(label, mark=label)
        self.place.deploy("--snapshot", "red")
        process = self.load()
        self.wait(lambda: len(self.alpha.run("ss", "-tn", "state", "established", "sport", "=", ":8188").stdout.splitlines()) > 50)
        swaps = []
        for number in range(ROTATIONS):
            done = self.place.deploy("--snapshot", labels[(number + 1) % 2])
            self.assertEqual(done.host()["status"], "succeeded", done.text[-2000:])
            swaps += [e["event"]["at"] / 1000 for e in done.events if e["type"] == "event" and e["event"]["status"] == "rotating"]
        seen = self.seen(process)
        self.assertEqual(seen["failures"], [])
        self.assertEqual(len(swaps), ROTATIONS)
        early = [(cut, opened) for cut, opened, _ in seen["cuts"]
                 # The step is written down a moment before the table changes.
                 if not any(opened < swap + 0.2 and swap + DRAIN <= cut for swap in swaps)]
        self.assertEqual(early, [])
        self.assertEqual(seen["marks"], ["blue", "red"])
        for what, least in (("requests", 20), ("uploads", 1), ("jobs", 0.5), ("messages", 50)):
            self.assertGreater(seen["count"][what], least * ROTATIONS / 2, seen["count"])
        # Each socket is cut by each rotation at most, and comes back.
        self.assertLessEqual(len(seen["cuts"]), 50 * ROTATIONS)
        print(f"{ROTATIONS} rotations: {seen['count']}, {len(seen['cuts'])} sockets cut at the limit", file=sys.stderr)

    def lost(self, rotations, **environment):
        """Failed requests over so many rotations, without WebSockets, which would hold the old instance until the drain limit: it is
        stopped as soon as nothing is counted on it."""
        self.place.configure(drain=f"{DRAIN:.0f}s")
        labels = ["red", "blue"]
        for label in labels:
            self.place.snapshot(label, mark=label)
        self.place.run("--json", "deploy", "--snapshot", "red", "--again", **environment)
        # An upload takes longer than what is between the traffic's move and the end of the old instance. No jobs: a result is its
        # instance's, and is gone when that one ends between two of the client's questions.
        process = self.load("http://127.0.0.1:8188", "--sockets", "0", "--jobs", "0", "--uploads", "8", "--pace", "0.06")
        self.wait(lambda: len(self.alpha.run("ss", "-tn", "state", "established", "sport", "=", ":8188").stdout.splitlines()) > 5)
        for number in range(rotations):
            self.place.run("--json", "deploy", "--snapshot", labels[(number + 1) % 2], code=None, **environment)
        seen = self.seen(process)
        self.assertGreater(seen["count"]["uploads"] + len(seen["failures"]), rotations)
        return seen["failures"]

    def test_without_sockets_and_without_the_claim_lock(self):
        """With the lock nothing is lost; an agent that counts a request only when its answer begins loses some, and this sees it."""
        self.assertEqual(self.lost(max(8, ROTATIONS // 4)), [])
        subprocess.run(["make", "fault-agent"], cwd=service.harness.ROOT, check=True, capture_output=True)
        self.assertNotEqual(self.lost(8, STILLFRAME_AGENT=str(service.harness.TARGET / "fault" / "stillframe-agent")), [])

    def test_the_gateway_restarts_and_is_upgraded_under_load(self):
        self.place.configure(drain="3s")
        self.place.snapshot("green", mark="green")
        self.place.deploy("--snapshot", "green", "--again")
        process = self.load("http://127.0.0.1:8188", "--sockets", "10", "--jobs", "0", "--kept-may-end")
        self.wait(lambda: len(self.alpha.run("ss", "-tn", "state", "established", "sport", "=", ":8188").stdout.splitlines()) > 10)
        first = self.alpha.run("systemctl", "show", "-p", "MainPID", "--value", "stillframe-demo-gateway.service").stdout.strip()
        # Another version of the agent: the same program with a byte more.
        other = self.place.ws.root / "other-agent"
        other.write_bytes(service.harness.AGENT.read_bytes() + b"\0")
        other.chmod(0o755)
        done = Stream(self.place.run("--json", "deploy", "--snapshot", "green", STILLFRAME_AGENT=str(other)))
        self.assertEqual(done.host()["status"], "succeeded")
        second = self.alpha.run("systemctl", "show", "-p", "MainPID", "--value", "stillframe-demo-gateway.service").stdout.strip()
        self.assertNotEqual(first, second)
        exe = self.alpha.run("readlink", f"/proc/{second}/exe").stdout.strip()
        self.assertEqual(exe, self.alpha.run("readlink", "/var/lib/stillframe/agent").stdout.strip() + "/bin/stillframe-agent")
        self.assertEqual(self.seen(process)["failures"], [])
        process = self.load("http://127.0.0.1:8188", "--sockets", "0", "--jobs", "0", "--uploads", "0", "--requests", "4", "--kept-may-end")
        for _ in range(5):
            self.alpha.run("systemctl", "restart", "stillframe-demo-gateway.service")
        seen = self.seen(process)
        self.assertEqual(seen["failures"], [])
        self.assertEqual(self.place.mark(), "green")
