"""Deployments to a real host: what is served, what is kept, what comes back, and what a failure leaves behind."""
import json
import re
import shutil
import time

import service
from harness import Workstation, in_order
from service import Stream

SECONDS = 170
SHARES = {"clock"}


class Life(service.Case):
    def test_a_service_from_its_first_deployment_to_its_retention(self):
        in_order(self, self.a_first_deployment_serves, self.what_the_environment_does_is_no_concern_of_the_host,
                 self.a_second_one_takes_over_and_pictures_stay, self.the_same_again_is_nothing,
                 self.rollback_goes_to_the_exact_generation,
                 self.a_rollback_needs_nothing_of_the_workstation_but_its_configuration, self.a_profile_as_nix_has_it,
                 self.a_reboot_and_a_power_loss_bring_it_back, self.history_and_logs_and_retention)

    def a_first_deployment_serves(self):
        done = self.place.deploy(mark="one")
        self.assertEqual(done.host()["generation"], 1)
        self.assertEqual(done.statuses(), ["queued", "copying", "starting", "checking", "rotating", "succeeded"])
        self.assertEqual(self.place.mark(), "one")
        self.only_units_of(1)
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], view["wanted"], view["ready"], view["address"]), (1, 1, 1, "127.0.0.1:8188"))
        instance = view["instances"][0]
        self.assertEqual((instance["id"], instance["condition"], instance["queue"], instance["restarts"]), ("s0-g1", "healthy", 0, 0))
        self.assertGreater(instance["memory_bytes"], 1 << 20)
        text = self.place.run("status").out
        self.assertIn("demo serves generation 1", text)
        self.assertIn("1 of 1 instances", text)
        table = self.place.run("instances").out.splitlines()
        self.assertLessEqual(max(map(len, table)), 80)
        self.assertRegex(table[1], r"^alpha +s0-g1 +- +healthy +\d+s +0 +0 +[\d.]+ MiB$")

    def what_the_environment_does_is_no_concern_of_the_host(self):
        before = self.place.local("alpha", "/object_info")
        self.place.behave(mark="changed, not deployed", classes=["Save"])
        shutil.rmtree(self.place.environment / "custom_nodes")
        self.addCleanup(self.restore)
        self.alpha.run("systemctl", "restart", "stillframe-demo-s0-g1.service")
        self.wait(lambda: self.place.status()["ready"] == 1)
        self.assertEqual((self.place.mark(), self.place.local("alpha", "/object_info")), ("one", before))

    def restore(self):
        self.place.pack.parent.mkdir(parents=True, exist_ok=True)
        self.place.pack.write_text("NODE_CLASS_MAPPINGS = {}\n")

    def a_second_one_takes_over_and_pictures_stay(self):
        picture = self.picture("ComfyUI")
        done = self.place.deploy("--label", "two", mark="two")
        self.assertEqual((done.host()["generation"], self.place.mark()), (2, "two"))
        plan = next(e for e in done.events if e["type"] == "plan")
        self.assertEqual(plan["serving"]["generation"], 1)
        self.assertIn("changed main program", plan["changes"][0])
        self.assertNotIn("stillframe-demo-s0-g1.service", self.place.units())
        # The old instance is gone; its pictures are where they were asked for before.
        self.assertTrue(self.place.local("alpha", f"/view?filename={picture}").startswith("one "))

    def picture(self, prefix):
        prompt = {"prompt": {"1": {"class_type": "Save", "inputs": {"filename_prefix": prefix}}}}
        posted = json.loads(self.place.local("alpha", "/prompt", "-d", json.dumps(prompt)))["prompt_id"]
        history = self.wait(lambda: json.loads(self.place.local("alpha", f"/history/{posted}")))
        return history[posted]["outputs"]["1"]["images"][0]["filename"]

    def the_same_again_is_nothing(self):
        done = self.place.deploy("--snapshot", "two")
        self.assertEqual((done.host()["generation"], done.host()["error"]), (2, "generation 2 serves exactly this already"))
        self.assertEqual(next(e for e in done.events if e["type"] == "plan")["missing_paths"], 0)
        again = self.place.deploy("--snapshot", "two", "--again")
        self.assertEqual((again.host()["generation"], self.place.mark()), (3, "two"))

    def rollback_goes_to_the_exact_generation(self):
        self.place.deploy("--label", "four", mark="four")
        back = Stream(self.place.run("--json", "rollback"))
        self.assertEqual((back.host()["generation"], self.place.mark()), (3, "two"))
        Stream(self.place.run("--json", "rollback", "1"))
        self.assertEqual((self.place.status()["serving"], self.place.mark()), (1, "one"))
        # Before 1 served 3.
        self.assertEqual(Stream(self.place.run("--json", "rollback")).host()["generation"], 3)
        self.assertEqual(Stream(self.place.run("--json", "rollback", "four")).host()["generation"], 4)
        self.assertEqual(self.place.mark(), "four")
        none = Stream(self.place.run("--json", "rollback", "9", code=1)).host()
        self.assertEqual((none["status"], none["error"], none["hint"]),
                         ("failed", "alpha: demo has no generation 9", "it has: 1, 2, 3, 4"))
        self.assertEqual(self.place.mark(), "four")

    def a_rollback_needs_nothing_of_the_workstation_but_its_configuration(self):
        with Workstation() as stranger:
            stranger.prefix = self.hosts.client_command()
            done = stranger.stillframe("--json", "rollback", "2", cwd=self.place.project)
            self.assertEqual(Stream(done).host()["generation"], 2)
        self.assertEqual(self.place.mark(), "two")

    def a_profile_as_nix_has_it(self):
        links = self.alpha.sh("cd /nix/var/nix/profiles && for l in stillframe-*; do echo $l $(readlink $l); done").stdout.split("\n")
        self.assertIn("stillframe-demo stillframe-demo-2-link", links)
        listed = self.alpha.run("nix-env", "--list-generations", "--profile", "/nix/var/nix/profiles/stillframe-demo").stdout
        self.assertEqual([line.split()[0] for line in listed.splitlines()], ["1", "2", "3", "4"])
        self.assertIn("(current)", listed.splitlines()[1])
        # All of it is kept from the garbage collector, the agents of the generations too.
        self.alpha.run("nix-store", "--gc")
        self.assertEqual(Stream(self.place.run("--json", "rollback", "1")).host()["generation"], 1)
        self.assertEqual(self.place.mark(), "one")

    def a_reboot_and_a_power_loss_bring_it_back(self):
        for again in (self.alpha.reboot, self.power_loss):
            again()
            self.wait(lambda: self.place.status().get("ready") == 1)
            self.assertEqual((self.place.mark(), self.place.status()["serving"]), ("one", 1))
            self.only_units_of(1)
        self.assertEqual(self.alpha.run("systemctl", "is-failed", "stillframe.service", check=False).stdout.strip(), "active")

    def power_loss(self):
        self.alpha.power_loss()
        self.alpha.boot()
        self.alpha.wait_ready()

    def history_and_logs_and_retention(self):
        records = self.place.history()
        self.assertEqual([r["attempt"] for r in records], list(range(len(records), 0, -1)))
        first = records[-1]
        self.assertEqual((first["by"].split("@")[0], first["kind"], first["events"][-1]["outcome"]["generation"]), ("tester", "deploy", 1))
        times = [e["at"] for e in first["events"]]
        self.assertEqual(times, sorted(times))
        self.assertIn("rollback", {r["kind"] for r in records})
        text = self.place.run("history", "--events", "-n", "3").out
        self.assertRegex(text, r"rollback of .* by tester@")
        self.assertRegex(text, r"alpha +succeeded +[\d.]+ s  generation 1 serves")
        self.assertIn("traffic moves to generation 1", text)
        self.assertIn("main program one on port", self.place.run("logs", "s0-g1").out)
        self.assertIn("GET", self.place.run("logs", "gateway", "-n", "500").out)
        # Another service whose name begins like this one's.
        self.alpha.run("systemd-run", "--wait", "--quiet", "--unit=stillframe-demo-two-gateway.service", "echo", "of another service")
        self.assertIn("of another service", self.alpha.sh("journalctl -u 'stillframe-demo-*'").stdout)
        # A unit that says nothing itself: systemd tells of it.
        self.alpha.run("systemd-run", "--wait", "--quiet", "--collect", "--unit=stillframe-demo-s7-g99.service", "false", check=False)
        everything = self.place.run("logs", "-n", "100000").out
        self.assertIn("stillframe-demo-s7-g99.service: Main process exited", everything)
        self.assertNotIn("of another service", everything)
        for part in ("main program one on port", "GET"):
            self.assertIn(part, everything)
        wrong = self.place.run("logs", "s0;id", code=1)
        self.assertIn('"s0;id" is no instance', wrong.err)
        plan = self.place.run("retention", "--dry-run", "--json").json["hosts"][0]["report"]
        self.assertEqual({g["generation"]: g["why"] for g in plan["generations"]},
                         {1: "it serves", 2: "it served before: rollback goes there", 3: "one of the newest 3 besides the serving one",
                          4: "one of the newest 3 besides the serving one"})
        self.assertIsNone(plan["freed_bytes"])
        self.place.configure(service="retention.generations = 1")
        self.place.deploy("--snapshot", "two")
        kept = self.place.run("retention", "--json").json["hosts"][0]["report"]
        self.assertEqual([g["generation"] for g in kept["generations"]], [1, 5])
        self.assertGreater(kept["freed_bytes"], 0)
        self.assertEqual(self.place.mark(), "two")
        gone = Stream(self.place.run("--json", "rollback", "four", code=1)).host()
        self.assertRegex(gone["error"], "alpha: no generation of demo has the snapshot /nix/store/.*-comfyui-snapshot")


