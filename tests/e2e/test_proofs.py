"""The claims that a user must be able to rely on, each shown on real wheels and real Nix."""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
from pathlib import Path

from harness import CACHE, FIXTURE, ROOT, Workstation, example, remove_tree
from small import BasePython, Case, Wheel, library, server, sri, write

SECONDS = 300
SHARES = {"example", "network"}
BATCH = True

SHARED = {}
UV = CACHE / "tools" / "bin" / "uv"
INSTALLER_FILES = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json", "RECORD"}


def setUpModule():
    SHARED["comfy"] = example()
    SHARED["ws"] = Workstation()
    SHARED["snapshot"] = SHARED["ws"].stillframe("snapshot", SHARED["comfy"], "--json").json
    shown = SHARED["ws"].stillframe("snapshots", "show", "--json").json
    SHARED["lock"], SHARED["record"] = shown["lock"], shown["record"]


def tearDownModule():
    SHARED["ws"].remove()


def hashes(ws, snapshot):
    """NAR hash of every path of a closure, as Nix has it."""
    paths = ws.nix("nix-store", "--query", "--requisites", snapshot).out.split()
    return dict(zip(paths, ws.nix("nix-store", "--query", "--hash", *paths).out.split()))


def files_below(root):
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


class Verify(unittest.TestCase):
    def test_every_wheel_rebuilt_by_nix_equals_the_installed_tree(self):
        """Tree from wheel = tree from installed files = what Nix rebuilds: the store holds the second,
        `verify` has Nix build the first from the wheel on the index, and compares NAR hashes."""
        pinned = [d for d in SHARED["lock"]["distributions"] if d["provenance"] == "pinned"]
        self.assertGreaterEqual(len(pinned), 40)
        # As any day after: what nothing refers to may be gone.
        SHARED["ws"].nix("nix-store", "--gc")
        done = SHARED["ws"].stillframe("snapshots", "verify", "--json").json
        self.assertTrue(done["verified"])
        self.assertEqual(done["report"]["mismatches"], [])
        self.assertEqual(done["report"]["wheels"], len(pinned))
        self.assertGreater(done["report"]["rebuilt"], 2 * len(pinned))
        # Another distribution has all modules of opencv-python-headless alike: nothing links to their bytecode.
        self.assertEqual(done["report"]["collected"], 1)


class Overlap(Case):
    def test_code_that_looks_beside_itself_finds_what_replaced_its_own(self):
        """As opencv's packages do: the same `__init__.py` in both, and a library beside it that the second installed replaced."""
        code = b"import os\nplace = os.path.dirname(os.path.realpath(__file__))\nNATIVE = open(os.path.join(place, 'native.txt')).read()\n"
        env, index = self.environment(), self.index()
        for name in ("alpha", "beta"):
            wheel = Wheel(name, members={"shared/__init__.py": code, "shared/native.txt": f"of {name}".encode()})
            wheel.install(env.site)
            index.publish(wheel)
        taken = self.snapshot(env, PIP_INDEX_URL=index.url).json
        lock = self.run_it("snapshots", "show", "--json", taken["id"]).json["lock"]
        self.assertEqual([(d["name"], d["provenance"], [(c["path"], c["how"]) for c in d.get("changed", [])]) for d in lock["distributions"]],
                         [("alpha", "patched", [("shared/native.txt", "replaced by beta")]), ("beta", "pinned", [])])
        done = self.station.inside(f"{taken['snapshot']}/python/bin/python", "-c", "import shared; print(shared.NATIVE)")
        self.assertEqual(done.out, "of beta\n")


