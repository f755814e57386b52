"""Programs of the workstation and files of its system that ship: a service finds both where the workstation has them, on a machine that
has neither."""
import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path

import harness
import service
from small import Case, Wheel, server, write

SECONDS = 75

#: What a pack may do with programs and files of the system.
LOOK = """\
import json, os, subprocess
def run(*command, **variables):
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
        return done.stdout.strip() + done.stderr.strip()
    except OSError as e:
        return str(e)
def tree(top):
    return sorted(os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names)
"""


class Run(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        self.tools, self.fonts = self.place / "tools", self.place / "system" / "fonts"
        self.tools.mkdir(parents=True)
        # Its libraries are the system's: the test's own name for it is on no machine.
        shutil.copy(shutil.which("jq"), self.tools / "sift-1")
        (self.tools / "sift").symlink_to("sift-1")
        write(self.tools / "greet", '#!/usr/bin/env -S sift -nrf\n"hello"\n', 0o755)
        write(self.fonts / "deep" / "a.ttf", "a font")
        write(self.place / "shared" / "b.ttf", "another")
        (self.fonts / "b.ttf").symlink_to(self.place / "shared" / "b.ttf")
        (self.fonts / "again.ttf").symlink_to(self.place / "shared" / "b.ttf")
        write(self.fonts / "own.key", "-----BEGIN PRIVATE KEY-----\nx\n")
        shutil.copy(self.tools / "sift-1", self.fonts / "deep" / "tool")
        self.conf = write(self.place / "system" / "a.conf", "ours\n")
        self.configure()

    def configure(self, programs=("sift", "greet"), files=None):
        programs = [str(self.tools / name) for name in programs]
        files = [str(path) for path in ((self.fonts, self.conf) if files is None else files)]
        write(self.env.root / "stillframe.toml", f"[service]\nprograms = {json.dumps(programs)}\nsystem-files = {json.dumps(files)}\n")
        write(self.env.root / "main.py", server(
            f"""{{"sift": run("sift", "-nc", "[1,2]"), "greet": run("greet"), "tree": tree("{self.fonts}"), "conf": open("{self.conf}").read(),
               "tool": run("{self.fonts}/deep/tool", "-n", "3"), "loaded": run("sift", LD_TRACE_LOADED_OBJECTS="1"),
               "path": os.environ["PATH"]}}""", LOOK))

    def serve(self, *hide):
        server = harness.Server(self.station, hide=hide)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        self.addCleanup(server.process.stdout.close)
        return server

    def test_a_service_finds_them_where_the_workstation_has_them(self):
        taken = self.snapshot(self.env)
        self.finds(taken, ("warning", "secret", f"{self.fonts}/own.key",
                           "holds a private key: left out; give it to the host as a service secret"))
        # As a machine without them: what is hidden is empty.
        server = self.serve(self.place / "system", self.tools)
        seen = server.get("/")
        self.assertEqual((seen["sift"], seen["greet"], seen["tool"], seen["conf"]), ("[1,2]", "hello", "3", "ours\n"))
        self.assertEqual(seen["tree"], ["again.ttf", "b.ttf", "deep/a.ttf", "deep/tool"])
        libraries = [line.split("=>")[-1].split()[0] for line in seen["loaded"].splitlines() if "vdso" not in line]
        self.assertGreater(len(libraries), 3)
        self.assertEqual([path for path in libraries if not path.startswith("/nix/store/")], [])
        own, *others = seen["path"].split(":")
        self.assertTrue(own.endswith("-python-environment/bin"), own)
        self.assertEqual([path.partition("-program-")[2] for path in others[:2]], ["greet/bin", "sift/bin"])
        self.assertEqual(others[2:], ["/usr/local/bin", "/usr/bin", "/bin"])
        server.stop()
        # Where the machine has them, the snapshot's come first.
        write(self.conf, "this machine's\n")
        write(self.fonts / "new.ttf", "")
        seen = self.serve().get("/")
        self.assertEqual((seen["conf"], seen["tree"]), ("ours\n", ["again.ttf", "b.ttf", "deep/a.ttf", "deep/tool"]))
        self.assertEqual(self.conf.read_text(), "this machine's\n")

    def test_what_lists_a_snapshot_names_them(self):
        taken = self.snapshot(self.env).json
        self.assertEqual(self.snapshot(self.env).json["snapshot"], taken["snapshot"])
        inspected = self.inspect(self.env).json
        self.assertEqual([p["path"] for p in inspected["programs"]], ["greet", "sift"])
        self.assertEqual([f["path"] for f in inspected["system_files"]], [str(self.conf), str(self.fonts)])
        shown = self.run_it("snapshots", "show", taken["id"]).out
        for line in ("program sift", f"system {self.fonts}"):
            self.assertIn(line, shown)
        bom = self.run_it("export", "cyclonedx", taken["id"]).json
        named = {(c["type"], c["name"]) for c in bom["components"]}
        self.assertLessEqual({("application", "sift"), ("file", str(self.fonts))}, named)
        self.assertIn("verified", self.run_it("snapshots", "verify", taken["id"]).out)
        # The order of the configuration is no matter, and a host is sent what has changed.
        self.configure(("greet", "sift"), (self.conf, self.fonts, self.fonts / "deep"))
        self.assertEqual(self.snapshot(self.env).json["snapshot"], taken["snapshot"])
        write(self.conf, "changed\n")
        self.configure(("sift",), (self.conf, self.fonts))
        other = self.snapshot(self.env).json
        diff = self.run_it("snapshots", "diff", "--json", taken["id"], other["id"]).json
        self.assertEqual([(c["name"], c["what"]) for c in diff["system"]], [(str(self.conf), "changed"), ("program greet", "removed")])
        self.assertLess(diff["new_paths"], 4)

    def test_what_cannot_ship_is_refused_or_named(self):
        write(self.tools / "other", "#!/opt/none/bin/perl -w\n", 0o755)
        self.configure(("other",))
        self.finds(self.inspect(self.env), (
            "problem", "audit", f"{self.tools}/other", "a script that /opt/none/bin/perl runs, which a host need not have: name that in "
            "[service] programs, too, and what it reads in system-files"))
        (self.tools / "other").chmod(0o4755)
        self.failure(["inspect", self.env.root], 2, f"""\
error: the program {self.tools}/other ({self.tools}/other) is setuid or setgid: a Nix store holds no such files, and instances gain no rights
  hint: take it out of [service] programs""")
        self.configure(("absent",))
        self.failure(["inspect", self.env.root], 2, f"""\
error: the program {self.tools}/absent cannot be opened
  because: No such file or directory (os error 2)
  hint: install it on this machine, or take it out of [service] programs""")
        self.configure(files=(self.place / "nowhere",))
        self.failure(["inspect", self.env.root], 2, f"""\
error: {self.place}/nowhere of [service] system-files cannot be opened
  because: No such file or directory (os error 2)
  hint: install what brings it, or take it out of the list""")
        self.configure(files=("/usr",))
        self.failure(["inspect", self.env.root], 2, f"""\
error: {self.env.root}/stillframe.toml line 3: service.system-files names "/usr", which an instance needs of its host: name the folder in it that is read
  hint: name what the service reads, and no more""")


class Libraries(Case):
    def test_one_more_changes_no_bytecode(self):
        env = self.environment()
        # One that the system's interpreter does not load, and what it needs in turn.
        library = next(path for name in ("libjq.so.1", "libcurl-gnutls.so.4", "libgdbm.so.6") for path in Path("/usr/lib").glob(f"*-linux-gnu/{name}"))
        write(env.root / "main.py", server(
            """{"loaded": [name for name in NAMES if loads(name)], "maps": [line.split()[-1] for line in open("/proc/self/maps") if "/lib/lib" in line]}""",
            f"""\
import ctypes
NAMES = [{library.name!r}, "libnowhere.so.1"]
def loads(name):
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False
"""))
        Wheel("alpha").install(env.site)
        one = self.snapshot(env).json
        write(env.root / "stillframe.toml", f'[python]\nlibraries = ["{library}"]\n')
        two = self.snapshot(env).json
        # The same where nothing is there yet: each path comes after what it refers to.
        with harness.Workstation("sf-bad-other-") as other:
            self.assertEqual(other.stillframe("snapshot", "--json", env.root, **self.clean({})).json["snapshot"], two["snapshot"])
        diff = self.run_it("snapshots", "diff", "--json", one["id"], two["id"]).json
        # The library, the environment with an interpreter that finds it, the snapshot.
        self.assertEqual(diff["new_paths"], 3)
        outputs = [{o["label"]: o["path"] for o in self.run_it("snapshots", "show", "--json", taken["id"]).json["record"]["outputs"]} for taken in (one, two)]
        changed = {label for label in outputs[1] if outputs[0].get(label) != outputs[1][label]}
        self.assertEqual(changed, {"further libraries", "interpreter with further libraries", "Python environment", "snapshot"})
        serving = harness.Server(self.station, two["id"])
        self.addCleanup(serving.process.stdout.close)
        seen = serving.get("/")
        self.assertEqual(serving.stop(), 0)
        self.assertEqual(seen["loaded"], [library.name])
        self.assertEqual([path for path in seen["maps"] if not path.startswith("/nix/store/")], [])
        self.assertIn("verified", self.run_it("snapshots", "verify", two["id"]).out)


class OnAHost(service.Case):
    """The hosts of the tests have neither fonts nor these programs."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.fonts = "/usr/share/stillframe-fonts/truetype"
        os.makedirs(cls.fonts, exist_ok=True)
        cls.addClassCleanup(shutil.rmtree, os.path.dirname(cls.fonts))
        write(f"{cls.fonts}/deep/a.ttf", "a font")
        cls.conf = "/etc/stillframe-test.conf"
        write(cls.conf, "ours\n")
        cls.addClassCleanup(os.unlink, cls.conf)
        # A file system of the host that is read-only: nothing can be made there.
        cls.luts = "/opt/stillframe-test/luts"
        write(f"{cls.luts}/a.cube", "a table")
        cls.addClassCleanup(shutil.rmtree, os.path.dirname(cls.luts))
        cls.place.hosts.hosts[0].sh("mount -t tmpfs none /opt; mkdir /opt/own; echo own >/opt/own/file; mount -o remount,ro /opt")
        cls.look = LOOK + f"""
SEEN = {{"jq": run("jq", "-nc", "[1]"), "git": run("git", "--version"), "fonts": tree("{cls.fonts}"), "font": open("{cls.fonts}/deep/a.ttf").read(),
         "conf": open("{cls.conf}").read(), "luts": tree("{cls.luts}")}}
"""
        cls.place.pack.write_text(cls.look + "json.dump(SEEN, open(os.path.join(os.path.dirname(__file__), 'seen.json'), 'w'))\nNODE_CLASS_MAPPINGS = {}\n")
        cls.place.configure(service=f'programs = ["jq", "git"]\nsystem-files = ["{cls.fonts}", "{cls.conf}", "{cls.luts}"]\n')
        cls.place.deploy("--label", "one")

    def slot(self):
        [instance] = self.place.status()["instances"]
        return instance["id"], f"/var/lib/stillframe-slots/demo/{instance['id']}/slot"

    def seen(self):
        instance, slot = self.slot()
        return json.loads(self.place.instance("alpha", instance, f"/file?path={slot}/base/custom_nodes/painter/seen.json"))

    def test_a_pack_sees_the_same_as_in_the_environment(self):
        here = json.loads(subprocess.run(["python3", "-c", self.look + "print(json.dumps(SEEN))"], capture_output=True, text=True, check=True).stdout)
        self.assertEqual((here["jq"], here["fonts"]), ("[1]", ["deep/a.ttf"]))
        self.assertEqual(self.seen(), here)
        # Nothing of it is the host's.
        self.assertEqual(self.alpha.sh(f"command -v jq git; find {self.fonts} -type f; cat {self.conf}").stdout, "")
        instance = self.place.status()["instances"][0]["id"]
        self.assertEqual(self.place.instance("alpha", instance, "/file?path=/opt/own/file"), "own\n")
        self.alpha.reboot()
        self.wait(lambda: self.place.status().get("ready") == 1)
        self.assertEqual(self.seen(), here)

    def test_it_has_its_own_places_and_what_was_left_out_for_a_secret(self):
        env, pack, at = self.place.environment, self.place.pack.parent, "custom_nodes/painter"
        places = {"words": f"{env}/{at}/words", "models": f"{env}/models", "python": f"{env}/.venv/bin/python"}
        write(pack / "own.json", json.dumps(places))
        write(pack / "words/a.txt", "red\n")
        secret = "0f3b9d27c1a84e65"
        settings = json.dumps({"civitai_api_key": secret, "theme": "dark"})
        for name in ("settings.json", "kept.json"):
            write(pack / name, settings)
        write(self.place.pack, """\
import json, os
HERE = os.path.dirname(os.path.abspath(__file__))
text = lambda name: open(os.path.join(HERE, name)).read()
SEEN = {"places": {name: [path, os.path.exists(path)] for name, path in json.loads(text("own.json")).items()},
        "settings": text("settings.json"), "kept": json.loads(text("kept.json"))}
json.dump(SEEN, open(os.path.join(HERE, "seen.json"), "w"))
NODE_CLASS_MAPPINGS = {}
""")
        self.place.configure(text=f"""\
[service.secrets]
SETTINGS = {{ file = "{pack}/settings.json", at = "{at}/settings.json" }}
[redact]
"{at}/kept.json" = ["civitai_api_key"]
""")
        file = self.place.project / "stillframe.toml"
        file.write_text(f'own-paths = ["{at}/own.json"]\n{file.read_text()}')
        deployed = lambda: next(e for e in self.place.deploy().events if e["type"] == "begin")["snapshot"]  # noqa: E731
        snapshot = deployed()
        seen = self.seen()
        _, slot = self.slot()
        self.assertEqual({name: there for name, (_, there) in seen["places"].items()}, dict.fromkeys(places, True))
        self.assertEqual(seen["places"]["words"][0], f"{slot}/base/{at}/words")
        self.assertEqual(seen["kept"], {"civitai_api_key": "", "theme": "dark"})
        self.assertEqual(seen["settings"], settings)
        # It is in no store, neither here nor there, and on the host for root and the service alone.
        closure = self.alpha.run("nix-store", "--query", "--requisites", snapshot).stdout.split()
        self.assertIn(snapshot, closure)
        self.assertEqual(self.alpha.run("grep", "-rl", "-D", "skip", secret, *closure, check=False).stdout, "")
        readable = self.alpha.sh(f"grep -rl -D skip {secret} /var/lib/stillframe /var/lib/private 2>/dev/null | xargs -r -n 1 stat -L -c '%a %n'", check=False).stdout.split("\n")
        # The pack itself wrote one of them down.
        self.assertEqual([line for line in readable if line and not line.split()[0].endswith("00") and not line.endswith("/seen.json")], [])
        # Another value is another generation of the same snapshot.
        other = settings.replace(secret, "0f3b9d27c1a84e66")
        write(pack / "settings.json", other)
        self.assertEqual((deployed(), self.seen()["settings"]), (snapshot, other))
        self.alpha.reboot()
        self.wait(lambda: self.place.status().get("ready") == 1)
        self.assertEqual((self.seen()["settings"], self.seen()["places"]["words"][1]), (other, True))


if __name__ == "__main__":
    unittest.main()
