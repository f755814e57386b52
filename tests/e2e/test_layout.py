"""The environment's layout, from small trees: the builder's own script, run as Nix runs it."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from harness import ROOT

SCRIPT = ROOT / "src" / "build" / "scripts" / "environment.py"
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
        config.write_text(json.dumps({"home": "/runtime/bin", "distributions": list(distributions)}))
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