class Failures(service.Good):
    """Each leaves exactly the old generation serving, and a record."""

    def setUp(self):
        super().setUp()
        self.before = self.place.status()
        self.addCleanup(self.serves_on)

    def serves_on(self):
        view = self.place.status(code=0)
        self.assertEqual((self.place.mark(), view["serving"], view["ready"]), ("good", self.before["serving"], 1))
        # Nothing of the failed one is left: no unit, no slot, no link.
        number = view["serving"]
        self.only_units_of(number)
        self.assertEqual(self.alpha.sh("ls /var/lib/private/stillframe-slots/demo").stdout.split(), [f"s0-g{number}"])
        links = self.alpha.sh("cd /nix/var/nix/profiles && ls -d stillframe-*-link").stdout.split()
        self.assertEqual(links, sorted(f"stillframe-demo-{g['generation']}-link" for g in view["generations"]))

    def fails(self, *arguments, status="failed", **behaviour):
        # Of a snapshot that is there: before a capture the hosts are looked at, and then there is no deployment.
        if "--snapshot" not in arguments:
            arguments = ("--snapshot", self.place.snapshot(**behaviour)["snapshot"], *arguments)
        done = self.place.deploy(*arguments, code=1)
        host = done.host()
        self.assertEqual(host["status"], status, host)
        record = self.place.history()[0]
        self.assertEqual((record["deployment"], record["events"][-1]["status"]), (done.result["deployment"], status))
        return host

    def test_never_healthy(self):
        self.place.configure(quick=service.QUICK.replace('"20s"', '"3s"'))
        host = self.fails(mark="bad", start="never")
        self.assertRegex(host["error"], r"^stillframe-demo-s0-g\d+.service was not healthy within 3 s: refuses connections$")
        self.assertRegex(host["hint"], r"^its last words:\nmain program bad on port \d+\n(?s:.*)\n"
                                       r"all it said: stillframe logs, or on the host journalctl -u stillframe-demo-s0-g\d+.service$")

    def test_answers_500(self):
        self.place.configure(quick=service.QUICK.replace('"20s"', '"3s"'))
        host = self.fails(mark="bad", health="500")
        self.assertIn("was not healthy within 3 s: answered 500", host["error"])

    def test_hangs(self):
        self.place.configure(quick=service.QUICK.replace('"20s"', '"5s"'))
        host = self.fails(mark="bad", health="hang")
        self.assertIn("was not healthy within 5 s: gave no answer within 2000 ms", host["error"])

    def test_a_crash_loop_fails_at_once_with_the_logs_tail(self):
        self.place.configure(quick=service.QUICK.replace('"20s"', '"10min"'))
        started = time.monotonic()
        host = self.fails(mark="bad", start="exit")
        self.assertRegex(host["error"], r"ends again and again \(2 restarts\)$")
        self.assertRegex(host["hint"], r"^its last words:\n(?s:.*)Traceback: this program ends at once")
        # Once: neither what was told on the way nor another field has it again.
        self.assertEqual(json.dumps(self.place.history()[0]).count("its last words"), 1)
        self.assertLess(time.monotonic() - started, 60)

    def test_healthy_then_dies(self):
        # It answers until it has the traffic: the old instance has a job meanwhile, for longer than it may drain.
        self.place.snapshot("dies", mark="bad", dies=2)
        prompt = json.dumps({"prompt": {"1": {"class_type": "Sleep", "inputs": {"seconds": 10}}}})
        self.place.local("alpha", "/prompt", "-d", prompt)
        host = self.fails("--snapshot", "dies", status="reverted")
        self.assertIn("was healthy, then", host["error"])

    def test_a_pack_that_failed_to_import_there(self):
        # The environment's own server has the class; on the host the pack misses its file.
        self.place.behave(mark="bad", classes=["Save", "Sleep", "Fail", "Painter"])
        taken = self.place.snapshot("probed")
        record = self.place.ws.root / "state/stillframe/snapshots" / taken["id"] / "record.json"
        value = json.loads(record.read_text())
        value["probe"] = {"ready_ms": 1, "packs": [], "classes": {"Save": "nodes", "Painter": "custom_nodes.painter", "Gone": "custom_nodes.gone"}}
        record.write_text(json.dumps(value))
        host = self.fails("--snapshot", "probed")
        self.assertIn("lacks 1 node class that the environment's own server has: Gone (custom_nodes.gone)", host["error"])

    def test_a_pack_that_has_less_there_than_in_the_environment(self):
        """What it reads of this machine is not on the host: the environment's own server has it, as the probe tells."""
        here = self.place.ws.root / "only-here"
        here.write_text("")
        self.addCleanup(self.place.pack.write_text, self.place.pack.read_text())
        (self.place.pack.parent / "brush.py").write_text(f"open({str(here)!r})\n")
        self.addCleanup((self.place.pack.parent / "brush.py").unlink)
        imports = "import importlib.util, os, sys\nspec = importlib.util.spec_from_file_location('brush', os.path.join(os.path.dirname(__file__), 'brush.py'))\n" \
                  "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        adds = f"import os, nodes\nif os.path.exists({str(here)!r}):\n    nodes.%s.append(%r)\n"
        for pack, why in (
            (imports, f"does not import 1 pack that the environment's own server imports: painter: FileNotFoundError: [Errno 2] No such file or directory: "
                      f"'{here}' (painter/brush.py, line 1)"),
            (adds % ("EXTENSIONS", "/extensions/painter/oil.js"),
             "lacks 1 web extension that the environment's own server has: /extensions/painter/oil.js"),
            (adds % ("ROUTES", ("GET", "/painter/{colour}")), "lacks 1 route that the environment's own server has: GET /painter/{colour}"),
        ):
            with self.subTest(why):
                self.place.pack.write_text(pack)
                self.place.behave(mark="bad")
                probe = self.place.run("snapshot", "--offline", "--probe", "--json", "--label", "less").json["probe"]
                self.assertEqual((probe["packs"][0]["failed"], {"GET /prompt", "POST /prompt"} <= set(probe["routes"])), (False, True))
                self.assertEqual([route for route in probe["routes"] if "/api/" in route or "HEAD" in route], [])
                host = self.fails("--snapshot", "less")
                self.assertRegex(host["error"], r"^stillframe-demo-s0-g\d+.service " + re.escape(why) + "$")
                self.assertNotIn("last words", host["hint"])
        # As asked for: by the same key as the node classes.
        self.place.configure(quick=service.QUICK + "classes = false\n")
        self.assertEqual(self.place.deploy("--snapshot", "less").host()["status"], "succeeded")
        self.place.deploy("--snapshot", "good")
        self.before = self.place.status()

    def test_the_smoke_workflow(self):
        smoke = self.place.project / "smoke.json"
        self.place.configure(quick=service.QUICK + 'smoke = "smoke.json"\n')
        smoke.write_text(json.dumps({"1": {"class_type": "Fail", "inputs": {"message": "no such VAE"}}}))
        host = self.fails(mark="bad")
        self.assertIn("did not run the smoke workflow: node 1 (Fail): no such VAE", host["error"])
        smoke.write_text(json.dumps({"1": {"class_type": "Upscale", "inputs": {}}}))
        host = self.fails(mark="bad")
        self.assertIn("did not run the smoke workflow: it is refused with 400: Node 'Upscale' not found.", host["error"])
        smoke.write_text(json.dumps({"1": {"class_type": "Save", "inputs": {"ckpt_name": "b.safetensors"}}}))
        host = self.fails(mark="bad")
        self.assertEqual((host["error"], host["hint"]), ("alpha: there is no file /srv/models/*/b.safetensors",
                                                         "the smoke workflow names it: bring it there, or name another workflow"))
        smoke.write_text(json.dumps({"nodes": [], "links": []}))
        wrong = self.place.run("deploy", "--snapshot", "good", code=2)
        self.assertEqual(wrong.err, f'error: {smoke} is no workflow to run: it is the editor\'s own format: export it with "Export (API)"\n'
                                    "  hint: in ComfyUI: Workflow, Export (API)\n")

    def test_models_that_are_not_there(self):
        self.place.describe("alpha", service={"models": "/mnt/elsewhere"})
        self.addCleanup(self.place.describe, "alpha")
        host = self.fails(mark="bad")
        self.assertEqual((host["error"], host["hint"]),
                         ("alpha: there is no folder /mnt/elsewhere", "mount or make it, or correct the service's folders"))

    def test_a_port_that_is_taken(self):
        self.alpha.run("systemd-run", "--quiet", "--unit", "squatter", "systemd-socket-activate", "-l", "127.0.0.1:9000", "cat")
        self.addCleanup(self.alpha.run, "systemctl", "stop", "squatter")
        self.wait(lambda: ":9000" in self.alpha.run("ss", "-ltn").stdout)
        self.place.configure(service="port = 9000")
        host = self.fails(mark="bad")
        self.assertEqual(host["error"], "alpha: port 9000 is taken")
        self.assertIn("ss -ltnp 'sport = :9000'", host["hint"])

    def test_a_unit_that_is_stopped_by_hand(self):
        self.place.behave(mark="bad", start=3)
        process = self.place.start("--json", "deploy", "--offline")
        old = f"stillframe-demo-s0-g{self.before['serving']}.service"
        unit = self.wait(lambda: next((u for u in self.place.units() if u.startswith("stillframe-demo-s0-g") and u != old), None))
        # Stopped while ExecStartPost= runs, the unit is "failed: signal" and not "inactive": systemd.service(5).
        self.wait(lambda: self.alpha.run("systemctl", "is-active", unit, check=False).stdout.strip() == "active")
        self.alpha.run("systemctl", "stop", unit)
        out, err, code = service.wait_process(process)
        self.assertEqual(code, 1, out + err)
        self.assertIn(f"{unit} ended before it was healthy (it is inactive)", out)

    def test_a_start_that_waits_for_another_unit(self):
        """Its unit is inactive until then, and has not ended."""
        folder = "/etc/systemd/system"
        drop_in = f"{folder}/stillframe-demo-s0-.service.d"
        self.alpha.sh(f"mkdir {drop_in}; printf '[Unit]\\nWants=slow.service\\nAfter=slow.service\\n' >{drop_in}/slow.conf; "
                      f"printf '[Service]\\nType=oneshot\\nExecStart=sleep 2\\n' >{folder}/slow.service; systemctl daemon-reload")
        self.addCleanup(lambda: self.alpha.sh(f"rm -r {drop_in} {folder}/slow.service; systemctl daemon-reload"))
        done = self.place.deploy("--snapshot", "good", "--again")
        self.assertEqual(done.host()["status"], "succeeded")
        # A unit that never ran has this too, but no time at which it ended.
        ended = self.alpha.run("systemctl", "show", "-p", "ExecMainExitTimestampMonotonic", "--value", "slow.service").stdout.strip()
        self.assertNotEqual(ended, "0")
        self.before = self.place.status()

    def test_a_store_path_that_was_deleted_by_hand(self):
        good = self.place.run("snapshots", "show", "good", "--json").json["record"]
        self.place.deploy("--label", "next", mark="next")
        snapshot = good["snapshot"]
        self.alpha.sh(f"mount -o remount,rw /nix/store 2>/dev/null; chmod -R u+w {snapshot}; rm -rf {snapshot}")
        refused = Stream(self.place.run("--json", "rollback", code=1)).host()
        number = self.before["serving"]
        self.assertEqual((refused["error"], refused["hint"]),
                         (f"alpha: {snapshot}, which generation {number} needs, is gone from this host",
                          "bring it back by deploying its snapshot: stillframe deploy --snapshot ID"))
        self.assertEqual(self.place.mark(), "next")
        done = self.place.deploy("--snapshot", "good")
        self.assertEqual((done.host()["status"], self.place.mark()), ("succeeded", "good"))
        self.alpha.run("nix-store", "--verify-path", snapshot)
        self.before = self.place.status()

    def test_a_configuration_that_is_wrong(self):
        for line, message in [
            ("porrt = 1", "did you mean `port`?"),
            ("port = \"8188\"", "expected a whole number from 0 to 65535, without quotes"),
            ("slots = 1\nscaling.minimum = 3", "service.scaling.minimum asks for 3 instances, and there are 1 slots"),
            ("keep = [\"../x\"]", "service.keep is \"../x\": write a path below ComfyUI's base directory"),
            ("listen = \"0.0.0.0\"", "service.listen is not loopback, and ComfyUI runs whatever it is sent"),
        ]:
            self.place.configure(service=line)
            wrong = self.place.run("deploy", "--snapshot", "good", code=2).err
            self.assertIn(message, wrong)
            self.assertRegex(wrong, r"stillframe\.toml.*(line \d+)")
        self.place.configure()


