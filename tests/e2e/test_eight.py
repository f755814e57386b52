"""Eight hosts, and one of them is bad: a rollout stops there, every host serves what the records say, and once the host is mended the same
command, `--resume` and `--catch-up` bring the fleet to one snapshot."""
import signal

import service
from harness import in_order
from service import SERVICE, Stream

SECONDS = 200

#: In the order of their names, as a rollout takes them: alone, then three by three.
STAGES = [["alpha"], ["beta", "delta", "epsilon"], ["eta", "gamma", "theta"], ["zeta"]]
BAD = "gamma"
#: Whatever generation is started there, it ends at once: a host whose driver or disk is broken.
BROKEN = f"/etc/systemd/system/stillframe-{SERVICE}-s0-.service.d"


class Eight(service.Good):
    count = 8

    def setUp(self):
        super().setUp()
        self.place.configure("[rollout]\ncanary = 1\nbatch = 3")
        self.names = [name for stage in STAGES for name in stage]

    def marks(self):
        return {name: self.place.mark(name) for name in self.names}

    def spoil(self, seconds=0):
        unit = f"[Service]\nExecStartPre=/bin/sh -c 'sleep {seconds}; false'\n"
        self.hosts[BAD].sh(f"mkdir -p {BROKEN}; cat >{BROKEN}/bad.conf; systemctl daemon-reload", input=unit)

    def mend(self):
        self.hosts[BAD].sh(f"rm -r {BROKEN}; systemctl daemon-reload")

    def newest(self, host):
        """What the host's own records of the newest deployment say, newest first."""
        records = self.place.history(host)
        return [(r["kind"], r["events"][-1]["status"]) for r in records if r["deployment"] == records[0]["deployment"]]

    def test_a_bad_host_among_eight(self):
        in_order(self, self.the_second_batch_has_a_bad_host, self.mended_it_takes_the_same_snapshot, self.a_rollout_that_died_there_is_resumed,
                 self.a_host_that_was_down_catches_up)

    def the_second_batch_has_a_bad_host(self):
        self.assertEqual(set(self.marks().values()), {"good"})
        serving = {name: self.place.status(name)["serving"] for name in self.names}
        self.spoil()
        done = self.place.deploy("--label", "eight", code=1, mark="eight")
        wanted = dict.fromkeys(self.names, "reverted") | {BAD: "failed", "zeta": "cancelled"}
        self.assertEqual({h["host"]: h["status"] for h in done.result["hosts"]}, wanted)
        self.assertEqual({h["host"]: h["changed"] for h in done.result["hosts"]}, dict.fromkeys(self.names, False))
        self.assertRegex(done.host("zeta")["error"], f"^not begun: {BAD} failed: ")
        self.assertRegex(done.host("alpha")["error"], f"^taken back: {BAD} failed: ")
        # A stage begins when the one before it has ended everywhere.
        at = {"starting": {}, "outcome": {}}
        for event in done.events:
            if event["type"] == "event":
                step = "outcome" if event["event"].get("outcome") else event["event"]["status"]
                at.setdefault(step, {}).setdefault(event["host"], event["event"]["at"])
        for before, after in zip(STAGES, STAGES[1:3]):
            self.assertGreaterEqual(min(at["starting"][h] for h in after), max(at["outcome"][h] for h in before))
        # What serves, by the public port, by the hosts' state and by their records.
        self.assertEqual(set(self.marks().values()), {"good"})
        self.assertEqual({name: self.place.status(name)["serving"] for name in self.names}, serving)
        self.assertEqual(self.newest("alpha"), [("take-back", "reverted"), ("deploy", "succeeded")])
        self.assertEqual(self.newest("theta"), [("take-back", "reverted"), ("deploy", "succeeded")])
        self.assertEqual((self.newest(BAD), self.newest("zeta")), ([("deploy", "failed")], [("deploy", "cancelled")]))
        merged = self.place.run("history", "--json", "-n", "1").json["deployments"][0]
        self.assertEqual((merged["deployment"], len(merged["hosts"])), (done.result["deployment"], 8))
        # It has ended: there is nothing to go on with.
        self.assertIn("was brought to its end", self.place.run("deploy", "--resume", code=2).err)

    def mended_it_takes_the_same_snapshot(self):
        self.mend()
        # A login that may have few files open: the program takes what it may have.
        usual = self.place.ws.prefix
        self.place.ws.prefix = [*usual, "prlimit", "--nofile=48:4096", "--"]
        self.addCleanup(setattr, self.place.ws, "prefix", usual)
        done = self.place.deploy("--snapshot", "eight")
        self.place.ws.prefix = usual
        self.assertEqual({h["status"] for h in done.result["hosts"]}, {"succeeded"})
        self.assertEqual(set(self.marks().values()), {"eight"})
        # Its paths were all there since the deployment that failed.
        self.assertEqual({e["sent"]["paths"] for e in done.events if e["type"] == "copied"}, {0})

    def a_rollout_that_died_there_is_resumed(self):
        # It is long enough at it to be seen there.
        self.spoil(5)
        self.place.behave(mark="resumed")
        process = self.place.start("--json", "deploy", "--offline")
        self.wait(lambda: self.place.status(BAD)["activating"], 90)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.wait(lambda: self.newest(BAD) == [("deploy", "failed")], 60)
        # The hosts before it have gone on by themselves; nobody has taken them back, and nobody has begun the last.
        marks = self.marks()
        self.assertEqual((marks["alpha"], marks[BAD], marks["zeta"]), ("resumed", "eight", "eight"))
        self.mend()
        done = Stream(self.place.run("--json", "deploy", "--resume", timeout=200))
        self.assertEqual({h["status"] for h in done.result["hosts"]}, {"succeeded"}, done.text)
        self.assertEqual(set(self.marks().values()), {"resumed"})
        self.assertEqual(self.newest(BAD), [("deploy", "succeeded"), ("deploy", "failed")])

    def a_host_that_was_down_catches_up(self):
        bad = self.hosts[BAD]
        bad.network(False)
        self.addCleanup(bad.network, True)
        done = self.place.deploy(code=3, mark="without one")
        self.assertEqual({h["host"] for h in done.result["hosts"] if h["status"] != "succeeded"}, {BAD})
        bad.network(True)
        drift = self.place.run("drift", "--json", code=1).json
        self.assertEqual(([h["host"] for h in drift["hosts"] if h["state"] != "as-wanted"], drift["drifted"]), ([BAD], 1))
        again = Stream(self.place.run("--json", "deploy", "--catch-up"))
        self.assertEqual([(h["host"], h["status"]) for h in again.result["hosts"]], [(BAD, "succeeded")])
        self.assertEqual(set(self.marks().values()), {"without one"})
        self.assertEqual(self.place.run("drift", "--json").json["drifted"], 0)
