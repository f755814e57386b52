"""What the builders' own scripts make of small trees and wheels, run as Nix runs them."""
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

from harness import CACHE, ROOT
from small import Wheel, record_hash

BATCH = True

SCRIPTS = ROOT / "src" / "closure" / "scripts"
SCRIPT = SCRIPTS / "environment.py"
UV = CACHE / "tools" / "bin" / "uv"
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


class Layout(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.root = Path(self.dir.name).resolve()

    def tree(self, name, files):
        for path, content in files.items():
            target = self.root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                target.mkdir()
            else:
                target.write_text(content)
        return str(self.root / name)

    def build(self, *distributions, fails=None):
        out = self.root / "out"
        config = self.root / "config"
        config.write_text(json.dumps({"home": "/runtime/bin", "distributions": list(distributions), "start": str(SCRIPTS / "start.py")}))
        done = subprocess.run([sys.executable, "-S", "-s", "-B", SCRIPT], env={"out": str(out), "configPath": str(config)},
                              capture_output=True, text=True)
        if fails is not None:
            self.assertEqual((done.returncode, done.stderr.strip()), (1, fails.format(root=self.root)))
            return None
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return out / SITE

    def kinds(self, site):
        found = {}
        for folder, folders, files in os.walk(site):
            for name in folders + files:
                if name.startswith("_stillframe_start."):
                    continue
                path = Path(folder, name)
                shown = path.relative_to(site).as_posix()
                found[shown] = os.readlink(path).removeprefix(f"{self.root}/") if path.is_symlink() else "real"
        return found

    def test_modules_and_libraries_have_real_folders_and_data_is_one_link(self):
        a = self.tree("a", {"pkg/__init__.py": "1", "pkg/static/index.html": "x", "pkg/static/js/a.js": "y", "pkg/static/none": None,
                            "pkg/lib/liba.so.1": "z", "pkg/lib/data/t.txt": "t", "a-1.dist-info/METADATA": "m"})
        code = self.tree("a-bytecode", {"pkg/__pycache__/__init__.pyc": "c"})
        site = self.build({"name": "a", "path": a, "real": False, "bytecode": code})
        self.assertEqual(self.kinds(site), {
            "pkg": "real", "pkg/__init__.py": "a/pkg/__init__.py", "pkg/__pycache__": "a-bytecode/pkg/__pycache__",
            "pkg/static": "a/pkg/static", "pkg/lib": "real", "pkg/lib/liba.so.1": "a/pkg/lib/liba.so.1",
            "pkg/lib/data": "a/pkg/lib/data", "a-1.dist-info": "a/a-1.dist-info"})
        # What a static file server asks: is the resolved file below the resolved folder?
        folder = site / "pkg" / "static"
        self.assertTrue((folder / "js/a.js").resolve().is_relative_to(folder.resolve()))

    def test_a_folder_of_two_distributions_is_shared(self):
        a = self.tree("a", {"ns/data/a.txt": "a", "ns/only-a/x": "x"})
        b = self.tree("b", {"ns/data/b.txt": "b"})
        site = self.build({"name": "a", "path": a, "real": False}, {"name": "b", "path": b, "real": False})
        self.assertEqual(self.kinds(site), {"ns": "real", "ns/data": "real", "ns/data/a.txt": "a/ns/data/a.txt",
                                            "ns/data/b.txt": "b/ns/data/b.txt", "ns/only-a": "a/ns/only-a"})

    def test_real_files_are_copied(self):
        a = self.tree("a", {"pkg/m.py": "1", "pkg/data/d": "2"})
        site = self.build({"name": "a", "path": a, "real": True})
        self.assertEqual(self.kinds(site), dict.fromkeys(["pkg", "pkg/m.py", "pkg/data", "pkg/data/d"], "real"))

    def test_the_same_file_twice_is_one_and_a_different_one_is_refused(self):
        a, b = self.tree("a", {"x/f": "1"}), self.tree("b", {"x/f": "1"})
        site = self.build({"name": "a", "path": a, "real": False}, {"name": "b", "path": b, "real": False})
        self.assertEqual(self.kinds(site), {"x": "a/x"})
        self.tree("b", {"x/f": "2"})
        subprocess.run(["rm", "-rf", self.root / "out"], check=True)
        self.build({"name": "a", "path": a, "real": False}, {"name": "b", "path": b, "real": False},
                   fails="{root}/b/x/f and {root}/a/x/f both have " + f"{SITE}/x/f, and they differ")

    def test_data_schemes(self):
        a = self.tree("a", {"a-1.data/scripts/run": "#!python\nprint()\n", "a-1.data/headers/a.h": "h", "a-1.data/data/share/a/x": "s",
                            "a-1.data/purelib/pure/d.txt": "p"})
        site = self.build({"name": "a", "path": a, "real": False})
        out = self.root / "out"
        self.assertEqual((out / "bin/run").read_text(), f"#!{out}/bin/python\nprint()\n")
        self.assertEqual((out / "share/a/x").read_text(), "s")
        self.assertEqual((out / "include/site" / Path(SITE).parent.name / "a/a.h").read_text(), "h")
        self.assertEqual(self.kinds(site), {"pure": "a/a-1.data/purelib/pure"})

    def test_entry_points_are_the_scripts_that_uv_writes(self):
        points = {"tool": ("alpha.cli", "App.run"), "run-alpha": ("alpha", "main")}
        wheel = Wheel("alpha")
        lines = [f"{name} = {module}:{function}" for name, (module, function) in points.items()]
        wheel.members[f"{wheel.info}/entry_points.txt"] = "\n".join(["[console_scripts]", *lines, ""]).encode()
        file = self.root / wheel.file
        file.write_bytes(wheel.archive())
        venv = self.root / "venv"
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, venv], check=True)
        subprocess.run([UV, "pip", "install", "--quiet", "--offline", "--no-cache", "--python", venv / "bin/python", file], check=True)
        tree = self.tree("a", {"alpha/__init__.py": "1"})
        self.build({"name": "alpha", "path": tree, "real": False, "scripts": [
            {"name": name, "module": module, "function": function} for name, (module, function) in points.items()]})
        out = self.root / "out"
        for name in points:
            ours, theirs = ((place / "bin" / name).read_text() for place in (out, venv))
            self.assertEqual(ours.replace(str(out), "", 1), theirs.replace(str(venv), "", 1))
            self.assertEqual((out / "bin" / name).stat().st_mode & 0o777, 0o555)

    def test_the_collector_waits_until_the_server_listens(self):
        """And for no other port, in no process that the program starts, and not where the program wants it otherwise."""
        site = self.build()
        program = """if True:
            import gc, os, site, socket, subprocess, sys
            usual = gc.get_threshold()
            site.addsitedir(sys.argv[1])
            print(gc.get_threshold() == usual)
            ask = [sys.executable, "-c", "import site, sys; site.addsitedir(sys.argv[1]); print('_stillframe_start' in sys.modules)", sys.argv[1]]
            print(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
            def bind(port, family=socket.AF_INET):
                with socket.socket(family) as s:
                    s.bind(("127.0.0.1", port) if family == socket.AF_INET else port)
            bind(0)
            bind(chr(0) + sys.argv[1], socket.AF_UNIX)
            print(gc.get_threshold() == usual)
            if sys.argv[3:]:
                gc.set_threshold(50, 5, 5)
            bind(int(sys.argv[2]))
            print(gc.get_threshold() == usual)
            gc.set_threshold(10_000, 10, 10)
            bind(int(sys.argv[2]))
            print(gc.get_threshold())
            """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])

        def said(*more, **variables):
            done = subprocess.run([sys.executable, "-B", "-c", program, site, port, *more], env=variables, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return done.stdout.splitlines()
        self.assertEqual(said(STILLFRAME_DEFER_GC=port), ["False", "False", "False", "True", "(10000, 10, 10)"])
        self.assertEqual(said("otherwise", STILLFRAME_DEFER_GC=port), ["False", "False", "False", "False", "(10000, 10, 10)"])
        self.assertEqual(said(), ["True", "False", "True", "True", "(10000, 10, 10)"])


class Bytecode(unittest.TestCase):
    def compiled(self, src, **more):
        out = src.parent / "out"
        done = subprocess.run([sys.executable, "-S", "-s", "-B", SCRIPTS / "bytecode.py"],
                              env={"src": str(src), "out": str(out), "PYTHONHASHSEED": "0", **more}, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.root = Path(self.dir.name).resolve()

    def test_each_module_beside_its_own_and_no_path_in_it(self):
        for name, text in {"a.py": "A = 1\n", "sub/b.py": "B = 2\n", "sub/not.py": "def (", "data.txt": "x"}.items():
            file = self.root / "src" / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(text)
        tag = sys.implementation.cache_tag
        found = self.compiled(self.root / "src")
        self.assertEqual(sorted(found), [f"__pycache__/a.{tag}.pyc", f"sub/__pycache__/b.{tag}.pyc"])
        for content in found.values():
            self.assertEqual(content[4:8], b"\x01\0\0\0")
            self.assertNotIn(str(self.root).encode(), content)

    def test_one_file_has_the_name_it_is_told(self):
        source = self.root / "loose.py"
        source.write_text("LOOSE = 1\n")
        stored = self.root / "0123-loose.py"
        source.rename(stored)
        (name, content), = self.compiled(stored, module="loose.py", checked="1").items()
        self.assertEqual(name, f"__pycache__/loose.{sys.implementation.cache_tag}.pyc")
        self.assertEqual(content[4:8], b"\x03\0\0\0")
        self.assertIn(b"loose.py", content)
        self.assertNotIn(b"0123", content)


class Unpack(unittest.TestCase):
    """From a wheel to its canonical tree."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.root = Path(self.dir.name).resolve()

    def unpack(self, content, fails=None):
        (self.root / "wheel").write_bytes(content)
        out = self.root / "inner" / "out"
        out.parent.mkdir(exist_ok=True)
        done = subprocess.run([sys.executable, "-S", "-s", "-B", SCRIPTS / "unpack.py"],
                              env={"out": str(out), "src": str(self.root / "wheel")}, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr.strip()), (0, "") if fails is None else (1, fails))
        return out

    def test_names_that_leave_fail_the_build(self):
        for name in ("../escaped.py", "alpha/../../escaped.py", "/escaped.py", "alpha//x.py", "./x.py", "alpha\\..\\escaped.py", "../"):
            with self.subTest(name):
                self.unpack(Wheel("alpha").archive(more=[(name, b"")]), fails=f"unsafe name in wheel: {name!r}")
                self.assertEqual(list(self.root.rglob("escaped.py")), [])
                subprocess.run(["rm", "-rf", self.root / "inner"], check=True)

    def test_links_are_files_with_a_name_in_them(self):
        """As pip unpacks them: nothing is written through one."""
        outside = self.root / "outside"
        outside.mkdir()
        content = io.BytesIO(Wheel("alpha").archive())
        with zipfile.ZipFile(content, "a") as archive:
            link = zipfile.ZipInfo("alpha/link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, str(outside))
        out = self.unpack(content.getvalue())
        self.assertFalse((out / "alpha" / "link").is_symlink())
        self.assertEqual((out / "alpha" / "link").read_text(), str(outside))
        self.assertEqual((out / "alpha" / "link").stat().st_mode & 0o777, 0o444)
        with zipfile.ZipFile(content, "a") as archive:
            archive.writestr("alpha/link/escaped.py", "")
        subprocess.run(["rm", "-rf", self.root / "inner"], check=True)
        (self.root / "wheel").write_bytes(content.getvalue())
        done = subprocess.run([sys.executable, "-S", "-s", "-B", SCRIPTS / "unpack.py"], capture_output=True, text=True,
                              env={"out": str(self.root / "out"), "src": str(self.root / "wheel")})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"(NotADirectory|FileExists)Error: .*'" + re.escape(str(self.root / "out" / "alpha" / "link")))
        self.assertEqual(list(outside.iterdir()), [])

    def test_the_tree_is_that_of_the_installed_files(self):
        """Without what installers write, library folders in their place, scripts executable, RECORD sorted."""
        wheel = Wheel("alpha", members={
            "b, c.txt": b"comma", "alpha-1.0.data/purelib/alpha/more.py": b"MORE = 1\n", "alpha-1.0.data/platlib/alpha/x.so": b"x",
            "alpha-1.0.data/scripts/run": b"#!python\n", "alpha-1.0.data/data/share/a": b"a", "alpha/__pycache__/x.pyc": b"c",
            "alpha-1.0.dist-info/INSTALLER": b"pip\n"})
        out = self.unpack(wheel.archive())
        names = ["alpha-1.0.data/data/share/a", "alpha-1.0.data/scripts/run", "alpha-1.0.dist-info/METADATA", "alpha-1.0.dist-info/WHEEL",
                 "alpha/__init__.py", "alpha/data.txt", "alpha/more.py", "alpha/x.so", "b, c.txt"]
        found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
        self.assertEqual(found, sorted([*names, "alpha-1.0.dist-info/RECORD"]))
        rows = [(name, (out / name).read_bytes()) for name in names]
        rows = [(f'"{name}"' if "," in name else name) + f",{record_hash(content)},{len(content)}" for name, content in rows]
        self.assertEqual((out / "alpha-1.0.dist-info/RECORD").read_text().splitlines(), [*rows, "alpha-1.0.dist-info/RECORD,,"])
        modes = {name: (out / name).stat().st_mode & 0o777 for name in names}
        self.assertEqual([name for name, mode in modes.items() if mode == 0o555], ["alpha-1.0.data/scripts/run"])

    def test_a_wheel_without_a_record(self):
        self.unpack(Wheel("alpha").archive(record=False), fails="the wheel has no RECORD")
