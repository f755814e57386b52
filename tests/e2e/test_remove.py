"""A service that is removed leaves nothing on its host: what is there afterwards is what was there before its first deployment."""
import json
import os
import re
import stat
import subprocess
import unittest
from pathlib import Path

import service
from service import Stream, wait_process

SECONDS = 200
SHARES = {"clock"}
#: What systemd makes when it first runs a unit with a user of its own, and keeps, empty.
SYSTEMD = ("/run/private", "/run/systemd/dynamic-uid", "/run/systemd/unit-private-tmp")
#: What changes on a host that does nothing: sessions, logs, and what systemd and Nix keep of their own.
PASSING = re.compile(r"/(proc|sys|dev|tmp|nix/store|nix/var/nix/db|nix/var/nix/gc-socket|nix/var/log|nix/var/nix/(temproots|gc.lock|current-load|userpool2?|"
                     r"daemon-socket)|var/log|var/tmp|var/lib/systemd|run/(log|user|utmp|sshd?|systemd/(sessions|users|journal|units|inhibit|generator[^/]*|netif|seats|machines|notify|"
                     r"dynamic-uid/direct:.*|shutdown|userdb|propagate|io\.systemd[^/]*)))(/|$)")
FULL = """
[service.jobs]
queue = "gateway"
[service.secrets]
TOKEN = { env = "LIFE_TOKEN" }
"""


