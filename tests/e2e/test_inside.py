"""What an instance sees and may do: folders, secrets, resources, its own writable tree, and nothing else of the host."""
import gc
import json
import threading
import time

import service

SECONDS = 60


class Inside(service.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        place = cls.place
        alpha = place.hosts.hosts[0]
        alpha.sh("mkdir -p /srv/shared /srv/drop /home/artist/luts; echo look >/srv/shared/look.png; echo lut >/home/artist/luts/warm.cube; "
                 "chmod 1777 /srv/drop; chmod 755 /home/artist; echo secret >/home/artist/diary")
        (place.project / "token").write_text("t0p-s3cret-value\n")
        place.pack.write_text("import os\nopen(os.path.join(os.path.dirname(__file__), 'state.json'), 'w').write('1')\n"
                              "d = os.path.join(os.path.dirname(__file__), 'memory'); os.makedirs(d, exist_ok=True)\n"
                              "open(os.path.join(d, 'log'), 'a').write('x')\nNODE_CLASS_MAPPINGS = {}\n")
        place.configure(service='arguments = ["--trait", "from-the-snapshot"]\nkeep = ["custom_nodes/painter/memory"]\n'
                        'folders = [{ path = "/srv/shared", at = "input/shared" }, { path = "/srv/drop", at = "output/drop", writable = true }, '
                        '{ path = "/home/artist/luts", at = "models-extra/luts" }]\n'
                        'resources = { memory = "1GiB", cpu = 1.5 }\nscaling = { minimum = 2, maximum = 2 }\nslots = 2\n'
                        'secrets.HF_TOKEN = { file = "token" }\nsecrets.licence = { env = "LICENCE", as = "file" }\n')
        place.describe("alpha", service={"arguments": ["--cpu"], "environment": {"OF_THE_HOST": "yes"}})
        place.ws.stillframe("--json", "deploy", "--offline", "--label", "one", cwd=place.project, LICENCE="l1cence-value")

    def setUp(self):
        super().setUp()
        self.ids = [i["id"] for i in self.place.status()["instances"]]
        self.id = self.ids[0]

    def ask(self, path, *arguments):
        return self.place.instance("alpha", self.id, path, *arguments)

    def read(self, path):
        return self.ask(f"/file?path={path}")

    def write(self, path):
        return json.loads(self.ask(f"/file?path={path}", "-d", "x"))

    def test_two_instances_share_the_traffic(self):
        view = self.place.status(code=0)
        self.assertEqual((view["wanted"], view["ready"]), (2, 2))
        pids = {json.loads(self.place.local("alpha", "/system_stats"))["system"]["pid"] for _ in range(8)}
        self.assertEqual(len(pids), 2)

    def test_arguments_and_variables(self):
        stats = json.loads(self.ask("/system_stats"))["system"]
        self.assertEqual(stats["argv"][-3:], ["--trait", "from-the-snapshot", "--cpu"])
        env = json.loads(self.ask("/environment"))
        self.assertEqual((env["OF_THE_HOST"], env["HF_TOKEN"], env["CUDA_VISIBLE_DEVICES"]), ("yes", "t0p-s3cret-value", ""))
        self.assertNotIn("licence", env)
        self.assertEqual(self.read(env["CREDENTIALS_DIRECTORY"] + "/licence"), "l1cence-value")
        self.assertTrue(env["CUDA_CACHE_PATH"].startswith("/var/lib/stillframe-data/demo/cache/"))

    def test_the_collector_waits_until_it_listens(self):
        self.assertEqual(json.loads(self.ask("/collector")), {"at_start": [10_000, 10, 10], "now": list(gc.get_threshold())})
        self.assertNotIn("STILLFRAME_DEFER_GC", json.loads(self.ask("/environment")))

    def test_two_instances_never_share_what_would_collide(self):
        seen = []
        for instance in self.ids:
            argv = json.loads(self.place.instance("alpha", instance, "/system_stats"))["system"]["argv"]
            seen.append({flag: argv[argv.index(flag) + 1] for flag in ("--output-directory", "--temp-directory", "--database-url", "--base-directory",
                                                                       "--input-directory", "--user-directory")})
        shared = {"--input-directory", "--user-directory"}
        self.assertEqual({flag for flag in seen[0] if seen[0][flag] == seen[1][flag]}, shared)

    def test_the_gpu_drivers_libraries(self):
        """No GPU is here: the files that a driver has, and what an instance is given of them."""
        place = "/usr/lib/x86_64-linux-gnu"
        self.alpha.sh(f"touch /dev/nvidia0 {place}/libcuda.so.1 {place}/libnvidia-ml.so.1 {place}/libother.so.1")
        self.addCleanup(self.alpha.sh, f"rm -f /dev/nvidia0 {place}/libcuda.so.* {place}/libnvidia-ml.so.1 {place}/libother.so.1")
        text = (self.place.project / "stillframe.toml").read_text()
        self.addCleanup(self.place.ws.stillframe, "--json", "deploy", "--snapshot", "one", cwd=self.place.project, LICENCE="l1cence-value")
        self.addCleanup((self.place.project / "stillframe.toml").write_text, text)
        one = text.replace("scaling = { minimum = 2, maximum = 2 }\nslots = 2\n", "gpus = [0]\n")
        (self.place.project / "stillframe.toml").write_text(one)
        self.place.ws.stillframe("--json", "deploy", "--snapshot", "one", cwd=self.place.project, LICENCE="l1cence-value")
        self.setUp()
        env = json.loads(self.ask("/environment"))
        driver = f"/var/lib/stillframe-slots/demo/{self.id}/slot/driver"
        self.assertEqual((env["CUDA_VISIBLE_DEVICES"], env["LD_LIBRARY_PATH"], env["TRITON_LIBCUDA_PATH"]), ("0", driver, driver))
        links = lambda: self.alpha.sh(f"cd /var/lib/private/stillframe-slots/demo/{self.id}/slot/driver && ls").stdout.split()  # noqa: E731
        self.assertEqual(links(), ["libcuda.so.1", "libnvidia-ml.so.1"])
        # A driver upgrade: a restart sees it, without a deployment.
        self.alpha.sh(f"touch {place}/libcuda.so.999")
        self.alpha.run("systemctl", "restart", f"stillframe-demo-{self.id}.service")
        self.wait(lambda: self.place.status()["ready"] == 1)
        self.assertEqual(links(), ["libcuda.so.1", "libcuda.so.999", "libnvidia-ml.so.1"])
        absent = one.replace("gpus = [0]", "gpus = [0, 7]")
        (self.place.project / "stillframe.toml").write_text(absent)
        refused = service.Stream(self.place.ws.stillframe("--json", "deploy", "--snapshot", "one", cwd=self.place.project, code=1, LICENCE="l1cence-value"))
        self.assertEqual(refused.host()["error"], "alpha: there is no GPU 7 (/dev/nvidia7)")

    def test_secrets_are_nowhere_else(self):
        for text in ("t0p-s3cret-value", "l1cence-value"):
            found = self.alpha.sh(f"grep -rlI -- {text} /nix/store /nix/var /etc /run/systemd /run/stillframe /var/log /proc/*/cmdline "
                                  "/var/lib/stillframe/services/demo/state.json /var/lib/stillframe/services/demo/attempts 2>/dev/null || true").stdout
            self.assertEqual(found, "")
            self.assertEqual(self.alpha.sh(f"journalctl --no-pager | grep -c -- {text} || true").stdout.strip(), "0")
            here = self.place.ws._run(["grep", "-rlI", "--", text, self.place.ws.root / "state", self.place.ws.store], None, None, self.place.ws.environment(), 60)
            self.assertEqual(here.out, "")
        modes = self.alpha.sh("stat -c '%a %U' /var/lib/stillframe/services/demo/secrets/*/ /var/lib/stillframe/services/demo/secrets/*/*").stdout
        self.assertEqual(set(modes.splitlines()), {"700 root", "600 root"})

    def test_folders(self):
        slot = f"/var/lib/stillframe-slots/demo/{self.id}/slot"
        self.assertEqual(self.read("/var/lib/stillframe-data/demo/input/shared/look.png"), "look\n")
        self.assertIn("Read-only", self.write("/var/lib/stillframe-data/demo/input/shared/new")["error"])
        self.assertEqual(self.write(f"/var/lib/stillframe-data/demo/output/{self.id}/drop/new"), {"written": 1})
        self.assertEqual(self.alpha.sh("cat /srv/drop/new").stdout, "x")
        self.assertEqual(self.read(f"{slot}/base/models-extra/luts/warm.cube"), "lut\n")
        self.assertIn("No such file", json.loads(self.read("/home/artist/diary"))["error"])
        self.assertEqual(self.read(f"{slot}/base/models/checkpoints/a.safetensors"), "weights\n")
        self.assertIn("Read-only", self.write(f"{slot}/base/models/checkpoints/b")["error"])

    def test_nothing_else_of_the_host(self):
        for path in ("/etc/x", "/usr/x", "/nix/store/x", "/var/lib/x", "/srv/x"):
            self.assertRegex(self.write(path)["error"], "Read-only|Permission denied")
        self.assertIn("Permission denied", json.loads(self.read("/etc/shadow"))["error"])
        self.assertRegex(json.loads(self.read("/var/lib/stillframe/services/demo/state.json"))["error"], "Permission denied")
        unit = next(u for u in self.place.units() if "-s0-g" in u)
        shown = dict(line.split("=", 1) for line in self.alpha.run(
            "systemctl", "show", unit, "-p", "MemoryMax,CPUQuotaPerSecUSec,NoNewPrivileges,CapabilityBoundingSet,ProtectSystem,DevicePolicy,User,DynamicUser").stdout.splitlines())
        self.assertEqual(float(shown.pop("CPUQuotaPerSecUSec").rstrip("s")), 1.5)
        self.assertEqual(shown, {"MemoryMax": str(1 << 30), "NoNewPrivileges": "yes", "CapabilityBoundingSet": "",
                                 # It writes into a folder of the host, so all of its instances have one user.
                                 "ProtectSystem": "strict", "DevicePolicy": "closed", "User": "sf-demo", "DynamicUser": "yes"})
        exposure = self.alpha.run("systemd-analyze", "security", "--no-pager", unit, check=False).stdout
        overall = float(exposure.rsplit("Overall exposure level for", 1)[1].split(":")[1].split()[0])
        # Bare it is 9.6.
        self.assertLess(overall, 2.5, exposure)

    def test_the_nix_daemon_is_out_of_reach(self):
        socket = "/nix/var/nix/daemon-socket"
        before = self.alpha.sh(f"stat -c '%a %n' {socket} {socket}/socket").stdout.split()
        self.addCleanup(self.alpha.run, "chmod", before[0], before[1])
        self.addCleanup(self.alpha.run, "chmod", before[2], before[3])
        # As Nix's own installer leaves them: open to all.
        self.alpha.sh(f"chmod 755 {socket}; chmod 666 {socket}/socket")
        self.assertIn("Permission denied", json.loads(self.read(f"{socket}/socket"))["error"])

    def test_what_is_written_into_the_program_goes_and_what_is_kept_stays(self):
        slot = f"/var/lib/stillframe-slots/demo/{self.id}/slot/base/custom_nodes/painter"
        self.assertEqual(self.read(f"{slot}/state.json"), "1")
        before = self.read(f"{slot}/memory/log")
        self.write("/var/lib/stillframe-data/demo/user/notes")
        self.place.ws.stillframe("--json", "deploy", "--snapshot", "one", "--again", cwd=self.place.project, LICENCE="l1cence-value")
        record = json.dumps(self.place.history()[0])
        self.assertIn("had written into its own program: base/custom_nodes/painter/state.json", record)
        self.assertNotIn("memory/log", record)
        self.setUp()
        slot = f"/var/lib/stillframe-slots/demo/{self.id}/slot/base/custom_nodes/painter"
        self.assertGreater(len(self.read(f"{slot}/memory/log")), len(before))
        self.assertEqual(self.read("/var/lib/stillframe-data/demo/user/notes"), "x")

    def test_an_instance_that_dies_begins_with_a_new_slot(self):
        slot = f"/var/lib/stillframe-slots/demo/{self.id}/slot/base/custom_nodes/painter"
        self.write(f"{slot}/by-the-first")
        pid = json.loads(self.ask("/system_stats"))["system"]["pid"]
        unit = f"stillframe-demo-{self.id}.service"
        self.alpha.sh(f"systemctl kill --signal=KILL {unit}")
        deadline = time.monotonic() + 60
        while True:
            stats = self.place.instance("alpha", self.id, "/system_stats", check=False)
            if stats and json.loads(stats)["system"]["pid"] != pid:
                break
            self.assertLess(time.monotonic(), deadline, stats)
            time.sleep(0.2)
        self.assertIn("by-the-first", self.alpha.sh(f"journalctl --unit={unit} --output=cat --grep='had written into its own program'").stdout)
        self.assertNotIn("by-the-first", self.alpha.sh(f"ls /var/lib/private/stillframe-slots/demo/{self.id}/slot/base/custom_nodes/painter").stdout)
        self.assertEqual(sorted(self.alpha.sh("ls /var/lib/private/stillframe-slots/demo").stdout.split()), sorted(self.ids))

    def test_a_secret_that_is_missing_is_found_before_anything(self):
        refused = self.place.run("deploy", "--snapshot", "one", code=2).err
        self.assertRegex(refused, r"^error: \S+/stillframe.toml: service.secrets.licence comes from the variable LICENCE, which is not set\n"
                                  r"  hint: set it before the command: LICENCE=… stillframe deploy\n$")

    def test_replace_stops_the_old_one_first_and_holds_requests(self):
        text = (self.place.project / "stillframe.toml").read_text()
        self.addCleanup((self.place.project / "stillframe.toml").write_text, text)
        (self.place.project / "stillframe.toml").write_text(text.replace("[service]\n", '[service]\nrotation = "replace"\n', 1))
        answers, stop = [], threading.Event()

        def load():
            while not stop.is_set():
                answers.append(self.place.inside("alpha", ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "--max-time", "60",
                                                           "http://127.0.0.1:8188/system_stats"], check=False).stdout)
                time.sleep(0.05)
        thread = threading.Thread(target=load)
        thread.start()
        try:
            done = service.Stream(self.place.ws.stillframe("--json", "deploy", "--snapshot", "one", "--again", cwd=self.place.project, LICENCE="l1cence-value"))
        finally:
            time.sleep(0.3)
            stop.set()
            thread.join()
        self.assertEqual(set(answers), {"200"})
        self.assertEqual(done.statuses()[:6], ["queued", "starting", "draining", "starting", "checking", "rotating"])
