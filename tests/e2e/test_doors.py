"""Who reaches an instance: the gateway of its own service, and nobody else. Two services on one host."""
import json
import time

import service
from service import Stream

SECONDS = 60

KEYS = {"old": "the-old-key-of-enough-letters", "new": "the-new-key-of-enough-letters"}


class Doors(service.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        place = cls.place
        for name, key in KEYS.items():
            (place.project / f"{name}.key").write_text(key + "\n")
        cls.configure_a("old")
        place.deploy("--label", "one", mark="a one")
        cls.second = place.ws.root / "second"
        (cls.second / "hosts").mkdir(parents=True)
        (cls.second / "hosts" / "alpha.toml").write_text((place.project / "hosts" / "alpha.toml").read_text())
        text = (place.project / "stillframe.toml").read_text()
        cut = text.index("[service.gateway]")
        (cls.second / "stillframe.toml").write_text(text[:cut].replace('name = "demo"', 'name = "other"\nport = 8288'))

    @classmethod
    def configure_a(cls, key, service=""):
        cls.place.configure(service=f'{service}\n[service.gateway]\napi-keys = [{{ file = "{key}.key" }}]')

    def setUp(self):
        super().setUp()
        self.configure_a("old")

    def deploy_b(self, mark, *arguments):
        self.place.behave(mark=mark)
        return Stream(self.place.ws.stillframe("--json", "deploy", "--offline", *arguments, cwd=self.second))

    def mark(self, port, key="old"):
        out = self.place.local("alpha", "/system_stats", "-H", f"Authorization: Bearer {KEYS[key]}", port=port)
        return json.loads(out).get("system", {}).get("mark") or json.loads(out)["error"]["status"]

    def as_nobody(self, *command):
        done = self.alpha.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_each_port_answers_with_its_own_service(self):
        before = self.mark(8188)
        self.deploy_b("b one", "--label", "b")
        self.place.deploy(mark="a two")
        self.place.run("rollback")
        self.assertEqual((self.mark(8188), self.mark(8288)), (before, "b one"))
        self.deploy_b("b two")
        self.alpha.power_loss()
        self.alpha.boot()
        self.alpha.wait_ready()
        self.wait(lambda: self.alpha.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip() == "active")
        self.wait(lambda: self.place.status()["ready"] == 1)
        self.assertEqual((self.mark(8188), self.mark(8288)), (before, "b two"))
        # Nothing of an instance is on the network: sshd, the gateways and their metrics.
        listened = self.alpha.run("ss", "-Hltn").stdout.split()
        ports = {int(field.rsplit(":", 1)[1]) for field in listened if ":" in field and field.rsplit(":", 1)[1].isdigit()}
        self.assertEqual(ports, {22, 8188, 8189, 8288, 8289})

    def test_nobody_else_gets_to_an_instance(self):
        self.deploy_b("b")
        place = self.place.status()
        id = place["instances"][0]["id"]
        folder = f"/run/stillframe-instances/demo/{id}"
        self.assertEqual(place["instances"][0]["address"], f"{folder}/http.sock")
        shown = self.alpha.run("stat", "-c", "%a %u %g", folder).stdout.split()
        # A dynamic user's name is known only where libnss-systemd is.
        ids = {unit: self.alpha.run("systemctl", "show", "-p", "UID,GID", "--value", unit).stdout.split()
               for unit in (f"stillframe-demo-{id}.service", "stillframe-demo-gateway.service", "stillframe-other-gateway.service")}
        (instance, _), (_, gateway), (_, other_gateway) = ids.values()
        self.assertEqual(shown, ["710", instance, gateway])
        code, said = self.as_nobody("stat", f"{folder}/http.sock")
        self.assertEqual((code, "Permission denied" in said), (1, True), said)
        # Nor can anybody be in its place: what is above is root's.
        for path in (folder, "/run/stillframe-instances/demo", "/run/stillframe-instances"):
            code, said = self.as_nobody("touch", f"{path}/mine")
            self.assertIn("Permission denied", said)
        other = next(u for u in self.alpha.run("systemctl", "list-units", "--plain", "--no-legend", "stillframe-other-s*").stdout.split() if u.startswith("st"))
        b = other.removeprefix("stillframe-other-").removesuffix(".service")
        for path in (f"{folder}/http.sock", "/run/stillframe/demo/gateway.json", f"/run/stillframe/demo/{id}.json", f"/run/stillframe/other/{b}.json"):
            seen = self.place.instance("alpha", b, f"/file?path={path}", service="other")
            self.assertIn("Permission denied", json.loads(seen)["error"], path)
            code, said = self.as_nobody("cat", path)
            self.assertIn("Permission denied", said)
        modes = self.alpha.sh("stat -c '%a %u %g' /run/stillframe/*/*.json").stdout.splitlines()
        self.assertEqual(set(modes), {"600 0 0", f"640 0 {gateway}", f"640 0 {other_gateway}"})

    def test_an_instance_that_dies_is_let_in_again(self):
        pid = json.loads(self.place.instance("alpha", self.place.status()["instances"][0]["id"], "/system_stats"))["system"]["pid"]
        unit = next(u for u in self.place.units() if "-s0-g" in u)
        self.alpha.run("systemctl", "kill", "--signal=KILL", unit)

        def again():
            out = self.place.local("alpha", "/system_stats", "-H", f"Authorization: Bearer {KEYS['old']}")
            return json.loads(out).get("system", {}).get("pid") not in (None, pid)
        self.wait(again)

    def test_a_program_that_listens_elsewhere_says_so(self):
        before = self.mark(8188)
        self.configure_a("old")
        self.place.configure(service='[service.gateway]\napi-keys = [{ file = "old.key" }]', quick=service.QUICK.replace('"20s"', '"4s"'))
        host = self.place.deploy(code=1, mark="astray", port=9000).host()
        self.assertRegex(host["error"], r"was not healthy within 4 s: refuses connections; it listens on 127\.0\.0\.1:9000, and nothing of it on "
                                        r"/run/stillframe-instances/demo/s0-g\d+/http\.sock")
        self.assertIn("take --port and --listen out of the arguments", host["hint"])
        self.assertEqual(self.mark(8188), before)

    def test_keys_switch_with_the_generation(self):
        before = self.mark(8188)
        self.configure_a("new")
        self.place.behave(mark="never", start="never")
        text = (self.place.project / "stillframe.toml").read_text()
        (self.place.project / "stillframe.toml").write_text(text.replace('deadline = "20s"', 'deadline = "4s"'))
        process = self.place.start("--json", "deploy", "--offline")
        answers = set()
        while process.poll() is None:
            answers.add(self.mark(8188))
            time.sleep(0.1)
        process.communicate()
        # Of a deployment that fails no client hears anything.
        self.assertEqual((process.returncode, answers), (1, {before}))
        self.place.behave(mark="with the new key")
        self.configure_a("new")
        self.place.deploy()
        self.assertEqual((self.mark(8188, "new"), self.mark(8188, "old")), ("with the new key", 401))
        self.place.run("rollback")
        self.assertEqual((self.mark(8188, "old"), self.mark(8188, "new")), (before, 401))

    def test_a_generation_cannot_touch_the_next_one(self):
        """The old one may be hostile: a rollback gets rid of it."""
        old = self.place.status()
        self.place.behave(mark="next", start=8)
        process = self.place.start("--json", "deploy", "--offline")
        unit = self.wait(lambda: next((u for u in self.place.units() if "-s0-g" in u and not u.endswith(f"-g{old['serving']}.service")), None))
        pid = self.wait(lambda: self.alpha.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout.strip().lstrip("0"))
        id = unit.removeprefix("stillframe-demo-").removesuffix(".service")
        self.wait(lambda: self.alpha.sh(f"ls /var/lib/private/stillframe-slots/demo/{id}/slot/main/main.py", check=False).returncode == 0)

        def ask(path, *arguments):
            return json.loads(self.place.instance("alpha", old["instances"][0]["id"], path, *arguments))["error"]
        for slot in (f"/var/lib/stillframe-slots/demo/{id}", f"/var/lib/private/stillframe-slots/demo/{id}", f"/proc/{pid}/root/var/lib/stillframe-slots/demo/{id}"):
            self.assertRegex(ask(f"/file?path={slot}/slot/main/main.py", "-d", "hostile"), "Permission denied|No such file|Read-only")
        self.assertRegex(ask(f"/file?path=/proc/{pid}/mem"), "Permission denied|No such file")
        self.assertRegex(ask(f"/kill?pid={pid}"), "not permitted")
        out, err = process.communicate()
        self.assertEqual((process.returncode, self.mark(8188)), (0, "next"), out + err)
