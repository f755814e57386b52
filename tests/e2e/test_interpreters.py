"""Environments made by other tools than `python -m venv` and pip, and a runtime that is given, not captured."""
import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

import harness
from harness import CACHE, Server, Workstation, example
from small import BasePython, Case, Environment, Wheel, shared_object, untouched, write

SECONDS = 160
SHARES = {"example", "network"}
BATCH = True

SHARED = {}
UV = CACHE / "tools" / "bin" / "uv"


def setUpModule():
    SHARED["comfy"] = example()
    SHARED["ws"] = Workstation()
    SHARED["first"] = SHARED["ws"].stillframe("snapshot", SHARED["comfy"], "--probe", "--label", "first", "--json").json
    python = SHARED["comfy"] / ".venv" / "bin" / "python"
    SHARED["soabi"] = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"],
                                     capture_output=True, text=True, check=True).stdout.strip()
    SHARED["lock"] = SHARED["ws"].stillframe("snapshots", "show", "first", "--json").json["lock"]


def tearDownModule():
    SHARED["ws"].remove()


def config(name, text):
    path = SHARED["ws"].root / f"{name}.toml"
    path.write_text(f'environment = "{SHARED["comfy"]}"\n{text}')
    return path


class UvVenv(unittest.TestCase):
    def test_a_venv_made_and_filled_by_uv_gives_the_same_trees(self):
        ws = SHARED["ws"]
        venv = ws.root / "uv-venv"
        base = (SHARED["comfy"] / ".venv" / "bin" / "python").resolve()
        subprocess.run([UV, "venv", "--quiet", "--python", base, venv], check=True)
        house = sorted((CACHE / "pip").glob("*/wheels-*"))[-1]
        pinned = {d["name"]: d for d in SHARED["lock"]["distributions"] if d["provenance"] == "pinned"}
        subprocess.run([UV, "pip", "install", "--quiet", "--no-deps", "--offline", "--no-index", "--find-links", house, "--python", venv / "bin/python",
                        *(f"{d['name']}=={d['version']}" for d in pinned.values())], check=True)
        file = config("uv", f'[python]\ninterpreter = "{venv}/bin/python"\n')
        value = ws.stillframe("--config", file, "lock", "--json").json
        found = {d["name"]: d["provenance"] for d in value["distributions"]}
        self.assertEqual(found, dict.fromkeys(pinned, "pinned"))
        written = (ws.root / "stillframe.lock").read_text()
        for d in pinned.values():
            self.assertIn(d["tree"]["nar-hash"], written, d["name"])


