"""The main job on the example environment: inspect, lock, snapshot, run, change, diff, remove; what each
command prints is what a user sees, so texts are compared."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from harness import BINARY, CACHE, FIXTURE, Server, Workstation, example, in_order, tree_state

SECONDS = 240
SHARES = {"example", "network"}
BATCH = True

GRAPH = json.loads((FIXTURE / "graph.json").read_text())
SHARED = {}


def setUpModule():
    SHARED["comfy"] = example()
    SHARED["before"] = tree_state(SHARED["comfy"].parent)
    SHARED["ws"] = Workstation()
    SHARED["first"] = SHARED["ws"].stillframe("snapshot", SHARED["comfy"], "--probe", "--label", "first", "--json").json


def tearDownModule():
    SHARED["ws"].remove()


def findings(report, topic):
    return {(f["path"], f["message"]) for f in report["findings"] if f["topic"] == topic}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answered(url, process, limit=60):
    """What a server says once it listens."""
    deadline = time.monotonic() + limit
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Inspect(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ws, cls.comfy = SHARED["ws"], SHARED["comfy"]
        cls.report = cls.ws.stillframe("inspect", cls.comfy, "--json").json

    def test_every_distribution_has_its_provenance(self):
        by_name = {d["name"]: d for d in self.report["distributions"]}
        self.assertEqual(len(by_name), 47)
        kinds = {}
        for d in by_name.values():
            kinds.setdefault(d["provenance"], set()).add(d["name"])
        self.assertEqual(kinds["captured"], {"docopt", "lens-kit", "palette-tools", "studio-helpers"})
        self.assertEqual(kinds["patched"], {"opencv-python-headless", "tqdm"})
        self.assertEqual(len(kinds["pinned"]), 41)
        self.assertEqual(by_name["tqdm"]["changed"], [{"path": "tqdm/utils.py", "how": "changed"}])
        replaced = {c["how"] for c in by_name["opencv-python-headless"]["changed"]}
        self.assertEqual(replaced, {"replaced by opencv-contrib-python-headless"})
        self.assertEqual(len(by_name["opencv-python-headless"]["changed"]), 7)
        self.assertEqual(by_name["docopt"]["reason"],
                         "the index has no wheel docopt 0.6.2 for tags py2-none-any, py3-none-any (built from an sdist?)")
        self.assertRegex(by_name["lens-kit"]["reason"], r"^installed from git file://.*/projects/lens-kit at commit [0-9a-f]{40}$")
        self.assertRegex(by_name["studio-helpers"]["reason"], r"^editable install of .*/projects/studio-helpers$")

    def test_every_kind_of_pack(self):
        packs = {p["name"]: p for p in self.report["packs"]}
        self.assertEqual(set(packs), {
            ".disabled/retired-pack", "broken-import", "edge-lines", "loose_gradient.py", "nested-git", "old-stuff.disabled",
            "pixel-tools", "plain-folder", "python-guests", "symlinks-inside", "weights-inside", "with-secrets",
            "websocket_image_save.py", "with-submodule", "writes-at-import"})
        self.assertEqual([n for n, p in sorted(packs.items()) if not p["enabled"]], [".disabled/retired-pack", "old-stuff.disabled"])
        self.assertFalse(packs["pixel-tools"]["git"]["dirty"])
        self.assertTrue(packs["edge-lines"]["git"]["dirty"])
        self.assertIsNone(packs["plain-folder"]["git"])
        self.assertEqual([(n["path"], n["submodule"]) for n in packs["nested-git"]["nested"]], [("tools", False)])
        self.assertEqual([(n["path"], n["submodule"]) for n in packs["with-submodule"]["nested"]], [("vendor/shapes", True)])
        self.assertEqual(packs["weights-inside"]["weights"], [{"path": "weights/detector.safetensors", "bytes": 52428896}])
        commit = subprocess.run(["git", "-C", self.comfy / "custom_nodes/pixel-tools", "rev-parse", "HEAD"],
                                capture_output=True, text=True, check=True).stdout.strip()
        self.assertEqual(packs["pixel-tools"]["git"]["commit"], commit)
        self.assertEqual(self.report["main"]["version"], "0.33.0")

    def given(self, name, file):
        at = f"custom_nodes/with-secrets/{file}"
        return f'under [service.secrets]: {name} = {{ file = "{self.comfy}/{at}", at = "{at}" }}'

    def test_secrets_are_named_and_left_out(self):
        note = "left out; give it to the host as a service secret"
        dest = self.comfy.parent
        files = (("studio.pem", "a private key"), ("config.ini", "a value for `token`"))
        hidden = {(f"{place}/{name}", f"holds {what}: {note}") for place in (f"{dest}/shared-lib", f"{dest}/projects/palette-tools") for name, what in files}
        site = next((self.comfy / ".venv" / "lib").glob("python3.*")).relative_to(self.comfy) / "site-packages"
        hidden |= {(f"studio_private/{name}", f'holds {what}: {note}; allow-secrets = ["{site}/studio_private/{name}"] ships it as it is') for name, what in files}
        self.assertEqual(findings(self.report, "secret"), hidden | {
            (".cache/huggingface/stored_tokens", f"a Hugging Face token: {note}"),
            (".cache/huggingface/token", f"a Hugging Face token: {note}"),
            ("custom_nodes/with-secrets/.env", f"an environment file: {note}, {self.given('WITH_SECRETS_ENV', '.env')}"),
            ("custom_nodes/with-secrets/config.ini", f"holds a value for `token`: {note}, {self.given('WITH_SECRETS_CONFIG', 'config.ini')}; or ship it "
             "without that value, under [redact]: \"custom_nodes/with-secrets/config.ini\" = [\"token\"]")})
        inside = subprocess.run(["grep", "-rlE", "not-a-real-secret", SHARED["ws"].real("/nix/store")], capture_output=True, text=True)
        self.assertEqual((inside.returncode, inside.stdout), (1, ""))

    def test_what_nobody_owns_and_what_lies_outside(self):
        self.assertEqual(findings(self.report, "unowned"), {
            ("stray_module.py", "no distribution owns it; it is captured"),
            ("studio-shared.pth", "no distribution owns it; it is captured")})
        dest = self.comfy.parent
        outside = {(o["from"].removeprefix(f"{self.comfy}/"), o["to"].removeprefix(f"{dest}/"), o["captured"])
                   for o in self.report["outside"]}
        self.assertLessEqual({
            ("custom_nodes/symlinks-inside/luts", "shared-assets/luts", True),
            ("custom_nodes/symlinks-inside/credits.txt", "shared-assets/credits.txt", True),
            ("editable install of palette-tools", "projects/palette-tools", True)}, outside)
        captured = {to for _, to, yes in outside if yes}
        self.assertIn("shared-lib", captured)
        self.assertTrue(any(to.startswith("projects/studio-helpers") for to in captured), captured)
        self.assertIn(("extra_model_paths.yaml", "says where models are on this machine (1 folders): not captured; "
                       "the service's configuration says it for a host"), findings(self.report, "outside"))

    def test_models_are_listed_by_size_and_never_captured(self):
        sizes = {m["path"]: m["bytes"] for m in self.report["models"] if m["bytes"]}
        # Of what ComfyUI's own repository has there, the report says the size, too; that ships.
        self.assertEqual(sizes.pop("models/configs"), 26)
        self.assertEqual(len(sizes), 3, sizes)
        self.assertTrue(all(size >= 16 * 1024 for size in sizes.values()))
        names = os.listdir(SHARED["ws"].real("/nix/store"))
        self.assertEqual([n for n in names if "tiny" in n and "tiny_aux" not in n and "tiny-depth" not in n], [])

    def test_the_audit_sees_the_libraries(self):
        self.assertGreater(self.report["audit"]["objects"], 100)
        self.assertEqual(self.report["audit"]["unmet"], [])
        self.assertEqual(self.report["audit"]["glibc_floor"][0][0], 2)

    def test_the_text_names_everything_too(self):
        text = self.ws.stillframe("inspect", self.comfy).out
        for line in ["  distributions 47: 41 pinned, 2 patched, 4 captured", "    edge-lines                       commit ",
                     "    plain-folder                     folder, not in git, ", "    loose_gradient.py                file, not in git, ",
                     "    old-stuff.disabled               folder, disabled, not captured, ", "\n      tools                          repository of its own, commit ",
                     "\n      vendor/shapes                  submodule, commit ",
                     "  warning tqdm/utils.py: tqdm 4.67.1: changed", "    custom_nodes/symlinks-inside/luts -> "]:
            self.assertIn(line, text)
        self.assertNotIn("\x1b[", text, "colours only on a terminal")


class Intent(unittest.TestCase):
    def test_each_statement_has_exactly_its_disagreement(self):
        ws, comfy = SHARED["ws"], SHARED["comfy"]
        config = ws.root / "intent.toml"
        config.write_text(f'environment = "{comfy}"\nintent = ["{comfy.parent}/manager-snapshot.json", '
                          f'"{comfy.parent}/requirements-hashed.txt"]\n')
        report = ws.stillframe("--config", config, "inspect", "--json").json
        found = {(Path(p).name, m) for p, m in findings(report, "intent")}
        packs = comfy / "custom_nodes" / "pixel-tools"
        log = subprocess.run(["git", "-C", packs, "log", "--format=%H"], capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual(found, {
            ("manager-snapshot.json", f"wants the pack pixel-tools at commit {log[1]}, it is at {log[0]}"),
            ("requirements-hashed.txt", "wants click 8.1.7, installed is 8.1.8"),
            ("requirements-hashed.txt", "does not name what is installed: lens-kit 0.3.0, palette-tools 0.1.0, studio-helpers 0.2.0")})


class Lock(unittest.TestCase):
    def test_both_files_are_written_once(self):
        ws, comfy = SHARED["ws"], SHARED["comfy"]
        project = ws.root / "project"
        project.mkdir()
        (project / "stillframe.toml").write_text(f'environment = "{comfy}"\n')
        done = ws.stillframe("lock", "--json", cwd=project).json
        self.assertEqual(sorted(Path(p).name for p in done["written"]), ["pylock.toml", "stillframe.lock"])
        first = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in project.iterdir()}
        again = ws.stillframe("lock", cwd=project)
        self.assertIn("both locks are unchanged", again.out)
        self.assertEqual(first, {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in project.iterdir()})
        # Another installer reads our pylock.toml: uv is the reference.
        uv = CACHE / "tools" / "bin" / "uv"
        # A copy: uv leaves a lock file in the environment that it looks at.
        venv = ws.root / "venv"
        subprocess.run(["cp", "-a", comfy / ".venv", venv], check=True)
        check = subprocess.run([uv, "pip", "install", "--dry-run", "--offline", "--preview", "--python", venv / "bin/python",
                                "--requirements", project / "pylock.toml"], capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stderr)
        self.assertIn("Would make no changes", check.stderr)


class Snapshot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.ws, cls.comfy, cls.first = SHARED["ws"], SHARED["comfy"], SHARED["first"]

    def test_nothing_in_the_environment_changed(self):
        after = tree_state(self.comfy.parent)
        differ = {k for k in SHARED["before"].keys() | after.keys() if SHARED["before"].get(k) != after.get(k)}
        self.assertEqual(differ, set())

    def test_unchanged_gives_the_same_path_and_says_so(self):
        again = self.ws.stillframe("snapshot", self.comfy)
        self.assertEqual(again.out.splitlines()[-1], f"unchanged: {self.first['snapshot']} ({self.first['id']})")
        value = self.ws.stillframe("snapshot", self.comfy, "--json").json
        self.assertTrue(value["unchanged"])
        self.assertEqual((value["realise"]["sent_paths"], value["realise"]["built"]), (0, 0))

    def test_without_its_cache_nothing_is_sent_again(self):
        """Hashed again, and found in the store: by a run whose cache is gone, and by another user of the store."""
        for more in ({}, {"XDG_STATE_HOME": self.ws.root / "other-state"}):
            value = self.ws.stillframe("snapshot", self.comfy, "--json", XDG_CACHE_HOME=self.ws.root / f"other-cache-{len(more)}", **more).json
            self.assertEqual(value["snapshot"], self.first["snapshot"])
            self.assertEqual((value["realise"]["sent_paths"], value["realise"]["sent_bytes"], value["realise"]["built"]), (0, 0, 0))
            self.assertEqual(value["unchanged"], not more)

    def test_unchanged_no_content_is_opened(self):
        """Only what is read for what it says: metadata, git's own files, configuration that may hold secrets."""
        self.ws.stillframe("snapshot", self.comfy)
        trace = self.ws.root / "trace"
        subprocess.run(["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace, BINARY, "snapshot", self.comfy], check=True,
                       env=self.ws.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        opened = set()
        for line in trace.read_text(errors="backslashreplace").splitlines():
            if (call := re.search(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", ([A-Z_|]+).*\) = \d', line)) and "O_DIRECTORY" not in call[2]:
                opened.add(call[1])
        dest = str(self.comfy.parent)
        opened = {path.removeprefix(dest + "/") for path in opened if path.startswith(dest)}
        says = re.compile(r".*/\.git(modules|/.*)?|.*\.dist-info/(METADATA|RECORD|WHEEL|direct_url\.json|entry_points\.txt)|.*\.egg-info/.*|"
                          r".*/(config\.ini|studio\.pem|with-secrets/\.env)|ComfyUI/(comfy/cli_args|comfyui_version)\.py|ComfyUI/(extra_model_paths\.yaml|requirements\.txt|pyproject\.toml|uv\.toml)|"
                          r"ComfyUI/\.venv/(pyvenv\.cfg|bin/python)|.*/site-packages/__editable___\w+_finder\.py|.*/site-packages/pip/_internal/models/index\.py")
        self.assertGreater(len(opened), 50)
        self.assertEqual([path for path in sorted(opened) if not says.fullmatch(path)], [])

    def test_the_closure_is_what_nix_says(self):
        closure = self.ws.nix("nix-store", "--query", "--requisites", self.first["snapshot"]).out.split()
        self.assertEqual(len(closure), self.first["closure_paths"])

    def test_the_scripts_of_entry_points_run(self):
        done = self.ws.inside(f"{self.first['snapshot']}/python/bin/f2py", "-v", hide=[self.comfy.parent])
        self.assertEqual(done.out, "1.26.4\n")
        done = self.ws.inside(f"{self.first['snapshot']}/python/bin/normalizer", "--version", hide=[self.comfy.parent])
        self.assertRegex(done.out, r"^Charset-Normalizer 3\.4\.2 - Python 3\.")

    def test_the_probe_recorded_classes_and_failures(self):
        probe = self.first["probe"]
        self.assertEqual([p["name"] for p in probe["packs"] if p["failed"]], ["broken-import"])
        self.assertIn("PixelRings", probe["classes"])
        self.assertGreater(probe["ready_ms"], 0)
        # One pack sleeps while it is imported; the server prints tenths of a second.
        times = {p["name"]: p["import_ms"] for p in probe["packs"]}
        self.assertGreaterEqual(times["plain-folder"], 100)

    def test_the_probe_left_nothing_behind(self):
        here = bytes(self.ws.root)
        running = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes()
            except OSError:
                continue
            if here + b"/cache/" in words:
                running.append(words)
        self.assertEqual(running, [])
        self.assertEqual(list((self.ws.root / "cache" / "stillframe").glob("probe-*")), [])

    def test_roots_keep_the_snapshot_and_its_derivations(self):
        roots = self.ws.nix("nix-store", "--gc", "--print-roots").out
        self.assertIn(self.first["snapshot"], roots)
        self.assertIn(self.first["derivation"], roots)
        dead = self.ws.nix("nix-store", "--gc", "--print-dead").out.split()
        self.assertNotIn(self.first["snapshot"], dead)
        self.assertNotIn(self.first["derivation"], dead)

    def test_show_and_list(self):
        text = self.ws.stillframe("snapshots", "list").out
        self.assertRegex(text, rf"(?m)^{self.first['id']}  \d{{4}}-\d\d-\d\dT.*  first +{re.escape(str(self.comfy))}$")
        text = self.ws.stillframe("snapshots", "show", "first").out
        self.assertIn(f"store path   {self.first['snapshot']}", text)
        self.assertIn("failed packs: broken-import", text)
        shown = self.ws.stillframe("snapshots", "show", self.first["id"], "--json").json
        self.assertEqual(shown["record"]["snapshot"], self.first["snapshot"])
        nested = {p["name"]: [n["path"] for n in p["nested"]] for p in shown["lock"]["packs"] if "nested" in p}
        self.assertEqual(nested, {"nested-git": ["tools"], "with-submodule": ["vendor/shapes"]})


class Serve(unittest.TestCase):
    """Started from the store, the environment out of sight."""

    @classmethod
    def setUpClass(cls):
        cls.ws = SHARED["ws"]
        cls.server = Server(cls.ws, "first", hide=[SHARED["comfy"].parent])

    @classmethod
    def tearDownClass(cls):
        if cls.server.process.poll() is None:
            cls.server.stop()

    def test_a_graph_runs_and_saves_its_picture(self):
        pictures = self.server.graph(GRAPH)
        self.assertEqual(len(pictures), 1)
        picture = Path(self.server.ready["base"]) / "output" / pictures[0]["subfolder"] / pictures[0]["filename"]
        self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def test_node_classes_equal_the_environments(self):
        """All that is said of each: its module, inputs, outputs. The environment's own program and packs beside it, with its own
        interpreter (a copy, as one pack writes into its folder)."""
        served = self.server.get("/object_info")
        self.assertEqual({name: node["python_module"] for name, node in served.items()}, SHARED["first"]["probe"]["classes"])
        # Nodes that load files list what is in these two.
        without = shutil.ignore_patterns(".venv", ".git", "models", "input")
        comfy = SHARED["comfy"]
        own = shutil.copytree(comfy.parent, self.ws.root / "own", symlinks=True, ignore=without) / comfy.name
        for name in ("models/configs/v1-inference.yaml", "input/example.png"):
            (own / name).parent.mkdir(parents=True)
            shutil.copy(comfy / name, own / name)
        port = free_port()
        command = [comfy / ".venv" / "bin" / "python", "-B", "main.py", "--listen", "127.0.0.1", "--port", str(port)]
        with open(self.ws.root / "own.log", "w") as log:
            server = subprocess.Popen(command, cwd=own, stdout=log, stderr=log)
        try:
            self.assertEqual(answered(f"http://127.0.0.1:{port}/object_info", server), served)
        finally:
            server.kill()
            server.wait()

    def test_models_and_pictures_of_the_programs_repository_are_there(self):
        self.assertEqual(self.server.get("/models/configs"), ["v1-inference.yaml"])
        base = Path(self.server.ready["base"])
        self.assertEqual((base / "input" / "example.png").read_bytes(), (SHARED["comfy"] / "input" / "example.png").read_bytes())
        # The models folder itself is the environment's, and nothing is written there.
        self.assertFalse((base / "models").exists())

    def test_no_library_from_outside_the_store(self):
        libraries = {m for m in self.server.maps() if ".so" in m or "/bin/" in m}
        self.assertGreater(len(libraries), 20)
        self.assertEqual(sorted(m for m in libraries if not m.startswith("/nix/store/")), [])

    def test_packs_have_bytecode_of_what_they_are(self):
        """Real files in the slot, whose source hash is their module's: nothing is compiled again."""
        packs = Path(self.server.ready["slot"]) / "base" / "custom_nodes"
        code = "import sys, importlib.util as u; print(sys.implementation.cache_tag); " \
               "[print(u.source_hash(open(p, 'rb').read()).hex()) for p in sys.argv[1:]]"
        python = f"{SHARED['first']['snapshot']}/python/bin/python"
        modules = sorted(p for p in packs.rglob("*.py") if p.parts[len(packs.parts)] not in ("python-guests", "edge-lines"))
        self.assertGreater(len(modules), 8)
        self.assertIn(packs / "loose_gradient.py", modules)
        tag, *hashes = self.ws.inside(python, "-c", code, *modules).out.split()
        for module, wanted in zip(modules, hashes, strict=True):
            compiled = module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc"
            self.assertFalse(compiled.parent.is_symlink(), compiled)
            # PEP 552: a magic number, flags (a hash, checked), the hash.
            head = compiled.read_bytes()[:16]
            self.assertEqual((head[4:8], head[8:].hex()), (b"\x03\0\0\0", wanted), module)

    def test_sigterm_ends_it_and_serving_wrote_nothing_into_the_store(self):
        server = Server(self.ws, "first", hide=[SHARED["comfy"].parent])
        self.assertEqual(len(server.graph(GRAPH)), 1)
        slot = Path(server.ready["slot"])
        self.assertTrue(slot.exists())
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertFalse(slot.exists())
        check = self.ws.nix("nix-store", "--verify", "--check-contents", code=None)
        self.assertEqual((check.code, [l for l in check.err.splitlines() if "modified" in l]), (0, []))


class Change(unittest.TestCase):
    """One pack changed, on a copy of the pack put back afterwards."""

    @classmethod
    def setUpClass(cls):
        cls.ws, cls.comfy, cls.first = SHARED["ws"], SHARED["comfy"], SHARED["first"]
        cls.file = cls.comfy / "custom_nodes" / "plain-folder" / "__init__.py"
        cls.original, cls.times = cls.file.read_bytes(), cls.file.stat()
        cls.file.write_bytes(cls.original + b"\nCHANGED = True\n")
        try:
            cls.second = cls.ws.stillframe("snapshot", cls.comfy, "--label", "second", "--json").json
        finally:
            cls.file.write_bytes(cls.original)
            os.utime(cls.file, ns=(cls.times.st_atime_ns, cls.times.st_mtime_ns))

    def test_only_the_pack_its_bytecode_and_the_snapshot_are_new(self):
        self.assertFalse(self.second["unchanged"])
        self.assertNotEqual(self.second["snapshot"], self.first["snapshot"])
        self.assertEqual((self.second["realise"]["sent_paths"], self.second["realise"]["built"]), (1, 2))

    def test_a_change_is_named_taken_back_and_removed(self):
        in_order(self, self.diff_names_the_pack_and_the_file, self.the_environment_put_back_is_the_first_snapshot_again,
                 self.remove_drops_the_roots_and_nix_frees_the_space)

    def diff_names_the_pack_and_the_file(self):
        diff = self.ws.stillframe("snapshots", "diff", "first", "second", "--json").json
        self.assertEqual([(p["name"], p["files"]) for p in diff["packs"]], [("plain-folder", ["__init__.py"])])
        self.assertEqual((diff["distributions"], diff["cache"], diff["new_paths"]), ([], [], 3))
        self.assertLess(diff["new_bytes"], 100_000)
        text = self.ws.stillframe("snapshots", "diff", "first", "second").out
        self.assertRegex(text, r"plain-folder: .*\n +__init__\.py\n")

    def the_environment_put_back_is_the_first_snapshot_again(self):
        back = self.ws.stillframe("snapshot", self.comfy, "--json").json
        self.assertEqual((back["snapshot"], back["unchanged"]), (self.first["snapshot"], True))
        # What was taken last is what commands without an id are about, taken anew or not.
        self.assertEqual(self.ws.stillframe("snapshots", "show", "--json").json["record"]["id"], back["id"])
        self.assertRegex(self.ws.stillframe("snapshots", "list").out, rf"(?s)\n{back['id']}  [^\n]*\n$")
        self.assertRegex(self.ws.stillframe("snapshots", "show").out, r"taken        \S+ by \S+ on \S+; last \S+\n")

    def remove_drops_the_roots_and_nix_frees_the_space(self):
        done = self.ws.stillframe("snapshots", "remove", "second")
        self.assertEqual(done.out, f"removed {self.second['id']}; `nix-store --gc` frees what nothing else needs\n")
        self.ws.nix("nix-store", "--gc")
        self.assertFalse(self.ws.real(self.second["snapshot"]).exists())
        self.assertTrue(self.ws.real(self.first["snapshot"]).exists())
        gone = self.ws.stillframe("snapshots", "show", "second", code=2)
        self.assertEqual(gone.err.splitlines()[0], 'error: no snapshot is called "second"')


class Identity(unittest.TestCase):
    def test_another_workstation_gets_the_same_store_path(self):
        """The same content at the same place, other state, caches and store: another machine, to us."""
        with Workstation() as other:
            value = other.stillframe("snapshot", SHARED["comfy"], "--json").json
            self.assertEqual(value["snapshot"], SHARED["first"]["snapshot"])


class DaemonSocket(unittest.TestCase):
    def test_a_user_without_rights_goes_through_the_daemons_socket(self):
        """As on most workstations: root's daemon has the store, and a user that it does not trust asks it."""
        with Workstation() as other:
            other.root.chmod(0o755)
            # Built there, so that what it points at outside of itself is there too, for all to read.
            subprocess.run([sys.executable, FIXTURE / "build.py", other.root / "environment"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["chmod", "-R", "go+rX", other.root / "environment"], check=True)
            binary = other.root / "stillframe"
            shutil.copy(BINARY, binary)
            for name in ("state", "cache", "nobody"):
                (other.root / name).mkdir()
                os.chown(other.root / name, 65534, 65534)
            # Its interpreter may be in root's home: it may read that.
            script = (
                "nix-daemon >/dev/null 2>&1 & daemon=$!; trap 'kill $daemon' EXIT; "
                "for i in $(seq 100); do [ -S /nix/var/nix/daemon-socket/socket ] && break; sleep 0.1; done; "
                'exec 3>&1; setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=+dac_read_search '
                '--ambient-caps=+dac_read_search -- "$@" >&3')
            command = [binary, "snapshot", other.root / "environment" / "ComfyUI", "--label", "mine", "--json"]
            done = other.inside("bash", "-c", script, "bash", *command, HOME=other.root / "nobody")
            self.assertEqual(done.json["snapshot"], SHARED["first"]["snapshot"])
            # Its roots are the user's own links, which the daemon was told of.
            roots = other.nix("nix-store", "--gc", "--print-roots").out
            self.assertIn(f"{other.root}/state/stillframe/", roots)
            self.assertIn(done.json["snapshot"], roots)


class Help(unittest.TestCase):
    def test_every_command_explains_itself(self):
        ws = SHARED["ws"]
        for words in [[], ["inspect"], ["lock"], ["snapshot"], ["snapshots"], ["run"], ["completions"], ["snapshots", "diff"]]:
            self.assertIn("Usage: stillframe", ws.stillframe(*words, "--help").out)
        self.assertIn("_stillframe", ws.stillframe("completions", "bash").out)

    def test_a_closed_pipe_is_no_error(self):
        ws = SHARED["ws"]
        done = subprocess.run(f"{BINARY} snapshots show first | head -1", shell=True, env=ws.environment(), capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