class Case(service.Case):
    #: Of the host's own folders, made at the first deployment.
    place_of_fonts = "/usr/share/life-fonts/deep"

    def act(self, *words, code=0, **options):
        return Stream(self.place.run("--json", *words, code=code, **options))

    def files(self):
        """Everything on the host: kind, mode, owner; of /etc and of links also what is in them."""
        root = Path(f"/proc/{self.alpha.pid()}/root")
        found = {}
        for folder, folders, names in os.walk(root):
            inner = "/" + os.path.relpath(folder, root) if folder != str(root) else ""
            folders[:] = [name for name in folders if not PASSING.match(f"{inner}/{name}")]
            for name in [*folders, *names]:
                path, inside = Path(folder, name), f"{inner}/{name}".replace("//", "/")
                if PASSING.match(inside):
                    continue
                try:
                    info = path.lstat()
                except FileNotFoundError:
                    continue
                content = ""
                if stat.S_ISLNK(info.st_mode):
                    content = os.readlink(path)
                elif inside.startswith("/etc/") and stat.S_ISREG(info.st_mode):
                    content = path.read_bytes()
                found[inside] = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, content)
        return found

    def everything(self):
        run = lambda *words: self.alpha.run(*words).stdout.splitlines()
        units = {line.split()[0] for line in run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full")}
        return {
            "files": self.files(),
            "store": set(run("ls", "/nix/store")),
            "units": {unit for unit in units if not re.match(r"session|user|run-user|systemd-|run-.*\.scope|init|ssh@|sshd@|dev-|proc-|sys-|nix-daemon|logrotate|dpkg|apt-|e2scrub|fstrim|man-db", unit)},
            "unit files": {line.split()[0] for line in run("systemctl", "list-unit-files", "--no-legend", "--full")},
            "users": run("getent", "passwd"), "groups": run("getent", "group"),
            "mounts": sorted(line.split()[4] for line in run("cat", "/proc/1/mountinfo")),
            "sockets": sorted(line.split()[4] for line in run("ss", "-Hltn")),
        }

    def compare(self, before, after, staying=()):
        for what, was in before.items():
            now = after[what]
            if isinstance(was, dict):
                passes = lambda k: k in SYSTEMD or k.startswith(tuple(staying) or ("\0",))
                more = {k: v[:4] for k, v in now.items() if was.get(k) != v and not passes(k)}
                less = {k: v[:4] for k, v in was.items() if k not in now}
                self.assertEqual((more, less), ({}, {}), what)
            elif isinstance(was, set):
                self.assertEqual((now - was, was - now), (set(), set()), what)
            else:
                self.assertEqual(now, was, what)

    def deploy_all(self):
        fonts = self.place.ws.root / "fonts" / "deep"
        fonts.mkdir(parents=True, exist_ok=True)
        (fonts / "a.ttf").write_text("a font")
        self.place.configure(service=f'scaling = {{ minimum = 1, maximum = 2 }}\nslots = 2\nsystem-files = ["{fonts}"]', text=FULL, drain="10s")
        for mark in ("one", "two"):
            self.place.behave(mark=mark)
            done = Stream(self.place.run("--json", "deploy", "--offline", LIFE_TOKEN="a-secret-of-the-service"))
            self.assertEqual(done.host()["status"], "succeeded", done.text)
        graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": 0.1}},
                 "2": {"class_type": "Save", "inputs": {"filename_prefix": "life", "images": ["1", 0]}}}
        job = json.loads(self.place.local("alpha", "/prompt", "-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps({"prompt": graph})))
        self.wait(lambda: json.loads(self.place.local("alpha", f"/history/{job['prompt_id']}")))
        return fonts


class Removed(Case):
    def test_nothing_is_left(self):
        before = self.everything()
        fonts = self.deploy_all()
        self.assertTrue(self.alpha.run("test", "-d", str(fonts), check=False).returncode == 0)
        self.assertNotEqual(self.everything()["files"].keys(), before["files"].keys())
        # First without the data: that is all that stays.
        plan = self.place.run("remove", "--dry-run").out
        self.assertRegex(plan, r"alpha  demo goes; generation \d+ finishes what it has first")
        for line in (r"goes   units: /run/systemd/system/stillframe-demo-gateway\.socket", r"goes   state, history and secrets: /var/lib/stillframe/services/demo",
                     r"stays  pictures, uploads and user data: /var/lib/stillframe-data/demo", r"stays  the jobs of the gateway: /var/lib/stillframe-gateway/demo",
                     r"stays  folders of the host's own: /srv/models"):
            self.assertRegex(plan, line)
        self.assertEqual(self.place.mark(), "two")
        self.assertIn("nothing was done: nobody can be asked here", self.place.run("remove", code=2).err)
        (other := self.place.ws.root / "other").mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", self.place.project / "stillframe.toml", self.place.project / "hosts", other], check=True)
        refused = Stream(self.place.ws.stillframe("--json", "remove", "--yes", cwd=other, code=1)).host()
        self.assertIn("demo is served for another project", refused["error"])
        done = self.act("remove", "--yes")
        self.assertEqual((done.host()["status"], done.host()["generation"]), ("succeeded", None), done.text)
        self.assertGreater(next(e for e in done.events if e["type"] == "freed")["bytes"], 1 << 20)
        self.assertEqual([e["type"] for e in done.events if e["type"] in ("removal", "begin", "result")], ["removal", "begin", "result"])
        self.compare(before, self.everything(), ["/var/lib/stillframe-data", "/var/lib/private/stillframe-data", "/var/lib/stillframe-gateway", "/var/lib/private/stillframe-gateway"])
        self.assertIn("was never deployed here", self.place.run("status").out)
        # Its pictures are there for the one that comes next.
        self.deploy_all()
        self.assertIn("life", self.alpha.sh("ls /var/lib/private/stillframe-data/demo/output/*").stdout)
        done = self.act("remove", "--yes", "--data")
        self.assertEqual(done.host()["status"], "succeeded", done.text)
        self.compare(before, self.everything())
        # What is not there is removed; and nothing of the attempt is left either.
        self.assertEqual(self.act("remove", "--yes").host()["status"], "succeeded")
        self.compare(before, self.everything())

    def test_cut_in_the_middle_it_is_done_or_undone(self):
        self.place.configure(drain="10s")
        before = self.everything()
        for how in ("killed in the drain", "killed after the commit", "power lost after the commit", "cancelled"):
            with self.subTest(how):
                self.place.deploy(mark="here")
                if "drain" in how or how == "cancelled":
                    graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": 4.0}}, "2": {"class_type": "Save", "inputs": {"filename_prefix": "x", "images": ["1", 0]}}}
                    self.place.local("alpha", "/prompt", "-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps({"prompt": graph}))
                process = self.place.start("--json", "remove", "--yes", "--data")
                text = "finishes what it has" if "drain" in how or how == "cancelled" else "all that was theirs goes"
                record = f"cat /var/lib/stillframe/services/{service.SERVICE}/attempts/*.jsonl 2>/dev/null | grep -A99 '\"kind\":\"remove\"'"
                self.wait(lambda: text in self.alpha.sh(record, check=False).stdout or process.poll() is not None)
                if how == "cancelled":
                    self.place.run("cancel")
                elif "killed" in how:
                    units = [unit for unit in self.place.units() if "-activation-" in unit]
                    for unit in units:
                        self.alpha.run("systemctl", "kill", "--signal=KILL", unit, check=False)
                else:
                    self.alpha.power_loss()
                    process.kill()
                out, err, code = wait_process(process)
                if "power" in how:
                    self.alpha.boot()
                    self.alpha.wait_ready()
                    self.wait(lambda: self.alpha.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip() == "active", 60)
                stays = "drain" in how or how == "cancelled"
                if stays:
                    self.assertEqual(code, 1, out + err)
                    self.assertEqual(self.place.mark(), "here")
                    self.assertEqual(self.place.history()[0]["events"][-1]["status"], "cancelled" if how == "cancelled" else "interrupted")
                else:
                    self.assertIn("never deployed", self.place.run("status").out)
                    self.place.run("retention")
                    after = self.everything()
                    self.compare({k: before[k] for k in ("units", "users", "unit files", "sockets")}, after)
                    left = [path for path in after["files"] if "demo" in path and path not in before["files"]]
                    self.assertEqual(left, [])
        # The last one was cancelled.
        self.assertEqual(self.act("remove", "--yes", "--data").host()["status"], "succeeded")


if __name__ == "__main__":
    unittest.main()