class Foreign(Case):
    """Interpreters of other makers, imitated: a copy of this machine's own at another place."""

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        harness.remove_tree(self.env.venv)
        self.base = BasePython()
        self.version = self.base.version

    def copied(self, name):
        return self.base.copy(self.place / name)

    def lost(self, lib):
        """An extension module that the copy has no more, and the interpreter it was copied from still has."""
        module = sorted(lib.glob("lib-dynload/_lsprof.*.so") or lib.glob("lib-dynload/*.so"))[0]
        module.unlink()
        return module.name

    def runtime(self, taken):
        return self.tree(taken, "Python runtime")

    def starts(self, taken):
        """The snapshot's interpreter, the environment out of sight."""
        run = "import sys, alpha, json; print(json.dumps([sys.prefix, alpha.NAME, sys.version_info[:2]]))"
        done = self.station.inside(f"{taken['snapshot']}/python/bin/python", "-B", "-s", "-c", run, hide=[self.place])
        prefix, name, version = json.loads(done.out)
        self.assertTrue(prefix.startswith("/nix/store/"), prefix)
        self.assertEqual((name, ".".join(map(str, version))), ("alpha", self.version))

    def test_a_conda_environment(self):
        prefix, lib = self.copied("miniforge/envs/comfy")
        write(prefix / "conda-meta" / "history", "")
        write(prefix / "conda-meta" / "alpha-1.0-py_0.json", "{}")
        Wheel("alpha").install(lib / "site-packages")
        write(lib / "site-packages" / "alpha-1.0.dist-info" / "INSTALLER", "conda")
        lost = self.lost(lib)
        # A library that came with the prefix and not in a wheel: its interpreter finds it there.
        shared_object(lib / "site-packages" / "native.so", "libonlyhere.so.3")
        shared_object(lib.parent / "libonlyhere.so.3")
        with untouched(self, self.place):
            report = self.inspect(self.env, CONDA_PREFIX=str(prefix)).json
            taken = self.snapshot(self.env, CONDA_PREFIX=str(prefix)).json
        self.assertEqual((report["python"]["found"], report["python"]["executable"]), ("from $CONDA_PREFIX", f"{prefix}/bin/python"))
        self.assertEqual([d["name"] for d in report["distributions"]], ["alpha"])
        modules = {p.name for p in (self.runtime(taken) / "lib" / lib.name / "lib-dynload").iterdir()}
        self.assertNotIn(lost, modules, "taken from the prefix that it was copied from")
        self.assertFalse((self.runtime(taken) / "include").exists(), "the copy has no headers")
        self.assertLessEqual({p.name for p in (lib / "lib-dynload").glob("*.so") if "test" not in p.name and "xxlimited" not in p.name}, modules)
        self.starts(taken)
        said = ("problem", "audit", "native.so")
        advice = f"needs libonlyhere.so.3, which nothing in the snapshot has; add {lib.parent}/libonlyhere.so.3 to [python] libraries"
        self.assertIn((*said, advice), [(f["severity"], f["topic"], f["path"], f["message"]) for f in taken["findings"]])
        write(self.env.root / "stillframe.toml", f'[python]\nlibraries = ["{lib.parent}/libonlyhere.so.3"]\n')
        again = self.snapshot(self.env, CONDA_PREFIX=str(prefix)).json
        self.assertEqual([f for f in again["findings"] if (f["severity"], f["topic"], f["path"]) == said], [])

    def test_a_venv_of_uv_on_a_python_of_uv(self):
        prefix, lib = self.copied(f"share/uv/python/cpython-{self.version}-linux-x86_64-gnu")
        write(lib / "EXTERNALLY-MANAGED", "[externally-managed]\nError=This Python installation is managed by uv.\n")
        lost = self.lost(lib)
        subprocess.run([UV, "venv", "--quiet", "--python", prefix / "bin" / "python3", self.env.root / ".venv"], check=True)
        Wheel("alpha").install(next((self.env.root / ".venv" / "lib").glob("python3*/site-packages")))
        taken = self.snapshot(self.env).json
        self.assertEqual([f for f in taken["findings"] if f["topic"] == "unowned" and "virtualenv" not in f["path"]], [])
        library = self.runtime(taken) / "lib" / lib.name
        self.assertFalse((library / "lib-dynload" / lost).exists())
        self.assertFalse((library / "EXTERNALLY-MANAGED").exists())
        self.starts(taken)

    def test_a_shim_of_pyenv_by_its_name(self):
        """A script in front of many interpreters: which one it starts is asked each time."""
        root = self.place / "pyenv"
        for name in ("one", "two"):
            prefix, lib = self.copied(f"pyenv/versions/{name}")
            Wheel("alpha", members={"alpha/which.txt": name.encode()}).install(lib / "site-packages")
        shim = write(root / "shims" / "python3", f'''#!/usr/bin/env bash
set -e
program="${{0##*/}}"
export PYENV_ROOT="{root}"
exec "{root}/libexec/pyenv" exec "$program" "$@"
''', 0o755)
        write(root / "libexec" / "pyenv", '''#!/usr/bin/env bash
shift
program="$1"
shift
exec "$PYENV_ROOT/versions/$(cat .python-version 2>/dev/null || cat "$PYENV_ROOT/version")/bin/$program" "$@"
''', 0o755)
        write(self.env.root / "stillframe.toml", f'[python]\ninterpreter = "{shim}"\n')
        for name in ("one", "two"):
            write(root / "version", f"{name}\n")
            self.env.age()
            # Twice: what the first remembers must not answer for what the other interpreter is.
            self.snapshot(self.env)
            taken = self.snapshot(self.env).json
            self.assertEqual((self.tree(taken, "alpha 1.0") / "alpha" / "which.txt").read_text(), name)
            self.assertEqual(self.inspect(self.env).json["python"]["executable"], str(shim))
        self.starts(taken)
        # `pyenv local`: what the environment's own folder says.
        write(self.env.root / ".python-version", "one\n")
        self.assertEqual((self.tree(self.snapshot(self.env).json, "alpha 1.0") / "alpha" / "which.txt").read_text(), "one")

    def test_headers_that_come_and_go(self):
        """A package of its own on most systems: what was remembered of the interpreter does not outlive it."""
        prefix, lib = self.copied("python")
        headers = prefix / "include" / lib.name
        write(self.env.root / "stillframe.toml", f'[python]\ninterpreter = "{prefix}/bin/python3"\n')
        trees = []
        for there in (True, False, True):
            if there:
                write(headers / "Python.h", "")
            else:
                harness.remove_tree(headers)
            self.env.age()
            self.snapshot(self.env)
            taken = self.snapshot(self.env).json
            self.assertEqual((self.runtime(taken) / "include" / lib.name / "Python.h").exists(), there)
            trees.append(taken["snapshot"])
        self.assertEqual(trees[0], trees[2])
        self.assertNotEqual(trees[0], trees[1])