class Diff(Case):
    """What changed from one snapshot to the next, of every kind there is."""

    SERVER = server("classes", "import glob\nclasses = {line.strip(): {} for name in glob.glob('../base/custom_nodes/*/classes.txt') for line in open(name)}")

    def git(self, *arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-C", self.env.pack, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}).stdout.strip()

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "one")
        return self.git("rev-parse", "HEAD")

    def taken(self, index):
        return self.run_it("snapshot", "--probe", "--json", self.env.root, PIP_INDEX_URL=index.url).json

    def test_a_commit_of_the_same_files_and_a_weight_of_another_name(self):
        self.env, index = self.environment(), self.index()
        self.git("init", "--quiet")
        old = self.commit()
        write(self.env.pack / "node.py", "NODE = 1\n")
        heavy = self.env.root / "custom_nodes" / "heavy"
        weight = write(heavy / "w" / "a.safetensors", bytes(1 << 20))
        write(heavy / "__init__.py")
        take = lambda: self.snapshot(self.env, PIP_INDEX_URL=index.url).json["id"]  # noqa: E731
        first = take()
        new = self.commit()
        second = take()
        weight.rename(weight.with_name("b.safetensors"))
        third = take()
        packs = lambda a, b: self.run_it("snapshots", "diff", a, b, "--json").json["packs"]  # noqa: E731
        self.assertEqual(packs(first, second), [{"name": "first-pack", "what": "changed", "old": f"{old[:10]}, dirty", "new": new[:10]}])
        self.assertEqual(packs(second, third), [{"name": "heavy", "what": "changed", "old": "plain files", "new": "plain files",
                                                 "files": ["w/a.safetensors", "w/b.safetensors"]}])
        self.assertIn(f"\n  changed  first-pack: {old[:10]}, dirty -> {new[:10]}\n", self.run_it("snapshots", "diff", first, second).out)

    def test_every_kind_of_change(self):
        self.env, index = self.environment(), self.index()
        env = self.env
        write(env.root / "main.py", self.SERVER)
        write(env.pack / "classes.txt", "Kept\nGone\n")
        self.git("init", "--quiet")
        old = self.commit()
        weight = write(env.root / "custom_nodes" / "heavy" / "w" / "model.safetensors", bytes(1 << 20))
        write(env.root / "custom_nodes" / "heavy" / "__init__.py")
        cached = write(env.root / ".cache" / "torch" / "hub" / "checkpoints" / "aux.bin", "one")
        for wheel in (Wheel("alpha", "1.0"), Wheel("beta"), Wheel("gamma")):
            index.publish(wheel)
            wheel.install(env.site)
        write(self.place / "shared" / "shared.py", "SHARED = 1\n")
        Wheel("delta").editable(env.site, self.place / "shared")
        first = self.taken(index)
        # This server's log has no lines of imports, and its nodes no module.
        self.assertEqual([(p["name"], p["import_ms"], p["failed"]) for p in first["probe"]["packs"]],
                         [("first-pack", None, None), ("heavy", None, None)])
        self.assertEqual([(f["severity"], f["path"]) for f in first["findings"] if f["topic"] == "probe"],
                         [("warning", "custom_nodes/first-pack"), ("warning", "custom_nodes/heavy")])
        self.assertRegex(self.run_it("snapshots", "show", first["id"]).out, r"failed packs: none; not known: first-pack, heavy\n")
        write(env.pack / "classes.txt", "Kept\nNew\n")
        new = self.commit()
        weight.write_bytes(bytes(1 << 20) + b"more")
        cached.write_text("two")
        remove_tree(env.site / "alpha-1.0.dist-info")
        alpha = Wheel("alpha", "2.0", members={"alpha/added.txt": b"new"})
        index.publish(alpha)
        alpha.install(env.site)
        write(env.site / "beta" / "data.txt", "patched by hand")
        write(env.site / "loose.py", "")
        (self.place / "shared" / "shared.py").write_text("SHARED = 2\n")
        second = self.taken(index)
        diff = self.run_it("snapshots", "diff", first["id"], second["id"], "--json").json
        closure = lambda taken: set(self.station.nix("nix-store", "--query", "--requisites", taken["snapshot"]).out.split())
        more = closure(second) - closure(first)
        sizes = self.station.nix("nix-store", "--query", "--size", *more).out.split()
        self.assertEqual((diff.pop("new_paths"), diff.pop("new_bytes")), (len(more), sum(map(int, sizes))))
        change = lambda name, old, new, *files, what="changed": {
            key: value for key, value in {"name": name, "what": what, "old": old, "new": new, "files": list(files)}.items() if value}
        self.assertEqual(diff, {
            "main": None, "runtime": None,
            "packs": [change("first-pack", old[:10], new[:10], "classes.txt"), change("heavy", "plain files", "plain files", "w/model.safetensors")],
            "distributions": [
                change("alpha", "1.0 (pinned)", "2.0 (pinned)", "alpha-1.0.dist-info", "alpha-1.0.dist-info/METADATA", "alpha-1.0.dist-info/RECORD",
                       "alpha-1.0.dist-info/WHEEL", "alpha-2.0.dist-info", "alpha-2.0.dist-info/METADATA", "alpha-2.0.dist-info/RECORD",
                       "alpha-2.0.dist-info/WHEEL", "alpha/added.txt"),
                change("beta", "1.0 (pinned)", "1.0 (patched)", "beta-1.0.dist-info/RECORD", "beta/data.txt"),
                change("delta", "1.0 (captured)", "1.0 (captured)", "__editable__.delta.pth", "delta-1.0.dist-info/RECORD")],
            "cache": [change("torch/hub/checkpoints/aux.bin", "120 bytes", "120 bytes")],
            "sources": [change("shared", "files", "files", "shared.py")],
            "unowned": change("files no distribution owns", None, "files", what="added"),
            "service": [], "system": [], "classes_known": True, "version": 1,
            "classes_added": ["New"], "classes_removed": ["Gone"]})
        text = self.run_it("snapshots", "diff", first["id"], second["id"]).out
        for line in ("packs\n", f"  changed  first-pack: {old[:10]} -> {new[:10]}\n           classes.txt\n", "           w/model.safetensors\n",
                     "  changed  beta: 1.0 (pinned) -> 1.0 (patched)\n", "node classes added: New\n", "node classes removed: Gone\n",
                     f"to ship to a host that has {first['id']}: {len(more)} paths, "):
            self.assertIn(line, text)
        # The same files, started otherwise.
        write(env.root / "stillframe.toml", '[service]\narguments = ["--cpu", "--lowvram"]\n')
        third = self.taken(index)
        diff = self.run_it("snapshots", "diff", second["id"], third["id"], "--json").json
        before, after = diff["service"][0]["old"], diff["service"][0]["new"]
        self.assertEqual([(c["name"], c["what"]) for c in diff["service"]], [("arguments", "changed")])
        self.assertTrue(after.endswith("--cpu --lowvram") and not before.endswith("--lowvram"), diff["service"])
        self.assertEqual((diff["packs"], diff["distributions"]), ([], []))
        text = self.run_it("snapshots", "diff", second["id"], third["id"]).out
        self.assertIn(f"service\n  changed  arguments: {before} -> {after}\n", text)
        same = self.run_it("snapshots", "diff", third["id"], third["id"]).out
        self.assertIn(f"{third['id']} and {third['id']} are the same\n", same)