class First(service.Case):
    def test_a_first_deployment_that_fails_leaves_nothing_but_its_record(self):
        def seen():
            return self.alpha.sh("find /var/lib/stillframe-data /var/lib/private /nix/var/nix/profiles /nix/var/nix/gcroots/stillframe "
                                 "/run/systemd/system /run/stillframe /run/private -path '*journal*' -prune -o -print 2>/dev/null | sort; "
                                 "systemctl list-units --all --plain --no-legend 'stillframe-*'; ss -ltn | sed 1d | sort", check=False).stdout
        before = seen()
        self.place.configure(quick=service.QUICK.replace('"20s"', '"3s"'))
        done = self.place.deploy(code=1, mark="bad", health="500")
        self.assertEqual((done.host()["status"], done.host()["generation"]), ("failed", None))
        # The record is written before the activation's process ends: the deployment is over a moment before its unit is.
        self.alpha.sh("timeout 10 sh -c \"while systemctl --quiet is-active 'stillframe-demo-activation-*'; do sleep 0.05; done\"")
        self.assertEqual([line for line in seen().splitlines() if line not in before.splitlines()
                          and line not in ("/run/stillframe", "/run/stillframe/demo", "/var/lib/stillframe-data", "/var/lib/private",
                                           "/var/lib/private/stillframe-data", "/var/lib/private/stillframe-slots", "/var/lib/private/stillframe-gateway", "/run/private")], [])
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], view["generations"], view["instances"]), (None, [], []))
        self.assertEqual(len(self.place.history()), 1)
        self.place.configure()
        self.assertEqual(self.place.deploy(mark="good").host()["generation"], 2)

    def test_a_host_that_is_not_prepared(self):
        self.alpha.sh("systemctl disable --quiet stillframe.service; mv /var/lib/stillframe/agent /root/agent")
        self.addCleanup(self.alpha.sh, "systemctl enable --quiet stillframe.service; [ -e /var/lib/stillframe/agent ] || mv /root/agent /var/lib/stillframe/agent")
        done = self.place.deploy("--snapshot", self.place.snapshot(mark="any")["snapshot"], code=1).host()
        self.assertEqual((done["error"], done["hint"]), ("alpha: the host is not prepared", "stillframe host prepare NAME shows what it needs, and does it"))
        wrong = self.place.run("status", code=1).err
        self.assertEqual(wrong, "error: alpha is not prepared\n  hint: stillframe host prepare alpha\n")
        asked = self.place.run("host", "prepare", code=2)
        self.assertIn("write and enable /etc/systemd/system/stillframe.service", asked.out)
        self.assertIn("nothing was done: nobody can be asked here", asked.err)
        self.assertNotEqual(self.alpha.sh("systemctl is-enabled stillframe.service", check=False).returncode, 0)
        done = self.place.run("host", "prepare", "--yes", "--json").json["hosts"][0]
        self.assertEqual(done["done"], ["agent", "boot-service"])
        # What was said to be done outlives a power cut.
        self.alpha.power_loss()
        self.alpha.boot()
        self.alpha.wait_ready()
        self.assertEqual(self.alpha.sh("systemctl is-enabled stillframe.service", check=False).stdout.strip(), "enabled")
        again = self.place.run("host", "prepare").out
        self.assertIn("is prepared: nothing to do", again)
        self.assertEqual(self.place.run("host", "check", "--json").json["hosts"][0]["problems"], [])