class Versions(Case):
    def of_this_machine(self):
        """An interpreter of each version that is here and can be captured."""
        found = {}
        for path in [*Path.home().glob(".pyenv/versions/*/bin/python3"), *Path("/usr/bin").glob("python3*")]:
            done = subprocess.run([path, "-c", "import ensurepip, sys, venv; print(*sys.version_info[:2])"], capture_output=True, text=True)
            if re.fullmatch(r"3 \d+\n", done.stdout) and int(done.stdout.split()[1]) >= 9:
                found.setdefault(int(done.stdout.split()[1]), path)
        return found

    def test_the_oldest_and_the_newest_use_what_was_compiled(self):
        """Before 3.11 an interpreter finds its library by where its real file is, since then by what pyvenv.cfg says. And two
        environments of one workstation, whose runtimes have base libraries of one name."""
        found = self.of_this_machine() or {sys.version_info[1]: Path(sys.executable)}
        for minor in sorted({min(found), max(found)}):
            with self.subTest(minor=minor):
                env = Environment(self.place / f"env-{minor}", python=found[minor])
                Wheel("alpha").install(env.site)
                taken = self.snapshot(env).json
                code = "import bz2, ctypes, decimal, hashlib, json, lzma, sqlite3, ssl, sys, zlib, alpha; print(sys.base_prefix, json.__spec__.cached)"
                # As root, who may write into a store, and with bytecode asked for.
                out = self.station.inside(f"{taken['snapshot']}/python/bin/python", "-c", code, hide=[self.place]).out
                self.assertRegex(out, rf"^(/nix/store/\w{{32}}-python-3\.{minor}\.\d+) \1/lib/python3\.{minor}/json/__pycache__/__init__\.cpython-3{minor}\.pyc\n$")
                self.store_is_sound()


class SystemInterpreter(unittest.TestCase):
    def test_debians_own_python_without_a_venv(self):
        ws = SHARED["ws"]
        file = config("system", '[python]\ninterpreter = "/usr/bin/python3"\n')
        value = ws.stillframe("--config", file, "snapshot", "--label", "system", "--json").json
        run = "import sys, ssl, sqlite3, ctypes, lzma, json; print(json.dumps([sys.executable, sys.prefix, sys.path]))"
        done = ws.inside(f"{value['snapshot']}/python/bin/python", "-s", "-c", run)
        executable, prefix, path = json.loads(done.out)
        self.assertTrue(executable.startswith("/nix/store/"), executable)
        self.assertTrue(prefix.startswith("/nix/store/"), prefix)
        self.assertEqual([p for p in path if p and not p.startswith("/nix/store/")], [])


