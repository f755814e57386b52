"""The import check of `snapshot --probe`: code that follows its own real path out of its wheel is found and laid out as files."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import harness
from harness import remove_tree
from small import BasePython, Case, Wheel, untouched, write

SECONDS = 60
BATCH = True

SERVER = harness.ROOT / "tests" / "fixtures" / "service"
# Reads a file of its neighbour through its own real path: with links it arrives in a store path of its own wheel.
FOLLOWS = b"import os\nPLACE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))\n" \
          b"TEXT = open(os.path.join(PLACE, 'beta', 'data.txt')).read()\n"


class Imports(Case):
    def setUp(self):
        super().setUp()
        self.env = self.environment()
        shutil.copytree(SERVER, self.env.root, dirs_exist_ok=True)
        write(self.env.root / "behaviour.json", json.dumps({"mark": "imports"}))
        for wheel in (Wheel("beta"), Wheel("alpha", members={"alpha/__init__.py": FOLLOWS}),
                      # Imports it, and fails with it: the fault is not its own.
                      Wheel("gamma", members={"gamma/__init__.py": b"import alpha\n"}),
                      # Fails everywhere: nothing of ours to mend.
                      Wheel("delta", members={"delta/__init__.py": b"import none_such\n"}),
                      # Ends its process, here and there.
                      Wheel("epsilon", members={"epsilon/__init__.py": b"import os\nos._exit(3)\n"})):
            wheel.install(self.env.site)
        (self.station.store / "nix").mkdir(parents=True, exist_ok=True)

    def take(self, *arguments):
        return self.station.inside(harness.BINARY, "snapshot", "--json", *arguments, self.env.root, **self.clean({})).json

    def links(self, taken):
        python = (self.station.real(taken["snapshot"]) / "python").readlink()
        site = next((self.station.real(python) / "lib").glob("python3*")) / "site-packages"
        return {name: (site / name / "__init__.py").is_symlink() for name in ("alpha", "beta", "gamma", "delta", "epsilon")}

    def imports(self, taken):
        return [(f["severity"], f["path"], f["message"]) for f in taken["findings"] if f["topic"] == "imports"]

    def test_what_follows_its_real_path_is_found_and_remembered(self):
        first = self.take()
        self.assertEqual(set(self.links(first).values()), {True})
        python = f"{first['snapshot']}/python/bin/python"
        self.assertIn("FileNotFoundError", self.station.inside(python, "-c", "import gamma", code=1).err)
        probed = self.take("--probe")
        self.assertNotEqual(probed["snapshot"], first["snapshot"])
        self.assertEqual(self.links(probed), {"alpha": False, "beta": True, "gamma": True, "delta": True, "epsilon": True})
        self.assertEqual(self.imports(probed), [(
            "warning", "alpha", "laid out as real files: its code does not import through links; name it in `[python] real-files` "
                                "to have it known everywhere")])
        python = f"{probed['snapshot']}/python/bin/python"
        self.station.inside(python, "-c", "import gamma", hide=[self.place])
        # What was copied nothing makes again: Nix keeps it for `verify`.
        record = self.run_it("snapshots", "show", "--json", probed["id"]).json["record"]
        alpha = next(o["path"] for o in record["outputs"] if o["label"] == "alpha 1.0")
        dead = self.station.nix("nix-store", "--gc", "--print-dead").out.split()
        self.assertNotIn(alpha, self.station.nix("nix-store", "--query", "--requisites", probed["snapshot"]).out.split())
        self.assertNotIn(alpha, dead)
        self.assertIn(first["snapshot"], self.station.nix("nix-store", "--gc", "--print-roots").out)
        # Without the check as well, and with it once more.
        for arguments in ([], ["--probe"]):
            again = self.take(*arguments)
            self.assertEqual((again["snapshot"], again["unchanged"]), (probed["snapshot"], True))
        # What no longer needs it has links again.
        write(self.env.site / "alpha/__init__.py", b"TEXT = 'own'\n")
        mended = self.take("--probe")
        self.assertEqual(set(self.links(mended).values()), {True})
        self.assertEqual(self.imports(mended), [])

    def test_what_modules_write_beside_themselves_stays_out_of_store_and_environment(self):
        """As numba's cache does; and as the server does by `run`, whoever has started it."""
        remove_tree(self.env.site / "alpha")
        writes = b"import os\nPLACES = [os.path.dirname(os.path.realpath(__file__)), os.path.dirname(os.path.abspath(__file__)), os.path.expanduser('~')]\n" \
                 b"WROTE = []\nfor place in PLACES:\n    try:\n        open(os.path.join(place, 'cache.nbi'), 'w').close()\n        WROTE.append(place)\n    except OSError:\n        pass\n" \
                 b"assert WROTE == [os.path.expanduser('~')], WROTE\n"
        Wheel("writer", members={"writer/__init__.py": writes}).install(self.env.site)
        main = self.env.root / "main.py"
        main.write_text(f"import writer\n{main.read_text()}")
        with untouched(self, self.env.root):
            taken = self.take("--probe")
        # It imports: what can be written is its home.
        self.assertNotIn("writer", [path for _, path, _ in self.imports(taken)])
        self.store_is_sound()
        server = harness.Server(self.station, taken["id"])
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        server.stop()
        self.store_is_sound()

    def test_what_the_user_installed_is_there_for_both(self):
        """`pip install --user` is part of an environment that looks there: also for its own server and its own imports."""
        home = self.place / "home"
        prefix, _ = BasePython().copy(self.place / "python")
        remove_tree(self.env.venv)
        subprocess.run([prefix / "bin" / "python3", "-m", "venv", "--without-pip", self.env.venv], check=True)
        Wheel("beta").install(self.env.site)
        user = home / ".local" / "lib" / self.env.site.parent.name / "site-packages"
        Wheel("useralpha").install(user)
        config = self.env.venv / "pyvenv.cfg"
        config.write_text(config.read_text().replace("include-system-site-packages = false", "include-system-site-packages = true"))
        main = self.env.root / "main.py"
        main.write_text(f"import useralpha\n{main.read_text()}")
        write(self.env.site / "beta/__init__.py", b"import sys\nimport useralpha\nassert '/nix/' not in sys.prefix, 'not here'\n")
        taken = self.station.inside(harness.BINARY, "snapshot", "--json", "--probe", self.env.root, **self.clean({}), HOME=home).json
        self.assertIn(("problem", "beta", "`import beta` works in the environment and not from the snapshot: AssertionError: not here"),
                      self.imports(taken))
        python = f"{taken['snapshot']}/python/bin/python"
        self.station.inside(python, "-c", "import useralpha", hide=[self.place])

    def counting(self, name, code="", requires=()):
        """A distribution that notes each import of it; a dependency takes long enough to be imported once for all."""
        note = f"import os\nwith open({str(self.place / 'count')!r}, 'a') as file:\n    file.write({name + chr(10)!r})\n"
        Wheel(name, members={f"{name}/__init__.py": (note + code).encode()}, requires=requires).install(self.env.site)

    def counted(self):
        count = self.place / "count"
        names = sorted(count.read_text().split()) if count.exists() else []
        count.unlink(missing_ok=True)
        return names

    def test_what_many_depend_on_is_imported_once_and_what_is_known_to_import_is_not_asked_again(self):
        self.counting("base", "import time\ntime.sleep(0.2)\n")
        users = [f"user{n}" for n in range(5)]
        for name in users:
            self.counting(name, "import base\n", requires=["base>=1", "none-such; extra == 'more'"])
        self.counting("apart")
        # Fails, here and there: not remembered.
        self.counting("broken", "import none_such\n", requires=["base"])
        all_of = sorted(["apart", "base", *users])
        first = self.take("--probe")
        count = self.counted()
        # The broken one in a fork, alone, and once more in the environment.
        self.assertEqual([name for name in count if name != "broken"], all_of)
        self.assertEqual(count.count("broken"), 3)
        self.assertEqual([f for f in self.imports(first) if f[0] == "problem"], [])
        again = self.take("--probe")
        self.assertEqual((again["snapshot"], self.imports(again), self.counted()), (first["snapshot"], self.imports(first), ["broken", "broken"]))
        # Of a change only what loads it is asked again, and of a new distribution all: it may be what others have looked for.
        self.counting("base", "import time\ntime.sleep(0.2)\nCHANGED = True\n")
        self.take("--probe")
        self.assertEqual([name for name in self.counted() if name != "broken"], sorted(["base", *users]))
        self.counting("fresh")
        self.take("--probe")
        self.assertEqual([name for name in self.counted() if name != "broken"], sorted([*all_of, "fresh"]))

    def test_of_more_than_may_stay_what_takes_longest_to_import_does(self):
        small = [f"small{n:02}" for n in range(20)]
        for name in small:
            self.counting(name, "import time\ntime.sleep(0.06)\n")
        self.counting("heavy", f"import time, {', '.join(small)}\ntime.sleep(0.5)\n", requires=small)
        for name in ("user0", "user1"):
            self.counting(name, "import heavy\n", requires=["heavy"])
        self.take("--probe")
        self.assertEqual(self.counted().count("heavy"), 1)

    def test_no_distribution_sees_what_another_leaves_in_its_process(self):
        """Each imports in the environment. What a process of its own would tell of the snapshot is found, and nothing else."""
        here = "import sys\nHERE = '/nix/' not in sys.prefix\n"
        self.counting("base", "import sys, time, types\ntime.sleep(0.2)\nsys.modules['left_behind'] = types.ModuleType('left_behind')\n")
        for name, code in {
            # It would find it in a process where its dependency was imported, which it does not import itself.
            "masked": f"{here}if not HERE:\n    import left_behind\n",
            # The same, with the dependency imported too late.
            "afterwards": "import base\nimport left_behind\n",
            # Cannot bear what another distribution may have imported before it.
            "first": "import sys\nassert 'base' not in sys.modules\n",
            "leaves": f"{here}import base\nimport os\nHERE or os._exit(0)\n",
            "crashes": f"{here}import base\nimport os\nHERE or os.kill(os.getpid(), 11)\n",
            "quits": f"{here}import base\nHERE or sys.exit(0)\n",
            "closes": f"{here}import base\nimport os\nos.closerange(3, 1024)\n",
            "forks": "import base\nimport os\npid = os.fork()\npid or os._exit(7)\nos.waitpid(pid, 0)\n",
            "prints": "import base\nprint('{\"name\": \"base\", \"asked\": [], \"failed\": [], \"loaded\": []}', flush=True)\n",
            "bends": "import base, builtins, time, os, signal, sys\nsys.path.clear()\nos.environ.clear()\nos.chdir('/')\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
                     "signal.alarm(9)\ntime.sleep(0.1)\nbuiltins.open = None\n",
            "after_bends": "import base, bends, threading, time\ntime.sleep(0.1)\n",
        }.items():
            self.counting(name, code, requires=["base", "bends"] if name == "after_bends" else ["base"])
        problems = {(path, message.partition(": ")[2]) for severity, path, message in self.imports(self.take("--probe")) if severity == "problem"}
        self.assertEqual(problems, {
            ("masked", "ModuleNotFoundError: No module named 'left_behind'"), ("leaves", "the process ended with status 0"),
            ("crashes", "the process ended with signal 11"), ("quits", "SystemExit: 0")})

    def test_a_module_that_ends_its_process_hides_no_other(self):
        here = "import sys\nHERE = '/nix/' not in sys.prefix\n"
        Wheel("several", members={"several/__init__.py": f"{here}import os\nHERE or os._exit(0)\n".encode(),
                                  "several_more/__init__.py": f"{here}assert HERE, 'not here'\n".encode()}).install(self.env.site)
        problems = [(path, message) for severity, path, message in self.imports(self.take("--probe")) if severity == "problem"]
        self.assertEqual(problems, [
            ("several", "`import several` works in the environment and not from the snapshot: the process ended with status 0"),
            ("several", "`import several_more` works in the environment and not from the snapshot: AssertionError: not here")])

    def test_what_a_module_leaves_running_holds_nobody_up(self):
        """A daemon has the pipes of the process that it comes from, in a session of its own."""
        daemon = b"import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.execv('/bin/sleep', ['sleep', '86398.5'])\n    os._exit(0)\n"
        silent = b"import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(86397)\n    os._exit(0)\n"
        Wheel("daemon", members={"daemon/__init__.py": daemon}).install(self.env.site)
        Wheel("silent", members={"silent/__init__.py": silent}).install(self.env.site)
        self.assertEqual([f for f in self.imports(self.take("--probe")) if f[0] == "problem"], [])
        running = subprocess.run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"], capture_output=True).stdout
        self.assertNotIn(b"86398.5", running.replace(b"\0", b" "))

    def test_both_are_asked_for_the_same_modules(self):
        """Where two distributions have files of one package, as opencv's have, the RECORD of one has lost the package's beginning
        to the other in the snapshot, and not in the environment."""
        part = {"shared/part/__init__.py": b"import none_such\n", "shared/__init__.py": b"OF = 'one'\n"}
        Wheel("one", members=part).install(self.env.site)
        Wheel("two", members={"shared/__init__.py": b"OF = 'two'\n"}).install(self.env.site)
        self.assertEqual([f for f in self.imports(self.take("--probe")) if f[0] == "problem"], [])

    def test_what_the_probed_server_starts_ends_with_it(self):
        main = self.env.root / "main.py"
        main.write_text(f"import subprocess\nsubprocess.Popen(['sleep', '86399.5'])\n{main.read_text()}")
        self.take("--probe")
        running = subprocess.run(["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"], capture_output=True).stdout
        self.assertNotIn(b"86399.5", running.replace(b"\0", b" "))

    def test_what_the_probed_server_does_to_its_models_stays_with_it(self):
        write(self.env.root / "models" / "vae" / "kept.pt", "kept")
        (self.env.root / "models" / "loop").symlink_to("..")
        main = self.env.root / "main.py"
        main.write_text(f"""\
import os
models = "../base/models/"
assert open(models + "vae/kept.pt").read() == "kept"
assert os.environ["PIP_NO_INDEX"] == "1"
os.mkdir(models + "clip")
open(models + "clip/downloaded.pt", "w").close()
os.remove(models + "vae/kept.pt")
{main.read_text()}""")
        with untouched(self, self.place):
            self.take("--probe")

    def test_what_files_do_not_mend_is_a_problem(self):
        write(self.env.site / "beta/__init__.py", b"import sys\nassert '/nix/' not in sys.prefix, 'not here'\n")
        taken = self.take("--probe")
        self.assertEqual(set(self.links(taken).values()), {True, False})
        self.assertEqual([f for f in self.imports(taken) if f[0] == "problem"], [(
            "problem", "beta", "`import beta` works in the environment and not from the snapshot: AssertionError: not here")])
        self.assertTrue(self.links(taken)["beta"])

    def editable(self, name, files, project):
        """An editable install: `files` of site-packages, and a project beside the environment."""
        wheel = Wheel(name)
        del wheel.members[f"{name}/__init__.py"], wheel.members[f"{name}/data.txt"]
        wheel.members.update({path: text.encode() for path, text in files.items()})
        wheel.install(self.env.site)
        for path, text in project.items():
            write(self.place / name / path, text)
        write(self.env.site / wheel.info / "direct_url.json", json.dumps({"url": f"file://{self.place}/{name}", "dir_info": {"editable": True}}))

    def test_editable_installs_that_build_when_they_are_imported(self):
        """As meson-python's hook does, shortened; and what only the folder of a .pth file or a hook's own table brings."""
        build = self.place / "built" / "build"
        loader = """import os, sys, importlib.util
MARKER = 'MESONPY_EDITABLE_SKIP'
class MesonpyMetaFinder:
    def __init__(self, names, path):
        self._top_level_modules, self._build_path = names, path
    def find_spec(self, fullname, path=None, target=None):
        if fullname in self._top_level_modules:
            # As root, who may write into the store of a test.
            if self._build_path.startswith('/nix/'):
                raise ImportError('re-building the package failed')
            return importlib.util.spec_from_file_location(fullname, os.path.join(os.path.dirname(self._build_path), fullname + '.py'))
sys.meta_path.insert(0, MesonpyMetaFinder({'built'}, %r))
""" % str(build)
        self.editable("built", {"_built_editable_loader.py": loader, "built-editable.pth": "import _built_editable_loader\n"}, {"built.py": ""})
        self.editable("plain", {"plain.pth": f"{self.place}/plain\n"},
                      {"plain/__init__.py": "import sys\nassert '/nix/' not in sys.prefix, 'not here'\n", "setup.py": "raise SystemExit('never imported')\n"})
        said = ("problem", "built", "an editable install of meson-python, which is built at each import: a host cannot do that, and it does not import "
                "there; install it without -e")
        self.assertEqual([f for f in self.imports(self.take()) if f[0] == "problem"], [said])
        with untouched(self, self.env.site):
            taken = self.take("--probe")
        problems = [f for f in self.imports(taken) if f[0] == "problem"]
        self.assertIn(said, problems)
        self.assertIn(("problem", "plain", "`import plain` works in the environment and not from the snapshot: AssertionError: not here"), problems)
        self.assertIn(("problem", "built", "`import built` works in the environment and not from the snapshot: ImportError: re-building the package failed"),
                      problems)
        self.assertEqual(len(problems), 3)


