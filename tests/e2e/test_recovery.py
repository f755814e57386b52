"""Ways back on a real host: a state folder whose file system is really full, pictures and slots that a power loss left behind."""
import json
import subprocess

import service
from service import wait_process

SECONDS = 230
SHARES = {"clock"}
STATE = "/var/lib/stillframe"
DATA = "/var/lib/private/stillframe-data/demo"
SLOTS = "/var/lib/private/stillframe-slots/demo"


class Case(service.Good):
    def instances(self):
        return [unit for unit in self.place.units() if "-s0-g" in unit]

    def in_order(self, serving):
        """Exactly this generation serves, nothing else is there, and nothing is under way."""
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], view["ready"], view["deployment"]), (serving, 1, None))
        self.assertEqual(self.instances(), [f"stillframe-demo-s0-g{serving}.service"])
        for folder in (f"{DATA}/output", SLOTS):
            self.assertEqual(self.alpha.run("ls", folder).stdout.split(), [f"s0-g{serving}"], folder)
        # Where earlier agents had them.
        self.assertEqual(self.alpha.sh(f"ls {DATA}/slots 2>/dev/null", check=False).stdout, "")
        self.assertTrue(all(r["events"][-1].get("outcome") for r in self.place.history()))


class FullDisk(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # The state has a file system of its own, so that only it is full.
        cls.place.hosts.hosts[0].sh(f"cp -a {STATE} /srv/state && mount -t tmpfs -o size=6m,mode=711 state {STATE} && cp -a /srv/state/. {STATE}/")

    def setUp(self):
        super().setUp()
        self.addCleanup(self.unfill)

    def fill(self):
        self.alpha.sh(f"dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null; ! touch {STATE}/x 2>/dev/null || ! echo x >{STATE}/x")

    def unfill(self):
        self.alpha.sh(f"rm -f {STATE}/filler {STATE}/x")

    def test_the_end_is_written_into_the_room_that_is_held(self):
        serving = self.place.status()["serving"]
        process = self.slow()
        self.until("checking")
        self.fill()
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        told = next(json.loads(line) for line in reversed(out.splitlines()) if '"result"' in line)["hosts"][0]
        self.assertIn("No space left on device", told["error"])
        self.assertEqual(told["hint"], f"the file system at {STATE} is full: free space there, then deploy again")
        self.in_order(serving)
        self.assertEqual(self.place.mark(), "good")
        # Room is held again, so nothing begins whose end might not be written.
        self.fill()
        host = self.place.deploy("--snapshot", "good", "--again", code=1).host()
        self.assertIn("No space left on device", host["error"])
        self.assertIn(f"the file system at {STATE} is full", host["hint"])
        self.unfill()
        done = self.place.deploy("--snapshot", "good", "--again").host()
        self.in_order(done["generation"])

    def test_an_end_that_cannot_be_written_comes_with_the_space(self):
        self.without_room(kill=False)

    def test_a_killed_activation_that_can_write_nothing_leaves_one_generation(self):
        self.without_room(kill=True)

    def without_room(self, kill):
        serving = self.place.status()["serving"]
        process = self.slow(60 if kill else 4)
        self.until("checking")
        self.alpha.sh(f"rm {STATE}/reserve")
        self.fill()
        if kill:
            unit = next(unit for unit in self.place.units() if "-activation-" in unit)
            self.alpha.run("systemctl", "kill", "--signal=KILL", unit)
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        told = next(json.loads(line) for line in reversed(out.splitlines()) if '"result"' in line)["hosts"][0]
        self.assertEqual(told["error"], f"alpha: the activation cannot write how it ends: the file system at {STATE} is full")
        self.assertEqual(told["hint"], "free space there: it then ends by itself, and stillframe attach shows how")
        # What serves is the old one alone, and all see that it is not over.
        self.assertEqual(self.place.mark(), "good")
        self.wait(lambda: self.instances() == [f"stillframe-demo-s0-g{serving}.service"])
        view = self.place.status()
        self.assertEqual((view["serving"], view["ready"], view["activating"]), (serving, 1, True))
        # The last blocks may hold the request, or not.
        asked = self.place.run("cancel", code=None)
        self.assertRegex(asked.out or asked.err, r"^alpha  the deploy begun by tester@\S+ is told to stop" if asked.code == 0 else
                         r"error: alpha: cannot write [\s\S]*hint: the file system at /var/lib/stillframe is full: free space there")
        refused = self.place.run("unlock", code=1).err
        self.assertRegex(refused, r"error: alpha: an activation of demo (was cut off|is under way), begun by tester@")
        self.unfill()
        self.wait(lambda: self.place.status()["deployment"] is None, 20)
        self.wait(lambda: self.place.history()[0]["events"][-1].get("outcome"))
        self.in_order(serving)
        done = self.place.deploy("--snapshot", "good", "--again").host()
        self.in_order(done["generation"])


class Pictures(Case):
    def picture(self, prefix):
        prompt = {"prompt": {"1": {"class_type": "Save", "inputs": {"filename_prefix": prefix}}}}
        posted = json.loads(self.place.local("alpha", "/prompt", "-d", json.dumps(prompt)))["prompt_id"]
        history = self.wait(lambda: json.loads(self.place.local("alpha", f"/history/{posted}")))
        return history[posted]["outputs"]["1"]["images"][0]["filename"]

    def seen(self, picture):
        return self.place.local("alpha", f"/view?filename={picture}")

    def test_the_power_is_lost_before_the_old_instance_is_gone(self):
        serving = self.place.status()["serving"]
        picture = self.picture("before")
        before = self.seen(picture)
        # ComfyUI does not wait for the disk: what is younger than the kernel's own pace is not kept by anybody.
        self.alpha.run("sync")
        state = f"{STATE}/services/demo/state.json"
        # The commit is in the file: the old instance is about to be stopped.
        committed = subprocess.Popen(["nsenter", "--target", str(self.alpha.pid()), "--all", "--", "sh", "-c",
                                      f"until grep -q '\"serving\": {serving + 1}' {state}; do :; done"])
        process = self.slow(1, "after")
        committed.wait(timeout=60)
        self.alpha.power_loss()
        wait_process(process)
        self.alpha.boot()
        self.alpha.wait_ready()
        self.wait(lambda: (self.place.status() or {}).get("ready") == 1)
        self.assertEqual(self.place.mark(), "after")
        self.assertEqual(self.seen(picture), before)
        self.in_order(serving + 1)

    def test_what_an_earlier_crash_left_goes_and_its_pictures_are_seen(self):
        for reboot in (False, True):
            with self.subTest(reboot=reboot):
                serving = self.place.status()["serving"]
                self.alpha.sh(f"cd {DATA} && mkdir -p {SLOTS}/s0-g77/slot/base slots/s0-g79/base output/s0-g78 && "
                              f"echo lost >output/s0-g78/lost{reboot}.png && "
                              f"chown -R --reference output/s0-g{serving} {SLOTS}/s0-g77 slots output/s0-g78")
                if reboot:
                    self.alpha.reboot()
                    self.wait(lambda: (self.place.status() or {}).get("ready") == 1)
                else:
                    serving = self.place.deploy("--snapshot", "good", "--again").host()["generation"]
                self.assertEqual(self.seen(f"lost{reboot}.png"), "lost\n")
                self.in_order(serving)
        said = [e["text"] for r in self.place.history() for e in r["events"]]
        self.assertIn("the slot of stillframe-demo-s0-g77.service was left behind: it is gone, its pictures are not", said)

    def test_pictures_of_the_old_ones_are_seen_while_they_drain(self):
        picture = self.picture("draining")
        self.place.local("alpha", "/prompt", "-d", json.dumps({"prompt": {"1": {"class_type": "Sleep", "inputs": {"seconds": 3}}}}))
        process = self.slow(1, "drains")
        self.until("draining")
        self.assertEqual(self.place.mark(), "drains")
        self.assertRegex(self.seen(picture), "^[a-z]+ ")
        out, err, code = wait_process(process)
        self.assertEqual(code, 0, out + err)
        self.assertRegex(self.seen(picture), "^[a-z]+ ")


class State(Case):
    """What the host knows of a service is damaged, deleted, or contradicted by what is there."""
    service_folder = f"{STATE}/services/demo"

    def damage(self, script):
        self.alpha.sh(f"cd {self.service_folder} && {script}")

    def test_a_state_that_is_lost_or_damaged_has_a_copy(self):
        for what, script in [("gone", "rm state.json"), ("torn", "truncate -s 700 state.json"), ("a byte", "sed -i 's/8188/8189/' state.json")]:
            with self.subTest(what):
                serving = self.place.status(code=0)["serving"]
                self.damage(script)
                view = self.place.status(code=1)
                self.assertEqual((view["serving"], view["ready"]), (serving, 1))
                self.assertIn("its copy /var/lib/stillframe/services/demo/state.copy.json is used", view["problem"])
                found = self.place.run("host", "check", "--json", code=1).json["hosts"][0]["problems"]
                self.assertEqual(len([p for p in found if p["what"].startswith("the state of demo: ")]), 1, found)
                done = self.place.deploy("--snapshot", "good", "--again").host()
                self.assertGreater(done["generation"], serving)
                self.assertIn("warning: ", " ".join(e["text"] for e in self.place.history()[0]["events"]))
                self.in_order(done["generation"])

    def test_a_damaged_record_blocks_nothing(self):
        serving = self.place.status()["serving"]
        self.damage("printf '\\377' | dd of=attempts/000001.jsonl bs=1 seek=40 conv=notrunc 2>/dev/null")
        self.assertGreater(self.place.deploy("--snapshot", "good", "--again").host()["generation"], serving)
        self.place.run("history")

    def test_repair_builds_it_anew_and_others_go_on(self):
        # Another service on the same host, which has nothing to do with it.
        self.alpha.sh(f"mkdir -p {STATE}/services/other && echo '{{' >{STATE}/services/other/state.json")
        self.addCleanup(self.alpha.sh, f"rm -rf {STATE}/services/other")
        serving = self.place.status(code=0)["serving"]
        generations = [g["generation"] for g in self.place.status()["generations"]]
        self.damage("rm state.copy.json; printf '\\0\\0\\0' >state.json")
        broken = self.place.status(code=1)
        self.assertEqual(broken["serving"], None)
        self.assertIn("stillframe host repair", broken["problem"])
        self.assertEqual(self.place.mark(), self.place.mark())
        refused = self.place.deploy("--snapshot", "good", code=1).host()
        self.assertIn("state.json is not a service's state", refused["error"])
        # What does not serve, and runs.
        self.alpha.sh("systemd-run --quiet --unit stillframe-demo-s0-g99 sleep 1000")
        self.assertIn("the state of demo: ", self.place.run("host", "check", code=1).out)
        said = self.place.run("host", "repair").out
        self.assertIn(f"built anew: generation {serving} serves; there are {', '.join(map(str, generations))}", said)
        self.assertIn("s0-g99: ended, since the state says that they do not serve", said)
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], [g["generation"] for g in view["generations"]]), (serving, generations))
        self.in_order(serving)
        # A start of the host does the same.
        self.damage("rm state.json state.copy.json")
        self.alpha.reboot()
        self.wait(lambda: (self.place.status() or {}).get("ready") == 1)
        self.in_order(serving)
        # Where there is nothing to repair, that is said.
        self.assertEqual(self.place.run("host", "repair").out, "alpha  demo: all is as it should be\n")
        everything = self.place.run("host", "repair", "--all").out
        self.assertIn("alpha  demo: all is as it should be", everything)
        self.assertIn("built anew: nothing serves; the next generation is 1", everything)
        self.assertNotIn("the state of", self.place.run("host", "check").out)
        # Numbers are never used twice: also that of what had no generation.
        done = self.place.deploy("--snapshot", "good", "--again").host()["generation"]
        self.assertGreater(done, max(generations))
        self.in_order(done)

    def test_a_collector_leaves_what_a_rollback_goes_to(self):
        self.place.deploy(mark="collected")
        before = self.place.status()
        self.alpha.run("nix-collect-garbage", "-d")
        view = self.place.status(code=0)
        self.assertEqual([g["gone"] for g in view["generations"]], [False] * len(before["generations"]))
        back = self.place.run("rollback", "--json")
        self.assertEqual((back.code, self.place.status()["ready"]), (0, 1))
        links = self.alpha.sh("ls -d /nix/var/nix/profiles/stillframe-demo-*-link").stdout.split()
        self.assertEqual(len(links), len(view["generations"]))
        # One that is taken away all the same is said to be gone.
        gone = next(g for g in view["generations"] if g["generation"] == before["serving"])
        number = gone["generation"]
        self.alpha.sh(f"rm -f /nix/var/nix/profiles/stillframe-demo-{number}-link /nix/var/nix/gcroots/stillframe/demo-{number}-snapshot")
        self.alpha.run("nix-store", "--delete", gone["snapshot"])
        view = self.place.status(code=0)
        self.assertEqual([g["generation"] for g in view["generations"] if g["gone"]], [number])
        self.assertIn(f"gone from the store: {number} (", self.place.run("status").out)
        self.assertIn("gone from the store, nothing can go back to it", self.place.run("retention", "--dry-run").out)
        refused = self.place.run("rollback", str(number), code=1)
        self.assertIn(f"which generation {number} needs, is gone from this host", refused.out + refused.err)

    def test_a_cancelled_rotation_lets_the_new_instances_finish(self):
        serving = self.place.status()["serving"]
        job = lambda seconds: json.loads(self.place.local("alpha", "/prompt", "-d", json.dumps(  # noqa: E731
            {"prompt": {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}}, "2": {"class_type": "Save", "inputs": {}}}})))["prompt_id"]
        self.place.configure(drain="30s")
        # The old one drains for a while; meanwhile the new one is given work.
        process = self.slow(3, "new")
        self.until("checking")
        job(12)
        self.until("draining")
        self.assertEqual(self.place.mark(), "new")
        job(4)
        self.place.run("cancel")
        out, err, code = wait_process(process)
        self.assertEqual(code, 1, out + err)
        last = self.place.history()[0]["events"][-1]
        self.assertEqual(last["status"], "cancelled")
        self.assertRegex(last["text"], r"^cancelled by tester@\S+$")
        # Beside the old one's, where both have made one of the same name.
        made = self.alpha.sh(f"find {DATA}/output/s0-g{serving} -name '*.png' -exec cat {{}} +").stdout
        self.assertIn("new ", made)
        self.in_order(serving)
        # What does not end within the limit waits again, and that is said.
        self.place.configure(drain="8s")
        process = self.slow(3, "lost")
        self.until("checking")
        job(6)
        self.until("draining")
        job(60)
        self.place.run("cancel")
        out, err, code = wait_process(process)
        self.assertIn("1 job of generation", out)
        self.assertRegex(self.place.history()[0]["events"][-1]["text"], r"^cancelled by tester@\S+; 1 job of generation \d+ was interrupted and waits again$")
        self.in_order(serving)