class GivenRuntime(unittest.TestCase):
    """A store path of the configuration stands in for the captured runtime, as nixpkgs' python3 would."""

    @classmethod
    def setUpClass(cls):
        cls.outputs = {o["label"]: o["path"] for o in SHARED["ws"].stillframe("snapshots", "show", "first", "--json").json["record"]["outputs"]}
        cls.version = SHARED["lock"]["runtime"]["version"]

    def built(self, name, base=None, runtime=""):
        """A runtime that is no output of ours: input-addressed, made by Nix from copies of the captured one. `base`
        and `runtime`: what to do to the copies of the base libraries and of the interpreter's tree."""
        ws, source, libraries = SHARED["ws"], self.outputs["Python runtime"], self.outputs["base libraries"]
        script = """
import os, shutil
def copy(source, out):
    shutil.copytree(source, out, symlinks=True)
    for folder, folders, files in os.walk(out):
        os.chmod(folder, 0o755)
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o755)
def replace(out, old, new):
    for folder, folders, files in os.walk(out):
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                data = open(path, "rb").read()
                if old in data:
                    open(path, "wb").write(data.replace(old, new))
out = os.environ["out"]
"""
        expression = ws.root / f"{name}.nix"
        inside = ws.root / f"{name}-base.py", ws.root / f"{name}-runtime.py"
        inside[0].write_text(script + f"copy({libraries!r}, out)\n{base or ''}\n")
        inside[1].write_text(script + f"copy({source!r}, out)\nreplace(out, {libraries!r}.encode(), os.environ['base'].encode())\n{runtime}\n")
        expression.write_text(f"""
let
  path = text: builtins.appendContext text {{ "${{text}}" = {{ path = true; }}; }};
  python = path "{source}";
  make = name: script: more: derivation ({{
    inherit name; system = builtins.currentSystem; builder = "${{python}}/bin/python3"; PATH = "${{python}}/bin";
    args = [ "-S" "-s" "-c" script ]; libraries = path "{libraries}";
  }} // more);
  base = make "python-base-libraries" (builtins.readFile {inside[0]}) {{}};
in make "python3-{self.version}" (builtins.readFile {inside[1]}) {{ base = "${{base}}"; }}
""")
        drv = ws.nix("nix-instantiate", expression).out.strip()
        return ws.nix("nix-store", "--realise", drv).out.strip()

    def test_it_builds_and_serves_with_it(self):
        ws, first = SHARED["ws"], SHARED["first"]
        given = self.outputs["standard library bytecode"]
        file = config("given", f'[python]\nruntime = "{given}"\nlibraries = ["/lib/nowhere.so"]\n')
        value = ws.stillframe("--config", file, "snapshot", "--label", "given", "--json").json
        self.assertNotEqual(value["snapshot"], first["snapshot"])
        self.assertEqual([(f["path"], f["message"]) for f in value["findings"] if f["topic"] in ("runtime", "audit")],
                         [("/lib/nowhere.so", f"does not ship: the Python runtime {given} brings its own libraries")])
        lock = ws.stillframe("snapshots", "show", "given", "--json").json["lock"]
        self.assertEqual(lock["runtime"], {"version": self.version, "store-path": given})
        closure = ws.nix("nix-store", "--query", "--requisites", value["snapshot"]).out.split()
        self.assertIn(given, closure)
        server = Server(ws, "given", hide=[SHARED["comfy"].parent])
        self.assertEqual(sorted(server.get("/object_info")), sorted(first["probe"]["classes"]))
        self.assertEqual(server.stop(), 0)
        done = ws.stillframe("snapshots", "verify", "given")
        self.assertRegex(done.out, r" verified: .* every NAR hash is equal\n$")

    def test_one_that_is_no_output_of_ours(self):
        ws = SHARED["ws"]
        given = self.built("plain")
        file = config("plain", f'[python]\nruntime = "{given}"\n')
        value = ws.stillframe("--config", file, "snapshot", "--label", "plain", "--json").json
        self.assertEqual([f for f in value["findings"] if f["topic"] == "audit"], [])
        done = ws.inside(f"{value['snapshot']}/python/bin/python", "-B", "-s", "-c", "import numpy, cv2, sys; print(sys.base_prefix)")
        self.assertEqual(done.out.strip(), given)
        done = ws.stillframe("snapshots", "verify", "plain")
        self.assertRegex(done.out, r" verified: .* every NAR hash is equal\n$")
        # Altered: named, though nothing else is known of it.
        library = ws.real(given) / "lib" / f"python{'.'.join(self.version.split('.')[:2])}" / "this.py"
        original = library.read_bytes()
        os.chmod(library, 0o644)
        library.write_bytes(original + b"# more\n")
        try:
            done = ws.stillframe("snapshots", "verify", "plain", code=1)
        finally:
            library.write_bytes(original)
            os.chmod(library, 0o555)
        self.assertRegex(done.out, rf"^the given Python runtime differs: {given}\n  recorded (\S+), found (?!\1)\S+\n"
                         r"  the first differing file cannot be named: no other copy of it is known\n$")

    def test_the_audit_counts_on_nothing_that_does_not_ship(self):
        """Without libstdc++, which this machine has and the captured runtime would bring."""
        given = self.built("bare", base="os.unlink(out + '/lib/libstdc++.so.6')",
                           runtime="replace(out, b'libstdc++.so.6\\0', b'libm.so.6' + bytes(6))")
        file = config("bare", f'[python]\nruntime = "{given}"\n')
        report = SHARED["ws"].stillframe("--config", file, "inspect", "--json").json
        found = [f["message"] for f in report["findings"] if f["topic"] == "audit" and f["severity"] == "problem"]
        unmet = {u["file"] for u in report["audit"]["unmet"] if u["library"] == "libstdc++.so.6"}
        self.assertIn(f"scipy/spatial/_ckdtree.{SHARED['soabi']}.so", unmet)
        first, *others = sorted(unmet)
        more = f" (so do {', '.join(others[:3])} and {len(others) - 3} more)"
        self.assertEqual(found, [f"needs libstdc++.so.6{more}, which nothing in the snapshot has; the Python runtime {given} must bring it"])
        self.assertIn(first, [f["path"] for f in report["findings"] if f["message"] == found[0]])

    def test_one_of_another_version_is_refused(self):
        """As a runtime of the next Python would answer."""
        ws = SHARED["ws"]
        major, minor, _ = self.version.split(".")
        tag, other = f"cpython-{major}{minor}", f"cpython-{major}{int(minor) + 1}"
        answer = f"""
interpreter = os.path.join(out, "bin", "python3")
os.unlink(interpreter)
open(interpreter, "w").write('''#!{self.outputs["Python runtime"]}/bin/python3
import io, os, sys
real, sys.stdout = sys.stdout, io.StringIO()
os.environ["PATH"] = "{self.outputs["Python runtime"]}/bin"
code = sys.argv[sys.argv.index("-c") + 1]
class Out(io.StringIO):
    pass
exec(code)
sys.stdout.close()
text = open(os.environ["out"]).read().replace("{tag}", "{other}").replace('[{major}, {minor}, ', '[{major}, {int(minor) + 1}, ')
open(os.environ["out"], "w").write(text.replace('"full_version": "{major}.{minor}.', '"full_version": "{major}.{int(minor) + 1}.'))
''')
os.chmod(interpreter, 0o755)
"""
        given = self.built("other", runtime=answer)
        file = config("other", f'[python]\nruntime = "{given}"\n')
        for command in ("inspect", "lock", "snapshot"):
            done = ws.stillframe("--config", file, command, code=2)
            soabi = SHARED["soabi"]
            self.assertEqual(done.err, f"""\
error: the Python runtime {given} is Python {major}.{int(minor) + 1}.{self.version.split(".")[2]} ({soabi.replace(tag, other)}), the environment has Python {self.version} ({soabi})
  hint: give one of the environment's own version, or none: then the environment's is captured
""")

    def test_what_is_no_store_path_is_refused(self):
        file = config("bad", '[python]\nruntime = "/usr"\n')
        done = SHARED["ws"].stillframe("--config", file, "snapshot", code=2)
        self.assertEqual(done.err, """\
error: the Python runtime "/usr" is not a store path: "/usr" is not below the store directory /nix/store
""")

    def test_what_is_not_in_the_store_is_named(self):
        missing = f"/nix/store/00000000000000000000000000000000-python3-{self.version}"
        file = config("missing", f'[python]\nruntime = "{missing}"\n')
        for command in ("inspect", "snapshot"):
            done = SHARED["ws"].stillframe("--config", file, command, code=2)
            self.assertEqual(done.err, f"""\
error: the Python runtime {missing} is not in the store
  hint: bring it there: nix-store --realise {missing}
""")

    def test_what_has_no_interpreter_is_refused(self):
        ws = SHARED["ws"]
        given = self.outputs["base libraries"]
        file = config("none", f'[python]\nruntime = "{given}"\n')
        done = ws.stillframe("--config", file, "snapshot", code=2)
        self.assertRegex(done.err, rf"^error: the Python runtime {given} cannot be used: (?s:.+)\n"
                         r"  hint: it must have bin/python3, and run on this machine\n$")
