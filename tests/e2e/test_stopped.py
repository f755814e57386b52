"""A user who stops the run, at any moment, and two runs at once: nothing half-written, and a next run that ends where an undisturbed one
would have."""
import json
import os
import random
import re
import signal
import subprocess
import time
import unittest
from pathlib import Path

import harness
from small import server, write
from test_bad_store import Store

SECONDS = 100
ALONE = True

INTERRUPTED = """\
stopping at the next safe point; once more to stop at once
error: interrupted
  hint: run the same command again: it goes on from what is done"""


class Stopped(Store):
    """The user's Ctrl-C, and two runs at once."""

    def interrupted(self, moments, how, allowed):
        """A run on a fresh workstation for each moment (a share of an undisturbed run's time), then what is left
        must be as good as nothing or all."""
        started = time.monotonic()
        wanted = self.undisturbed()
        whole = time.monotonic() - started
        codes = []
        for moment in moments:
            with self.subTest(f"after {moment:.2f} of {whole:.2f} s"), harness.Workstation("sf-bad-stop-") as station:
                self.station = station
                before = harness.tree_state(self.place)
                process = self.background("snapshot", self.env.root)
                time.sleep(moment * whole)
                if how == signal.SIGINT:
                    # A terminal tells the whole group.
                    os.killpg(process.pid, how)
                else:
                    process.send_signal(how)
                _, err = process.communicate(timeout=60)
                codes.append(process.returncode)
                self.assertIn(process.returncode, (0, allowed))
                if process.returncode == 130 and "stopping" in err:
                    # How far a stage is, every three seconds: one may come due before the safe point.
                    said = [line for line in err.splitlines() if not re.match(r"[a-z ]+: [^:]+ of [^:]+ left$", line)]
                    self.assertEqual("\n".join(said), INTERRUPTED)
                if process.returncode:
                    self.nothing_taken()
                self.assertEqual(before, harness.tree_state(self.place))
                self.assertEqual(self.snapshot(self.env).json["snapshot"], wanted)
                self.store_is_sound()
                self.assertEqual([p.name for p in (station.root / "cache").rglob("*.tmp")], [])
        return codes

    def test_ctrl_c_at_any_moment(self):
        rolls = random.Random(20)
        codes = self.interrupted(sorted(rolls.uniform(0.1, 0.9) for _ in range(7)), signal.SIGINT, 130)
        self.assertGreaterEqual(codes.count(130), 2, codes)

    def test_killed_at_any_moment(self):
        rolls = random.Random(21)
        codes = self.interrupted([rolls.uniform(0.1, 0.9) for _ in range(3)], signal.SIGKILL, -9)
        self.assertIn(-9, codes)

    def test_a_second_ctrl_c_ends_at_once(self):
        write(self.env.pack / "more.bin", random.Random(4).randbytes(200 << 20))
        process = self.background("snapshot", self.env.root)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(err, "stopping at the next safe point; once more to stop at once\n")
        self.goes_on()

    def servers(self):
        """Processes that run something of this workstation's scratch folders."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(bytes(self.station.root) + b"/") and word.endswith(b"/main/main.py") for word in words):
                found.append(int(process.name))
        return found

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not (value := condition()):
            self.assertLess(time.monotonic(), deadline, "waited in vain")
            time.sleep(0.01)
        return value

    def scratch(self):
        """What runs leave in the cache while they go on: none may be left afterwards."""
        cache = self.station.root / "cache" / "stillframe"
        return [p.name for p in cache.iterdir() if p.name.startswith(("probe-", "verify-"))] if cache.exists() else []

    SERVER = server('{"Node": {"python_module": "custom_nodes.first-pack"}}')

    def probes(self):
        """A server that answers: the run that goes on after one that did not."""
        write(self.env.root / "main.py", self.SERVER)
        taken = self.snapshot_probed().json
        self.assertEqual(taken["probe"]["classes"], {"Node": "custom_nodes.first-pack"})
        self.assertEqual((self.servers(), self.scratch()), ([], []))

    def snapshot_probed(self, code=0, *arguments):
        return self.run_it("snapshot", "--probe", "--json", self.env.root, *arguments, code=code)

    def test_ctrl_c_while_the_server_is_probed(self):
        write(self.env.root / "main.py", "import time\ntime.sleep(600)\n")
        process = self.background("snapshot", "--probe", self.env.root)
        self.wait_for(self.servers)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        self.says(err, INTERRUPTED)
        self.assertEqual((self.servers(), self.scratch()), ([], []))
        self.taken_without_classes()
        self.probes()

    def test_a_probe_that_is_killed_takes_its_server_with_it(self):
        write(self.env.root / "main.py", "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n")
        process = self.background("snapshot", "--probe", self.env.root)
        self.wait_for(self.servers)
        process.kill()
        process.communicate()
        self.wait_for(lambda: not self.servers())
        self.assertEqual(len(self.scratch()), 1)
        self.taken_without_classes()
        self.probes()

    def taken_without_classes(self):
        """A snapshot is registered before the server is started: how that ends takes nothing of it away."""
        listed = self.run_it("snapshots", "list", "--json").json["snapshots"]
        self.assertEqual(len(listed), 1)
        self.assertIsNone(self.run_it("snapshots", "show", "--json").json["record"].get("probe"))

    def test_a_server_that_dies_or_never_answers(self):
        config = write(self.env.root / "stillframe.toml", "[probe]\ntimeout = 1\n")
        write(self.env.root / "main.py", "raise SystemExit('no such thing')\n")
        taken = self.snapshot_probed()
        (message,) = [f[3] for f in self.findings(taken) if f[1] == "probe"]
        self.says(message.replace("\n", " | "), "no node classes are known, and deployments cannot compare them: the server ended before it answered: exit status: 1; "
                                                 "the end of its log: |     no such thing{{.*}}")
        self.taken_without_classes()
        said = self.run_it("snapshot", "--probe", self.env.root).err
        self.assertIn("no such thing", said)
        # What would help is a line to paste: this machine may have no GPU.
        if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")) and not list(Path("/dev").glob("dri/renderD*")):
            self.assertIn('[probe]\n    arguments = ["--cpu"]', said)
        write(self.env.root / "main.py", "import sys, time\nprint('asleep', sys.argv[-1], flush=True)\ntime.sleep(600)\n")
        write(self.env.root / "stillframe.toml", '[probe]\ntimeout = 1\narguments = ["--cpu"]\n')
        said = self.run_it("snapshot", "--probe", self.env.root).err
        self.assertRegex(said, r"/system_stats did not answer within 1 s")
        self.assertIn("asleep --cpu", said)
        self.assertNotIn("has no GPU", said)
        self.assertEqual((self.servers(), self.scratch()), ([], []))
        config.unlink()
        self.probes()

    def test_ctrl_c_while_a_snapshot_is_verified(self):
        write(self.env.pack / "more.bin", random.Random(5).randbytes(200 << 20))
        self.snapshot(self.env)
        for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            process = self.background("snapshots", "verify")
            store = self.station.root / "cache" / "stillframe"
            self.wait_for(lambda: list(store.glob("verify-*/nix/store/*")))
            process.send_signal(how)
            _, err = process.communicate(timeout=30)
            self.assertEqual(process.returncode, code)
            if code == 130:
                self.says(err, INTERRUPTED)
                self.assertEqual(self.scratch(), [])
        self.assertEqual(len(self.scratch()), 1)
        self.assertIn(" verified: ", self.run_it("snapshots", "verify").out)
        self.assertEqual(self.scratch(), [])

    def test_ctrl_c_before_a_served_snapshot_is_ready(self):
        write(self.env.root / "main.py", "import time\ntime.sleep(600)\n")
        self.snapshot(self.env)
        for how, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
            command = self.station.inside_command([harness.BINARY, "run"])
            process = subprocess.Popen(command, env=self.station.environment(NIX_REMOTE=None), cwd="/", stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.station.processes.append(process)
            self.wait_for(self.servers)
            process.send_signal(how)
            out, err = process.communicate(timeout=30)
            self.assertEqual((process.returncode, out), (code, ""))
            # A server that dies with its parent while its interpreter begins may say what it misses.
            if how == signal.SIGINT:
                self.assertEqual(err, "")
            self.wait_for(lambda: not self.servers())
        # The killed one's slot was swept by the second, whose own is gone too.
        self.assertEqual(list((self.station.root / "state").rglob("slot-*")), [])

    def first_holds(self):
        """A first run that has taken the lock."""
        first = self.background("snapshot", "--json", self.env.root)
        lock = self.station.root / "state" / "stillframe" / "lock"
        while not (lock.exists() and lock.read_text()):
            time.sleep(0.005)
        return first

    def waiting_for(self, first):
        return f"waiting for stillframe snapshot of {self.env.root} (pid {first.pid}, since {{{{\\d{{4}}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ}}}})"

    def test_two_at_once(self):
        write(self.env.pack / "more.bin", random.Random(4).randbytes(100 << 20))
        first = self.first_holds()
        second = self.background("snapshot", "--json", self.env.root)
        (out1, err1), (out2, err2) = first.communicate(timeout=120), second.communicate(timeout=120)
        self.assertEqual((first.returncode, second.returncode), (0, 0), err1 + err2)
        self.assertEqual(err1, "")
        self.says(err2, self.waiting_for(first))
        one, two = json.loads(out1), json.loads(out2)
        self.assertEqual(one["snapshot"], two["snapshot"])
        self.assertEqual((one["unchanged"], two["unchanged"]), (False, True))
        self.goes_on()

    def test_who_waits_can_be_stopped(self):
        write(self.env.pack / "more.bin", random.Random(4).randbytes(200 << 20))
        first = self.first_holds()
        second = self.background("inspect", self.env.root)
        line = second.stderr.readline()
        self.says(line, self.waiting_for(first))
        second.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, err = second.communicate(timeout=20)
        self.assertLess(time.monotonic() - started, 1)
        self.assertIsNone(first.poll(), "the first run ended too soon to prove anything")
        self.assertEqual(second.returncode, 130)
        self.assertEqual(err, """\
stopping at the next safe point; once more to stop at once
error: interrupted
  hint: run the same command again: it goes on from what is done
""")
        self.assertEqual(first.wait(timeout=120), 0)
        first.communicate()


if __name__ == "__main__":
    unittest.main()
