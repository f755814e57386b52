"""Ways back on a real host: a state folder whose file system is really full, pictures and slots that a power loss left behind."""
import json
import subprocess

import service
from service import wait_process

SECONDS = 90
SHARES = {"clock"}
STATE = "/var/lib/stillframe"
DATA = "/var/lib/private/stillframe-data/demo"


class Case(service.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.deploy("--label", "good", mark="good")

    def setUp(self):
        super().setUp()
        self.place.configure()

    def slow(self, seconds=4, mark="slow"):
        """A deployment whose instances take a while to start."""
        self.place.behave(mark=mark, start=seconds)
        return self.place.start("--json", "deploy", "--offline")

    def until(self, status):
        """Until the newest attempt is so far."""
        def reached():
            last = self.alpha.sh(f"tail -n 1 $(ls {STATE}/services/demo/attempts/*.jsonl | tail -n 1)").stdout
            return f'"status":"{status}"' in last and json.loads(last)
        return self.wait(reached)

    def instances(self):
        return [unit for unit in self.place.units() if "-s0-g" in unit]

    def in_order(self, serving):
        """Exactly this generation serves, nothing else is there, and nothing is under way."""
        view = self.place.status(code=0)
        self.assertEqual((view["serving"], view["ready"], view["deployment"]), (serving, 1, None))
        self.assertEqual(self.instances(), [f"stillframe-demo-s0-g{serving}.service"])
        self.assertEqual(self.alpha.sh(f"ls {DATA}/slots {DATA}/output").stdout.split(),
                         [f"{DATA}/output:", f"s0-g{serving}", f"{DATA}/slots:", f"s0-g{serving}"])
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
        serving = self.place.status()["serving"]
        process = self.slow()
        self.until("checking")
        self.alpha.sh(f"rm {STATE}/reserve")
        self.fill()
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
        self.assertRegex(self.place.run("cancel").out, r"^alpha  the deploy begun by tester@\S+ is told to stop")
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
        self.assertRegex(self.seen(picture), "^good ")
        self.in_order(serving + 1)

    def test_what_an_earlier_crash_left_goes_and_its_pictures_are_seen(self):
        for reboot in (False, True):
            with self.subTest(reboot=reboot):
                serving = self.place.status()["serving"]
                self.alpha.sh(f"cd {DATA} && mkdir -p slots/s0-g77/base output/s0-g78 && echo lost >output/s0-g78/lost{reboot}.png && "
                              f"chown -R --reference output/s0-g{serving} slots/s0-g77 output/s0-g78")
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