class UvInstall(unittest.TestCase):
    def test_the_tree_equals_what_uv_installs(self):
        """Every pinned distribution, installed by uv from the same wheel, bytecode and installer files aside."""
        ws, comfy = SHARED["ws"], SHARED["comfy"]
        venv = ws.root / "uv-venv"
        python = comfy / ".venv" / "bin" / "python"
        subprocess.run([os.path.realpath(python), "-m", "venv", "--without-pip", venv], check=True)
        bare = {path for _, path in files_below(venv)}
        house = sorted((CACHE / "pip").glob("*/wheels-*"))[-1]
        pinned = [d for d in SHARED["lock"]["distributions"] if d["provenance"] == "pinned"]
        wheels = {p.name: p for p in house.iterdir()}
        subprocess.run([UV, "pip", "install", "--quiet", "--no-deps", "--offline", "--no-cache", "--link-mode", "copy", "--python", venv / "bin/python",
                        *(wheels[d["wheel"]["file"]] for d in pinned)], check=True)
        site = next((venv / "lib").glob("python3*/site-packages"))
        accounted = set()
        compared = executables = 0
        for d in pinned:
            self.assertEqual(hashlib.sha256(wheels[d["wheel"]["file"]].read_bytes()).hexdigest(), sri(d["wheel"]["sha256"]), d["name"])
            tree = ws.real(next(o["path"] for o in SHARED["record"]["outputs"] if o["label"] == f"{d['name']} {d['version']}"))
            for name, path in files_below(tree):
                target = installed_at(name, d, site, venv)
                accounted.add(target)
                if re.fullmatch(r"[^/]+\.dist-info/RECORD", name):
                    continue
                content, there = path.read_bytes(), target.read_bytes()
                if "/scripts/" in name and content.startswith(b"#!python"):
                    content, there = content.split(b"\n", 1)[1], there.split(b"\n", 1)[1]
                self.assertEqual(content, there, f"{d['name']}: {name}")
                self.assertEqual(*(bool(p.stat().st_mode & 0o100) for p in (path, target)), f"{d['name']}: {name}: executable")
                self.assertFalse(path.is_symlink() or target.is_symlink(), name)
                executables += bool(path.stat().st_mode & 0o100)
                compared += 1
        self.assertGreater(compared, 4000)
        self.assertGreater(executables, 10)
        # The scripts of entry points, which the environment has: see `Layout`.
        accounted |= {venv / "bin" / script.split("=")[0].strip() for d in pinned for script in d.get("scripts", [])}
        extra = [name for name, path in files_below(venv) if path not in accounted | bare and "__pycache__" not in name
                 and not (".dist-info/" in name and name.rsplit("/", 1)[1] in INSTALLER_FILES)]
        # The lock of uv itself, and `pip3` under one more name, which installers of pip alone write.
        self.assertEqual(extra, [".lock", f"bin/pip{site.parent.name.removeprefix('python')}"], "uv installs files that the trees lack")
        self.assertEqual([path for path in accounted if not path.exists()], [])


