"""Several hosts: first one, then the others; what fails is taken back everywhere; a host that is down holds nobody back."""
import json
import subprocess
import sys

import service
from harness import in_order
from service import Stream

SECONDS = 190


class Fleet(service.Good):
    count = 3

    def setUp(self):
        super().setUp()
        for host in self.hosts.hosts:
            self.place.describe(host.name, tags=["first"] if host.name == "alpha" else ["later"])

    def marks(self):
        return [self.place.mark(h.name) for h in self.hosts.hosts]

    def test_a_fleet_from_its_first_deployment_to_a_binary_cache(self):
        in_order(self, self.all_of_them_one_after_another, self.what_fails_later_is_taken_back_where_it_went_well,
                 self.a_host_whose_line_was_cut_is_taken_back_too, self.a_rollout_whose_workstation_died_goes_on, self.the_first_fails_and_the_others_are_not_begun, self.a_host_that_is_down_is_named_and_the_others_go_on,
                 self.selectors_and_what_a_dry_run_shows, self.the_workstation_knows_who_serves_what,
                 self.a_binary_cache_is_the_source)

    def all_of_them_one_after_another(self):
        done = self.place.deploy(mark="all")
        self.assertEqual(self.marks(), ["all"] * 3)
        self.assertEqual({h["status"] for h in done.result["hosts"]}, {"succeeded"})
        swaps = [(e["event"]["at"], e["host"]) for e in done.events if e["type"] == "event" and e["event"]["status"] == "rotating"]
        ends = {e["host"]: e["event"]["at"] for e in done.events if e["type"] == "event" and e["event"].get("outcome")}
        first = min(swaps)[1]
        # The others begin when the first has succeeded.
        starts = {e["host"]: e["event"]["at"] for e in reversed(done.events) if e["type"] == "event" and e["event"]["status"] == "starting"}
        self.assertTrue(all(at >= ends[first] for host, at in starts.items() if host != first), (starts, ends))

    def what_fails_later_is_taken_back_where_it_went_well(self):
        before = self.marks()
        views = [self.place.status(h.name)["serving"] for h in self.hosts.hosts]
        # Only gamma has this folder's program: its health check never passes there.
        self.place.describe("gamma", tags=["later"], service={"health": {"path": "/nothing-here", "deadline": "2s"}})
        done = self.place.deploy(code=1, mark="half")
        statuses = {h["host"]: (h["status"], h["generation"]) for h in done.result["hosts"]}
        self.assertEqual(statuses, {"alpha": ("reverted", views[0]), "beta": ("reverted", views[1]), "gamma": ("failed", views[2])})
        self.assertEqual(done.host("alpha")["error"][:36], "taken back: gamma failed: stillframe")
        self.assertEqual(self.marks(), before)
        records = self.place.history("alpha")
        self.assertEqual([(r["kind"], r["events"][-1]["status"]) for r in records[:2]], [("take-back", "reverted"), ("deploy", "succeeded")])
        self.assertEqual(records[0]["deployment"], records[1]["deployment"])
        # As if it had never been: a rollback goes where it would have gone.
        good = Stream(self.place.run("--json", "rollback", "--hosts", "alpha"))
        self.assertEqual((good.host()["status"], self.place.mark("alpha")), ("succeeded", "good"))
        self.place.run("--json", "rollback", "--hosts", "alpha")

    def a_host_whose_line_was_cut_is_taken_back_too(self):
        before = self.marks()
        self.place.describe("gamma", tags=["later"], service={"health": {"path": "/nothing-here", "deadline": "12s"}})
        self.place.behave(mark="cut")
        process = self.place.start("--json", "deploy", "--offline")
        self.wait(lambda: self.place.mark("beta") == "cut" and self.place.status("beta")["deployment"])
        self.hosts["beta"].sh("pkill -KILL -f 'sshd-session: root' || pkill -KILL sshd-session", check=False)
        out, err, code = service.wait_process(process)
        self.assertEqual(code, 1, out + err)
        hosts = {h["host"]: (h["status"], h["changed"]) for h in json.loads(out.splitlines()[-1])["hosts"]}
        self.assertEqual(hosts, {"alpha": ("reverted", False), "beta": ("reverted", False), "gamma": ("failed", False)})
        self.assertEqual(self.marks(), before)
        records = self.place.history("beta")
        self.assertEqual([(r["kind"], r["events"][-1]["status"]) for r in records[:2]], [("take-back", "reverted"), ("deploy", "succeeded")])

    def a_rollout_whose_workstation_died_goes_on(self):
        self.place.configure("[rollout]\nbatch = 1")
        self.place.behave(mark="resumed", start=4)
        process = self.place.start("--json", "deploy", "--offline")
        self.wait(lambda: self.place.mark("alpha") == "resumed" and (self.place.status("beta")["activating"]
                                                                     or self.place.status("gamma")["activating"]), 60)
        refused = self.place.run("deploy", "--resume", code=1).err
        self.assertRegex(refused, r"^error: 20\S+ is under way here\n")
        process.kill()
        process.communicate()
        alpha = self.place.status("alpha")["serving"]
        done = Stream(self.place.run("--json", "deploy", "--resume", timeout=200))
        self.assertEqual({h["status"] for h in done.result["hosts"]}, {"succeeded"}, done.text)
        self.assertEqual((self.marks(), self.place.status("alpha")["serving"]), (["resumed"] * 3, alpha))
        records = self.place.history("gamma")
        self.assertEqual(records[0]["deployment"], done.result["deployment"])
        over = self.place.run("deploy", "--resume", code=2).err
        self.assertIn("was brought to its end", over)

    def the_first_fails_and_the_others_are_not_begun(self):
        before = self.marks()
        done = self.place.deploy(code=1, mark="bad", start="exit")
        self.assertEqual({h["host"]: h["status"] for h in done.result["hosts"]}, {"alpha": "failed", "beta": "cancelled", "gamma": "cancelled"})
        self.assertRegex(done.host("beta")["error"], "^not begun: alpha failed: ")
        self.assertEqual(self.place.history("beta")[0]["events"][-1]["status"], "cancelled")
        self.assertEqual(self.marks(), before)

    def a_host_that_is_down_is_named_and_the_others_go_on(self):
        beta = self.hosts["beta"]
        beta.network(False)
        try:
            done = self.place.deploy(code=3, mark="without beta")
        finally:
            beta.network(True)
        self.assertEqual({h["host"]: h["status"] for h in done.result["hosts"]}, {"alpha": "succeeded", "beta": "failed", "gamma": "succeeded"})
        self.assertRegex(done.host("beta")["error"], "^beta: cannot connect to beta: ")
        named = next(i for i, e in enumerate(done.events) if e["type"] == "unavailable")
        # Before anybody's traffic moves, and nobody's copy waited for it.
        self.assertLess(named, next(i for i, e in enumerate(done.events) if e["type"] == "event" and e["event"]["status"] == "starting"))
        self.assertEqual([self.place.mark("alpha"), self.place.mark("gamma")], ["without beta"] * 2)
        drift = self.place.run("drift", "--json", code=1).json
        states = {h["host"]: h["state"] for h in drift["hosts"]}
        self.assertEqual((states, drift["drifted"]), ({"alpha": "as-wanted", "beta": "other", "gamma": "as-wanted"}, 1))
        self.assertRegex(drift["hosts"][1]["why"], "^it was not reached: beta: cannot connect to beta: ")
        self.assertRegex(self.place.run("drift", code=1).out, r"beta  serves \w+, should serve \w+: it was not reached: (?s:.*)stillframe deploy --catch-up")
        again = Stream(self.place.run("--json", "deploy", "--catch-up"))
        self.assertEqual([(h["host"], h["status"]) for h in again.result["hosts"]], [("beta", "succeeded")])
        self.assertEqual(self.place.mark("beta"), "without beta")
        self.assertEqual(self.place.run("drift", "--json").json["drifted"], 0)
        none = self.place.run("deploy", "--catch-up", code=2).err
        self.assertIn("error: no host that answers serves something else than it should\n", none)
        beta.network(False)
        self.place.configure('[rollout]\nmax-unavailable = 0')
        try:
            self.place.snapshot("none-at-all", mark="none at all")
            done = self.place.deploy("--snapshot", "none-at-all", code=1)
            ahead = self.place.deploy(code=1, mark="not even taken")
        finally:
            beta.network(True)
        few = "1 of 3 hosts cannot be deployed to; at most 0 may be missing ([rollout] max-unavailable)"
        self.assertEqual(done.host("alpha")["error"], f"alpha: {few}")
        # Before a capture, which takes a while, they are looked at once.
        self.assertEqual([e.get("type", "error") for e in ahead.events], ["unavailable", "error"])
        self.assertEqual(ahead.events[1]["error"]["message"], few)
        self.assertEqual(self.marks(), ["without beta"] * 3)

    def selectors_and_what_a_dry_run_shows(self):
        before = self.marks()
        self.place.behave(mark="planned")
        done = Stream(self.place.run("--json", "deploy", "--offline", "--dry-run", "--hosts", "@later,!gamma"))
        plan = [e for e in done.events if e["type"] == "plan"]
        self.assertEqual([p["host"] for p in plan], ["beta"])
        self.assertGreater(plan[0]["missing_paths"], 0)
        self.assertEqual(plan[0]["serving"]["generation"], self.place.status("beta")["serving"])
        self.assertIn("changed main program main program", plan[0]["changes"][0])
        text = self.place.run("deploy", "--offline", "--dry-run").out
        self.assertRegex(text, r"alpha  from generation \d+; \d+ of \d+ paths to copy, .*; 1 instance on CPU, 127.0.0.1:8188, new beside old")
        self.assertEqual(self.marks(), before)
        self.assertEqual(self.place.history("beta")[0]["events"][-1]["status"], "succeeded")
        self.place.deploy("--hosts", "beta")
        self.assertEqual(self.place.mark("beta"), "planned")
        number = self.place.run("rollback", "1", code=2).err
        self.assertEqual(number, "error: each host has its own generation 1\n  hint: name one host with --hosts, or name the snapshot: "
                                 "every host has its own number for it\n")

    def the_workstation_knows_who_serves_what(self):
        self.place.deploy("--label", "served", mark="served")
        refused = self.place.run("snapshots", "remove", "served", code=2).err
        self.assertRegex(refused, r"snapshot \w+ is served by alpha \(demo\), beta \(demo\), gamma \(demo\)")
        self.place.run("rollback")
        self.place.run("snapshots", "remove", "served")
        # The hosts have it still.
        self.place.run("rollback")
        self.assertEqual(self.marks(), ["served"] * 3)
        merged = self.place.run("history", "--json", "-n", "1").json["deployments"]
        self.assertEqual((len(merged), [h["host"] for h in merged[0]["hosts"]]), (1, ["alpha", "beta", "gamma"]))

    def a_binary_cache_is_the_source(self):
        cache = self.place.ws.root / "cache-dir"
        taken = self.place.snapshot(mark="from the cache")
        self.place.ws.nix("nix", "--extra-experimental-features", "nix-command", "copy", "--to", f"file://{cache}?compression=zstd", taken["snapshot"])
        http = subprocess.Popen([*map(str, self.hosts.client_command()), sys.executable, "-m", "http.server", "--bind", "10.77.0.1", "--directory", str(cache), "8080"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(http.wait)
        self.addCleanup(http.terminate)
        self.wait(lambda: self.place.client("curl", "-s", "--noproxy", "*", "http://10.77.0.1:8080/nix-cache-info", check=False).stdout)
        self.place.configure('[ship]\ncache = "http://10.77.0.1:8080"')
        done = self.place.deploy("--snapshot", taken["id"])
        copied = {e["host"]: e["sent"]["paths"] for e in done.events if e["type"] == "copied"}
        self.assertEqual(copied, {"alpha": 0, "beta": 0, "gamma": 0})
        self.assertEqual(self.marks(), ["from the cache"] * 3)
        self.assertIn("copying from http://10.77.0.1:8080", json.dumps(self.place.history("gamma")[0]))
        self.place.configure('[ship]\ncache = "http://10.77.0.1:8081"')
        self.place.behave(mark="no cache")
        failed = self.place.deploy(code=1)
        self.assertRegex(failed.host("beta")["error"], r"^beta: cannot copy /nix/store/\S+ from http://10.77.0.1:8081: ")
        self.assertIn("nix copy --to URL PATH", failed.host("beta")["hint"])