class Script(unittest.TestCase):
    """The script alone, with less patience."""

    def test_a_fork_that_works_has_the_time_that_one_that_waits_has_not(self):
        place = Path(tempfile.mkdtemp(prefix="sf-imports-"))
        self.addCleanup(remove_tree, place)
        count = place / "count"
        for name, code in {
            "base": "import time\ntime.sleep(0.2)\n",
            "works": "import base, time\nwhile time.process_time() < 3.5:\n    pass\n",
            # As for a thread that is in another process.
            "waits": f"import base, time\nopen({str(count)!r}).read().count('waits') > 1 or time.sleep(600)\n",
        }.items():
            requires = [] if name == "base" else ["base"]
            code = f"open({str(count)!r}, 'a').write('{name} ')\n{code}"
            Wheel(name, members={f"{name}/__init__.py": code.encode()}, requires=requires).install(place / "site")
        parts = (harness.ROOT / "src/snapshot/scripts/import_check" / f"{part}.py" for part in ("asked", "child", "first"))
        script = "".join(part.read_text() for part in parts).replace("\nGRACE = 10\n", "\nGRACE = 1\n")
        question = {"names": None, "known": [], "workers": 3, "limit": 120}
        done = subprocess.Popen([sys.executable, "-S", "-B", "-c", script], env={"PYTHONPATH": str(place / "site"), "PATH": os.environ["PATH"]},
                                cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(done.stdin.close)
        done.stdin.write(json.dumps(question) + "\n")
        done.stdin.flush()
        said = [json.loads(line) for line in done.stdout.read().splitlines()]
        done.stdout.close()
        self.assertEqual(done.wait(), 0)
        self.assertEqual({line["name"]: line["failed"] for line in said[1:]}, {"base": [], "waits": [], "works": []})
        self.assertEqual(sorted(count.read_text().split()), ["base", "base", "waits", "waits", "works"])


if __name__ == "__main__":
    unittest.main()