def installed_at(name, distribution, site, venv):
    """Where an installer puts a member of the wheel (binary distribution format, "The .data directory")."""
    parts = name.split("/", 2)
    if parts[0].endswith(".data") and len(parts) == 3:
        scheme, rest = parts[1], parts[2]
        version = site.parent.name
        base = {"purelib": site, "platlib": site, "scripts": venv / "bin", "data": venv,
                "headers": venv / "include" / "site" / version / distribution["name"]}[scheme]
        return base / rest
    return site / name


class OneByte(unittest.TestCase):
    """One bit of a file's content is another: same size, same modification time, and it is always found."""

    def setUp(self):
        self.ws, self.comfy = SHARED["ws"], SHARED["comfy"]
        self.venv = self.comfy / ".venv"
        self.site = next((self.venv / "lib").glob("python3*/site-packages"))
        self.restore = {}

    def flip(self, file, at=None):
        """`at`: a byte, or the last one."""
        file = file.resolve()
        content, stat = file.read_bytes(), file.stat()
        at = len(content) - 1 if at is None else at
        self.restore[file] = (content[at:at + 1], at, stat)
        self.overwrite(file, bytes([content[at] ^ 1]), at, stat)

    @staticmethod
    def overwrite(file, byte, at, stat):
        with open(file, "r+b") as handle:
            handle.seek(at)
            handle.write(byte)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def locked(self, config=None):
        """The lock and the report of the environment as it is now, then everything put back."""
        project = Path(tempfile.mkdtemp(dir=self.ws.root))
        (project / "stillframe.toml").write_text(config or f'environment = "{self.comfy}"\n')
        try:
            report = self.ws.stillframe("lock", "--json", cwd=project).json
        finally:
            for file, (byte, at, stat) in self.restore.items():
                self.overwrite(file, byte, at, stat)
            self.restore = {}
        return tomllib.loads((project / "stillframe.lock").read_text()), report

    def test_in_a_file_of_every_distribution(self):
        rng = random.Random(20)
        chosen = {}
        for d in SHARED["lock"]["distributions"]:
            tree = self.ws.real(next(o["path"] for o in SHARED["record"]["outputs"] if o["label"] == f"{d['name']} {d['version']}"))
            names = sorted(n for n, p in files_below(tree) if p.stat().st_size > 0 and not n.endswith(".pth")
                           and not re.fullmatch(r"[^/]+\.(dist|egg)-info/(RECORD|METADATA|PKG-INFO|WHEEL|entry_points\.txt)", n)
                           # What another distribution has replaced is that one's.
                           and installed_at(n, d, self.site, self.venv).resolve() not in self.restore)
            name = rng.choice(names)
            file = installed_at(name, d, self.site, self.venv)
            size = file.stat().st_size
            # The `#!` line of a script is the installer's.
            self.flip(file, None if "/scripts/" in name else rng.randrange(size))
            chosen[d["name"]] = name
        self.assertEqual(len(chosen), 47)
        lock, report = self.locked()
        trees = lambda lock: {d["name"]: d["tree"]["nar-hash"] for d in lock["distributions"]}
        before, after = trees(SHARED["lock"]), trees(lock)
        self.assertEqual([name for name in chosen if before[name] == after[name]], [])
        pinned = {d["name"] for d in SHARED["lock"]["distributions"] if d["provenance"] == "pinned"}
        for found in report["distributions"]:
            if found["name"] in pinned:
                with self.subTest(name=found["name"], file=chosen[found["name"]]):
                    if found["provenance"] == "captured":
                        # A wheel of one or two files, half of them changed, is no longer that wheel.
                        self.assertRegex(found["reason"], r"^\d+ of \d+ files differ from ")
                    else:
                        self.assertEqual(found["provenance"], "patched")
                        self.assertIn({"path": chosen[found["name"]], "how": "changed"}, found["changed"])
        self.assertEqual(self.ws.stillframe("snapshot", self.comfy, "--json").json["snapshot"], SHARED["snapshot"]["snapshot"])

    def test_in_every_kind_of_file(self):
        comfy, dest, site = self.comfy, self.comfy.parent, self.site
        info = lambda name: next(site.glob(f"{name}-*.dist-info"))
        packs = comfy / "custom_nodes"
        hub = ".cache/huggingface/hub/models--studio--tiny-depth"
        # What is changed, and what of the lock tells.
        named = lambda group, key, name, tree="tree": lambda lock: next(i for i in lock[group] if i[key] == name)[tree]["nar-hash"]
        distribution = lambda name: named("distributions", "name", name)
        pack = lambda name: named("packs", "name", name)
        weight = lambda lock: next(p for p in lock["packs"] if p["name"] == "weights-inside")["weights"][0]["tree"]["nar-hash"]
        kinds = {
            "main program": (comfy / "nodes.py", lambda lock: lock["main"]["tree"]["nar-hash"]),
            "pack": (packs / "pixel-tools" / "__init__.py", pack("pixel-tools")),
            "loose pack": (packs / "loose_gradient.py", pack("loose_gradient.py")),
            "behind a link of a pack": (dest / "shared-assets" / "credits.txt", pack("symlinks-inside")),
            "weight": (packs / "weights-inside" / "weights" / "detector.safetensors", weight),
            "cache": (next((comfy / hub / "snapshots").glob("*/model.safetensors")),
                      named("cache", "path", hub.removeprefix(".cache/"))),
            "unowned": (site / "stray_module.py", lambda lock: lock["unowned"]["nar-hash"]),
            "folder of a .pth file": (dest / "shared-lib" / "shared_helper.py", named("sources", "path", "shared-lib")),
            "editable project": (next((dest / "projects" / "palette-tools").rglob("*.py")), named("sources", "path", "palette-tools")),
            "captured": (site / "docopt.py", distribution("docopt")),
            "patched": (site / "tqdm" / "utils.py", distribution("tqdm")),
            "METADATA": (info("click") / "METADATA", distribution("click")),
            "WHEEL": (info("idna") / "WHEEL", distribution("idna")),
            "entry points": (info("charset_normalizer") / "entry_points.txt", distribution("charset-normalizer")),
            "code in a .pth file": (site / "distutils-precedence.pth", distribution("setuptools")),
            "path in a .pth file": (next(site.glob("__editable__.studio_helpers-*.pth")), distribution("studio-helpers")),
            "script": (self.venv / "bin" / "jp.py", distribution("jmespath")),
            "header": (next(self.venv.glob("include/site/python3*/greenlet/greenlet.h")), distribution("greenlet")),
            "library": (next((site / "numpy" / "core").glob("_multiarray_umath.*.so")), distribution("numpy")),
        }
        for kind, (file, _) in kinds.items():
            at = None
            if kind == "WHEEL":
                # The generator's version, not a tag.
                at = file.read_bytes().index(b"\n", 20) - 1
            elif kind in ("entry points", "path in a .pth file"):
                at = len(file.read_bytes().rstrip()) - 1
            self.flip(file, at)
        console = self.venv / "bin" / "f2py"
        self.flip(console, console.read_bytes().index(b"sys.exit(") + 9)
        lock, report = self.locked()
        self.assertEqual([kind for kind, (_, of) in kinds.items() if of(lock) == of(SHARED["lock"])], [])
        self.assertIn({"severity": "warning", "topic": "patched", "path": "bin/f2py",
                       "message": "the script of numpy 1.26.4: changed; the snapshot has the one that an installer writes for "
                                  "`f2py = numpy.f2py.f2py2e:main`"}, report["findings"])
        changed = {d["name"]: [c["path"] for c in d["changed"]] for d in report["distributions"]}
        self.assertEqual((changed["click"], changed["idna"]), (["click-8.1.8.dist-info/METADATA"], ["idna-3.10.dist-info/WHEEL"]))
        self.assertEqual(self.ws.stillframe("snapshot", self.comfy, "--json").json["snapshot"], SHARED["snapshot"]["snapshot"])

    def test_in_the_interpreter(self):
        with tempfile.TemporaryDirectory() as place:
            prefix, lib = BasePython().copy(Path(place).resolve() / "python")
            config = f'environment = "{self.comfy}"\n[python]\ninterpreter = "{prefix}/bin/python3"\n'
            runtime = lambda: {k: v["nar-hash"] for k, v in self.locked(config)[0]["runtime"].items() if k in ("tree", "libraries")}
            before = runtime()
            time.sleep(2.1)
            self.assertEqual(runtime(), before)
            self.assertEqual(runtime(), before)
            module = next((lib / "lib-dynload").glob("_json.*.so"))
            program = prefix / "bin" / lib.name
            for file, at in ((lib / "this.py", None), (module, module.stat().st_size // 2), (program, program.stat().st_size // 2)):
                self.flip(file, at)
                after = runtime()
                self.assertNotEqual(after["tree"], before["tree"], file)
                self.assertEqual(runtime(), before)
            # A library of the system: another file lies over it, for this one program.
            system = library("libz.so.1")
            other = Path(shutil.copy2(system, Path(place) / "library"))
            content = bytearray(other.read_bytes())
            content[len(content) // 2] ^= 1
            other.write_bytes(content)
            shutil.copystat(system, other)
            kept, self.ws.prefix = self.ws.prefix, ["unshare", "--mount", "sh", "-c", f'mount --bind {other} {system} && exec "$@"', "-"]
            try:
                after = runtime()
            finally:
                self.ws.prefix = kept
            self.assertNotEqual(after["libraries"], before["libraries"])
            self.assertEqual(runtime(), before)


class Reproducible(unittest.TestCase):
    def test_two_clean_builds_are_bit_identical(self):
        """Another store, another environment, built anew at another place: the same closure, every NAR hash equal,
        bytecode included."""
        with Workstation() as other:
            where = other.root / "elsewhere"
            subprocess.run([sys.executable, FIXTURE / "build.py", where], check=True, stdout=subprocess.DEVNULL)
            value = other.stillframe("snapshot", where / "ComfyUI", "--json").json
            self.assertEqual(value["snapshot"], SHARED["snapshot"]["snapshot"])
            self.assertEqual(hashes(other, value["snapshot"]), hashes(SHARED["ws"], value["snapshot"]))


class WithoutIndex(unittest.TestCase):
    def test_the_same_files_are_the_same_snapshot_without_any_index(self):
        """Trees from wheels, from files with a wheel to compare and from files alone: one and the same."""
        with Workstation() as other:
            value = other.stillframe("snapshot", SHARED["comfy"], "--json", "--offline").json
            lock = other.stillframe("snapshots", "show", "--json").json["lock"]
        self.assertEqual({d["provenance"] for d in lock["distributions"]}, {"captured"})
        trees = lambda lock: {d["name"]: d["tree"]["nar-hash"] for d in lock["distributions"]}
        self.assertEqual(trees(lock), trees(SHARED["lock"]))
        self.assertEqual(value["snapshot"], SHARED["snapshot"]["snapshot"])


class OtherNix(unittest.TestCase):
    def test_nix_2_26_accepts_and_rebuilds(self):
        """The whole snapshot through Nix 2.26's daemon: the same path, its own check of every hash, and its rebuild."""
        script = ROOT / "tests" / "hosts" / "nix26.sh"
        subprocess.run([script, "build"], check=True, stdout=subprocess.DEVNULL)
        with Workstation() as other:
            # The store is the caller's to name: `verify` has one of its own.
            daemon = write(other.root / "daemon", f'#!/bin/sh\nexec {script} run {other.root} env NIX_REMOTE="$NIX_REMOTE" nix-daemon --stdio\n', 0o755)
            version = subprocess.run([script, "run", other.root, "nix-store", "--version"], capture_output=True, text=True).stdout
            self.assertRegex(version, r"2\.26\.")
            value = other.stillframe("snapshot", SHARED["comfy"], "--json", STILLFRAME_NIX_DAEMON=daemon).json
            self.assertEqual(value["snapshot"], SHARED["snapshot"]["snapshot"])
            inside = [script, "run", other.root, "env", f"NIX_REMOTE=local?root={other.store}"]
            check = subprocess.run([*inside, "nix-store", "--verify", "--check-contents"], capture_output=True, text=True)
            self.assertEqual(check.returncode, 0, check.stderr)
            # From the derivations alone: builds repeated, and compared by Nix itself.
            drvs = [o["derivation"] for o in SHARED["record"]["outputs"] if o["label"].startswith("bytecode of ")][:5]
            drvs += [SHARED["record"]["derivation"]]
            again = subprocess.run([*inside, "nix-store", "--realise", "--check", *drvs], capture_output=True, text=True)
            self.assertEqual(again.returncode, 0, again.stderr)
            other.nix_prefix = inside
            self.assertEqual(hashes(other, value["snapshot"]), hashes(SHARED["ws"], value["snapshot"]))
            # And from nothing: wheels fetched, distributions unpacked, everything built.
            done = other.stillframe("snapshots", "verify", "--json", STILLFRAME_NIX_DAEMON=daemon).json
            pinned = [d for d in SHARED["lock"]["distributions"] if d["provenance"] == "pinned"]
            self.assertEqual((done["verified"], done["report"]["wheels"]), (True, len(pinned)))
            self.assertGreater(done["report"]["rebuilt"], 2 * len(pinned))


class Fixture(unittest.TestCase):
    def test_the_stand_in_answers_as_a_real_comfyui(self):
        # The environment's own server runs here, and one pack writes into its own folder at import.
        written = SHARED["comfy"] / "custom_nodes" / "writes-at-import" / "state.json"
        self.addCleanup(written.unlink, missing_ok=True)
        done = subprocess.run([SHARED["comfy"] / ".venv/bin/python", "-B", FIXTURE / "check_wire.py", ROOT / "tests/golden/comfyui-wire",
                               SHARED["comfy"].parent], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout[-3000:] + done.stderr[-3000:])
