"""Environments made by other tools than `python -m venv` and pip, and a runtime that is given, not captured."""
import subprocess
import unittest
from pathlib import Path

from harness import CACHE, Server, Workstation, example

SHARED = {}
UV = CACHE / "tools" / "bin" / "uv"


def setUpModule():
    SHARED["comfy"] = example()
    SHARED["ws"] = Workstation()
    SHARED["first"] = SHARED["ws"].stillframe("snapshot", SHARED["comfy"], "--probe", "--label", "first", "--json").json
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


class SystemInterpreter(unittest.TestCase):
    def test_debians_own_python_without_a_venv(self):
        ws = SHARED["ws"]
        file = config("system", '[python]\ninterpreter = "/usr/bin/python3"\n')
        value = ws.stillframe("--config", file, "snapshot", "--label", "system", "--json").json
        run = "import sys, ssl, sqlite3, ctypes, lzma, json; print(json.dumps([sys.executable, sys.prefix, sys.path]))"
        done = ws.inside(f"{value['snapshot']}/python/bin/python", "-s", "-c", run)
        executable, prefix, path = __import__("json").loads(done.out)
        self.assertTrue(executable.startswith("/nix/store/"), executable)
        self.assertTrue(prefix.startswith("/nix/store/"), prefix)
        self.assertEqual([p for p in path if p and not p.startswith("/nix/store/")], [])


class GivenRuntime(unittest.TestCase):
    """A store path of the configuration stands in for the captured runtime, as nixpkgs' python3 would."""

    def test_it_builds_and_serves_with_it(self):
        ws, first = SHARED["ws"], SHARED["first"]
        outputs = ws.stillframe("snapshots", "show", "first", "--json").json["record"]["outputs"]
        given = next(o["path"] for o in outputs if o["label"] == "standard library bytecode")
        file = config("given", f'[python]\nruntime = "{given}"\n')
        value = ws.stillframe("--config", file, "snapshot", "--label", "given", "--json").json
        self.assertNotEqual(value["snapshot"], first["snapshot"])
        lock = ws.stillframe("snapshots", "show", "given", "--json").json["lock"]
        self.assertEqual(lock["runtime"], {"version": lock["runtime"]["version"], "store-path": given})
        closure = ws.nix("nix-store", "--query", "--requisites", value["snapshot"]).out.split()
        self.assertIn(given, closure)
        server = Server(ws, "given", hide=[SHARED["comfy"].parent])
        self.assertEqual(sorted(server.get("/object_info")), sorted(first["probe"]["classes"]))
        self.assertEqual(server.stop(), 0)

    def test_what_is_no_store_path_is_refused(self):
        file = config("bad", '[python]\nruntime = "/usr"\n')
        done = SHARED["ws"].stillframe("--config", file, "snapshot", code=2)
        self.assertRegex(done.err, r'error: the Python runtime "/usr" is not a store path: ')

    def test_what_is_not_in_the_store_is_named(self):
        missing = "/nix/store/00000000000000000000000000000000-python3-3.11.7"
        file = config("missing", f'[python]\nruntime = "{missing}"\n')
        done = SHARED["ws"].stillframe("--config", file, "snapshot", code=None)
        self.assertNotEqual(done.code, 0)
        self.assertIn(missing, done.err)
