"""What an environment uses of the machine it is on: seen by `snapshot --probe` and by `run`, named with the line that mends it."""
import json
import os
import re
import signal
import unittest
from pathlib import Path

import harness
import small

SECONDS = 25
BATCH = True

FONTS = "/usr/share/fonts/truetype"
# One that no interpreter here has among its own, and every Debian with apt has.
LIBRARY = "libapt-pkg.so"

PACK = """\
import ctypes, os, shutil, subprocess
ctypes.CDLL({library!r})
os.listdir({folder!r})
git = shutil.which("git")
subprocess.run(["sort", "/dev/null"], check=True)
import folder_paths_of_test
try:
    os.makedirs(os.path.join(folder_paths_of_test.models, "made", "below"), exist_ok=True)
except OSError:
    pass
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "cache.json"), "w") as cache:
    cache.write("{{}}")
NODE_CLASS_MAPPINGS = {{}}
"""

# Reads its pack as ComfyUI does, and answers.
FIRST = """\
import importlib.util, os, types
def after(flag):
    return sys.argv[sys.argv.index(flag) + 1]
base = after("--base-directory")
paths = types.ModuleType("folder_paths_of_test")
paths.models = os.path.join(base, "models")
sys.modules["folder_paths_of_test"] = paths
import numbish
place = os.path.join(base, "custom_nodes", "first-pack", "__init__.py")
spec = importlib.util.spec_from_file_location("custom_nodes.first-pack", place)
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""

# As numba looks for a place for its cache.
NUMBISH = b"""\
import os
try:
    os.close(os.open(os.path.join(os.path.dirname(__file__), "__pycache__"), os.O_RDWR | os.O_TMPFILE))
except OSError:
    pass
"""


def some_library():
    for name in sorted(Path("/usr/lib/x86_64-linux-gnu").glob("*.so.*")):
        if name.name.startswith(LIBRARY):
            return small.library(name.name).name
    raise unittest.SkipTest("no library of this machine is known")


def readable_folder():
    """One that is somebody's: fonts where there are some."""
    return next(p for p in (FONTS, "/usr/share/fonts", "/usr/share/perl5") if os.path.isdir(p))


class Observed(small.Case):
    def setUp(self):
        super().setUp()
        self.library, self.folder = some_library(), readable_folder()
        self.env = self.environment(python="/usr/bin/python3")
        wheel = small.Wheel("numbish", members={"numbish/__init__.py": NUMBISH})
        wheel.install(self.env.site)
        (self.env.site / "numbish" / "__pycache__").mkdir()
        small.write(self.env.root / "main.py", small.server("{}", first=FIRST))
        small.write(self.env.root / "comfy" / "cli_args.py", "parser.add_argument('--base-directory')\nparser.add_argument('--port')\n")
        small.write(self.env.pack / "__init__.py", PACK.format(library=self.library, folder=self.folder))
        small.write(self.env.pack / ".gitignore", "cache.json\n")
        small.git(self.env.pack, "init")
        small.git(self.env.pack, "add", ".")
        small.git(self.env.pack, "commit", "-m", "x")

    def lines(self, result):
        return {f["message"].rsplit(": ", 1)[1] for f in result.json["findings"] if f["topic"] == "probe" and f["path"] == "stillframe.toml"}

    def names_the_library(self, lines):
        """With what it needs."""
        libraries = next(line for line in lines if line.startswith("libraries = ["))
        self.assertIn(f'"{self.library}"', libraries)

    def test_the_probe_names_each_kind_with_its_line(self):
        with small.untouched(self, self.env.root):
            taken = self.snapshot_probed()
        lines = self.lines(taken)
        self.names_the_library(lines)
        self.assertIn(f'system-files = ["{self.folder}"]', lines)
        self.assertIn('programs = ["git", "sort"]', lines)
        self.assertIn('folders = [{ path = "/srv/models/made", at = "models/made", writable = true }]', lines)
        self.assertIn('exclude = ["custom_nodes/first-pack/cache.json"]', lines)
        self.assertIn('NUMBA_CACHE_DIR = "{slot}/base/.cache/numba"', lines)
        self.assertIn({"what": "git", "by": "custom_nodes/first-pack"}, taken.json["probe"]["used"]["programs"])
        # It is remembered: one without --probe, and the report, say it again.
        again = self.snapshot(self.env)
        self.assertEqual(self.lines(again), lines)
        self.assertIn(f'"{self.library}"', self.run_it("inspect", self.env.root).out)

    def test_run_names_what_came_from_this_machine(self):
        taken = self.snapshot(self.env).json
        server = harness.Server(self.station, taken["id"])
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        server.process.send_signal(signal.SIGINT)
        ended = json.loads(server.process.stdout.read())
        self.assertEqual(server.process.wait(60), 0)
        lines = {line["line"] for line in ended["lines"]}
        self.names_the_library(lines)
        self.assertLessEqual({f'system-files = ["{self.folder}"]', 'programs = ["git", "sort"]'}, lines)
        self.assertIn({"what": "sort", "by": "custom_nodes/first-pack"}, ended["used"]["programs"])
        said = (self.station.root / "server.log").read_text()
        self.assertRegex(said, rf'under \[python\]: libraries = \[.*"{re.escape(self.library)}"')

    def test_imports_from_the_snapshot_are_seen_too(self):
        small.Wheel("loader", members={"loader/__init__.py": f"import ctypes\nctypes.CDLL({self.library!r})\n".encode()}).install(self.env.site)
        small.write(self.env.pack / "__init__.py", "")
        taken = self.station.inside(harness.BINARY, "snapshot", "--json", "--offline", "--probe", self.env.root, **self.clean({})).json
        self.assertIn({"what": self.library, "by": "loader"}, taken["probe"]["used"]["libraries"])

    def snapshot_probed(self):
        return self.run_it("snapshot", "--probe", "--offline", "--json", self.env.root)

    def test_what_is_configured_is_not_named_again(self):
        small.write(self.env.root / "stillframe.toml",
                    f'exclude = ["custom_nodes/first-pack/cache.json"]\n[python]\nlibraries = ["{self.library}"]\n'
                    '[service]\nmodels = "/data"\nfolders = [{ path = "/data/made", at = "models/made", writable = true }]\n')
        lines = self.lines(self.snapshot_probed())
        self.assertEqual({line.split(" ")[0] for line in lines}, {"programs", "system-files", "NUMBA_CACHE_DIR"})


if __name__ == "__main__":
    unittest.main()
