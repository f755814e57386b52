"""Bad input, end to end: each test wants the exact words, the right exit code, the environment untouched, no
half-written state, and a next run that works. What comes from a package index is in test_bad_index.py.
"""
import json
import os
import shutil
import tomllib
import unittest

import harness
import small
from small import Case, Wheel, untouched, write

SECONDS = 50
BATCH = True


class NoEnvironment(Case):
    """What is given is no ComfyUI, or has no Python that answers."""

    def refused(self, env, code, text, *arguments, **variables):
        """Every command that captures says the same, changes nothing and leaves no snapshot behind."""
        with untouched(self, self.place):
            for command in ("inspect", "lock", "snapshot"):
                self.failure([command, env, *arguments], code, text, **variables)
        self.assertEqual(self.run_it("snapshots", "list", "--json").json, {"version": 1, "snapshots": []})

    def test_a_directory_that_does_not_exist(self):
        self.refused(self.place / "nowhere", 2, f"""\
error: cannot open the environment {self.place}/nowhere
  because: No such file or directory (os error 2)
  hint: give the directory that holds ComfyUI's main.py""")

    def test_a_directory_that_is_no_comfyui(self):
        write(self.place / "notes.txt", "hello")
        self.refused(self.place, 1, f"""\
error: {self.place} is not a ComfyUI directory: it has no main.py
  hint: give the directory that holds ComfyUI's main.py""")
        self.refused(self.place / "notes.txt", 1, f"""\
error: {self.place}/notes.txt is not a ComfyUI directory: it is a file
  hint: give the directory that holds ComfyUI's main.py""")
        write(self.place / "main.py")
        self.refused(self.place, 1, f"""\
error: {self.place} is not a ComfyUI directory: it has neither custom_nodes/ nor nodes.py and comfy/
  hint: give the directory that holds ComfyUI's main.py""")

    def test_the_directory_above_is_named_instead(self):
        env = self.environment()
        self.refused(self.place, 1, f"""\
error: {self.place} is not a ComfyUI directory: it has no main.py
  hint: did you mean {env.root}?""")

    def test_an_error_as_json_is_one_document(self):
        write(self.place / "notes.txt", "hello")
        result = self.run_it("inspect", "--json", self.place, code=1)
        self.assertEqual(result.err, "")
        self.assertEqual(result.json, {"error": {
            "kind": "environment", "message": f"{self.place} is not a ComfyUI directory: it has no main.py",
            "causes": [], "hint": "give the directory that holds ComfyUI's main.py"}})

    def python(self, env, content):
        """Puts something else in the place of the venv's interpreter."""
        for name in ("python", "python3"):
            (env.venv / "bin" / name).unlink()
        return write(env.venv / "bin" / "python", content, 0o755)

    def test_no_interpreter_anywhere(self):
        env = self.environment()
        env.venv.rename(self.place / "elsewhere")
        empty = self.place / "empty"
        empty.mkdir()
        (empty / "nix-daemon").symlink_to(shutil.which("nix-daemon"))
        self.refused(env.root, 1, f"""\
error: no Python found for {env.root}
  hint: set `interpreter` under [python] in stillframe.toml""", PATH=empty)

    def test_a_venv_without_an_interpreter(self):
        env = self.environment()
        for python in (env.venv / "bin").glob("python*"):
            python.unlink()
        self.refused(env.root, 1, f"""\
error: the virtual environment {env.venv} is broken: it has no bin/python
  hint: recreate it with `uv venv` or `python3 -m venv`; for another Python, set `interpreter` under [python] in stillframe.toml""")

    def test_an_interpreter_that_is_a_dangling_link(self):
        env = self.environment()
        (env.venv / "bin" / "python").unlink()
        (env.venv / "bin" / "python").symlink_to("/gone/python3")
        self.refused(env.root, 1, f"""\
error: the virtual environment {env.venv} is broken: {env.venv}/bin/python links to /gone/python3, which is gone
  hint: recreate it with `uv venv` or `python3 -m venv`; for another Python, set `interpreter` under [python] in stillframe.toml""")

    def test_an_interpreter_that_fails(self):
        env = self.environment()
        python = self.python(env, "#!/bin/sh\necho no such thing >&2\nexit 1\n")
        self.refused(env.root, 1, f"""\
error: the interpreter {python} is broken: exit status: 1; it said:
no such thing
  hint: check that it starts: run it with `-I -S -c 'print(1)'`""")

    def test_an_interpreter_that_prints_garbage(self):
        env = self.environment()
        python = self.python(env, "#!/bin/sh\nhead -c 3000000 /dev/urandom\n")
        self.refused(env.root, 1, f"""\
error: the interpreter {python} is broken: it did not answer as a Python interpreter does
  because: {{{{.+}}}}
  hint: check that it starts: run it with `-I -S -c 'print(1)'`""")
        python.write_text("#!/bin/sh\necho '{\"version\": [3, 11]}'\n")
        self.refused(env.root, 1, f"""\
error: the interpreter {python} is broken: it did not answer as a Python interpreter does
  because: {{{{.+}}}}
  hint: check that it starts: run it with `-I -S -c 'print(1)'`""")

    def test_once_mended_the_next_run_works(self):
        env = self.environment()
        python = env.venv / "bin" / "python"
        target = os.readlink(python)
        python.unlink()
        python.symlink_to("/gone/python3")
        self.inspect(env, code=1)
        python.unlink()
        python.symlink_to(target)
        self.assertEqual(self.snapshot(env).json["unchanged"], False)


class Configuration(Case):
    """stillframe.toml, stillframe.lock and records that are wrong or of a newer version."""

    def config(self, text):
        env = self.environment()
        path = write(env.root / "stillframe.toml", text)
        return env, path

    def refused(self, config, text):
        env, path = self.config(config)
        with untouched(self, self.place):
            for command in ("inspect", "snapshot"):
                self.failure([command, env.root], 2, text.replace("FILE", str(path)))
        path.unlink()
        self.inspect(env)

    def test_an_unknown_key(self):
        self.refused('exclude = []\n\n[python]\nintepreter = "x"\n', """\
error: FILE is not valid: TOML parse error at line 4, column 1
  |
4 | intepreter = "x"
  | ^^^^^^^^^^
unknown field `intepreter`, expected one of `interpreter`, `runtime`, `libraries`, `real-files`, `pack-bytecode`, `defer-gc`
  hint: did you mean `interpreter`?""")

    def test_an_unknown_key_like_no_other(self):
        self.refused("zebra = 1\n", """\
error: FILE is not valid: TOML parse error at line 1, column 1
  |
1 | zebra = 1
  | ^^^^^
unknown field `zebra`, expected one of `environment`, `cache`, `python`, `service`, `probe`, `store`, `rollout`, `ship`, `exclude`, `allow-secrets`, `redact`, `own-paths`, `intent`
  hint: correct the file, or name another with --config""")

    def test_arguments_that_no_snapshot_can_be_served_with(self):
        env = self.environment()
        config = env.root / "stillframe.toml"
        for argument, why in (("--base-directory", "which stillframe sets itself: packs and models of another folder are captured where "
                               "extra_model_paths.yaml names them"),
                              ("--port=9000", "which stillframe sets itself (--port)"),
                              ("--user-dir", "which stillframe sets itself (--user-directory)"),
                              ("--extra-model-paths-config", "which names a file that no snapshot has: name it extra_model_paths.yaml, beside "
                               "main.py, where ComfyUI reads it by itself")):
            config.write_text(f'[service]\narguments = ["--cpu", "{argument}", "/x"]\n')
            for command in ("inspect", "snapshot"):
                self.failure([command, env.root], 2, f"""\
error: {config} line 2: service.arguments has "{argument.split('=')[0]}", {why}
  hint: take it out of the arguments""")
        config.write_text('[service]\narguments = ["--cpu", "--preview-method", "auto"]\n')
        self.inspect(env)

    def test_a_malformed_file(self):
        self.refused("[python\n", """\
error: FILE is not valid: TOML parse error at line 1, column 8
  |
1 | [python
  |        ^
{{.+}}
  hint: correct the file, or name another with --config""")

    def test_a_value_of_the_wrong_type(self):
        self.refused('[probe]\ntimeout = "soon"\n', """\
error: FILE is not valid: TOML parse error at line 2, column 11
  |
2 | timeout = "soon"
  |           ^^^^^^
invalid type: string "soon", expected a whole number, without quotes
  hint: correct the file, or name another with --config""")

    def test_a_file_that_is_no_text(self):
        env, path = self.config(b"\xff\xfe\x00")
        self.failure(["inspect", env.root], 2, f"""\
error: {path} is not valid: it is not UTF-8
  hint: correct the file, or name another with --config""")
        self.failure(["inspect", env.root, "--config", self.place / "none.toml"], 2, f"""\
error: cannot read {self.place}/none.toml
  because: No such file or directory (os error 2)
  hint: correct the file, or name another with --config""")

    def test_a_lock_of_a_newer_version(self):
        env = self.environment()
        lock = write(env.root / "stillframe.lock", "lock-version = 9\nnew = true\n")
        with untouched(self, self.place):
            self.failure(["lock", env.root], 2, f"""\
error: {lock} has lock version 9, this stillframe reads 1
  hint: use the stillframe that wrote it, or remove it and run `stillframe lock`""")
        lock.write_text("not a lock\n")
        self.run_it("lock", env.root)
        self.assertIn("lock-version = 1\n", lock.read_text())

    def test_a_pylock_of_somebody_else_stays(self):
        """It is a statement of what should be installed, compared at every run."""
        env = self.environment()
        Wheel("alpha").install(env.site)
        text = 'lock-version = "1.0"\ncreated-by = "uv"\n\n[[packages]]\nname = "alpha"\nversion = "2.0"\n'
        theirs = write(env.root / "pylock.toml", text)
        for _ in range(2):
            done = self.run_it("lock", "--json", env.root)
            self.finds(done, ("warning", "intent", str(theirs), "wants alpha 2.0, installed is 1.0"))
            self.assertEqual(theirs.read_text(), text)
        ours = (env.root / "pylock.stillframe.toml").read_text()
        self.assertIn('created-by = "stillframe"', ours)
        theirs.unlink()
        self.assertIn(f"wrote {theirs}\n", self.run_it("lock", env.root).out)
        self.assertEqual(theirs.read_text(), ours)

    def test_metadata_that_would_write_into_the_lock(self):
        env = self.environment()
        Wheel("alpha").install(env.site)
        metadata = env.site / "alpha-1.0.dist-info" / "METADATA"
        metadata.write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n [[packages]]\n name = 'evil'\n version = '1' #\n")
        self.run_it("lock", env.root)
        pylock = tomllib.loads((env.root / "pylock.toml").read_text())
        self.assertEqual(pylock.get("packages", []), [])
        self.assertNotIn("evil", {d["name"] for d in tomllib.loads((env.root / "stillframe.lock").read_text())["distributions"]})

    def test_an_environment_whose_path_is_no_text(self):
        env = self.environment()
        odd = os.fsencode(self.place) + b"/caf\xe9"
        os.rename(env.root, odd)
        for command in ("inspect", "lock", "snapshot"):
            self.failure([command, os.fsdecode(odd)], 1, f"""\
error: the path {self.place}/caf\\xe9 is not UTF-8
  hint: rename the folder, or reach it by a bind mount of another name""")

    def test_a_record_and_a_recorded_lock_of_a_newer_version(self):
        env = self.environment()
        first = self.snapshot(env).json
        folder = self.station.root / "state" / "stillframe" / "snapshots"
        lock = folder / first["id"] / "stillframe.lock"
        text = lock.read_text()
        lock.write_text(text.replace("lock-version = 1", "lock-version = 9"))
        self.failure(["snapshots", "show", first["id"]], 2, f"""\
error: {lock} has lock version 9, this stillframe reads 1
  hint: use the stillframe that wrote it, or take the snapshot again""")
        lock.write_text(text)
        newer = write(folder / "zzzzzzzzzz" / "record.json", json.dumps({"version": 9, "id": "zzzzzzzzzz"}))
        for command in (["list"], ["show", first["id"]], ["remove", first["id"]], ["verify"]):
            self.failure(["snapshots", *command], 2, f"""\
error: {newer} has record version 9, this stillframe reads 1 to 2
  hint: use the stillframe that wrote it""")
        # Another snapshot's record is no reason to take none.
        write(env.pack / "more.py", "")
        self.assertNotEqual(self.snapshot(env).json["snapshot"], first["snapshot"])
        self.assertEqual(json.loads(newer.read_text()), {"version": 9, "id": "zzzzzzzzzz"})

    def test_a_snapshot_that_is_not_there(self):
        env = self.environment()
        for command in (["snapshots", "show", "abc"], ["snapshots", "remove", "abc"], ["snapshots", "verify", "abc"],
                        ["snapshots", "diff", "abc", "def"], ["run", "abc"]):
            self.failure(command, 2, """\
error: there is no snapshot yet
  hint: take one with `stillframe snapshot`""")
        self.snapshot(env)
        for command in (["snapshots", "show", "abc"], ["snapshots", "remove", "abc"], ["snapshots", "verify", "abc"],
                        ["snapshots", "diff", "latest", "abc"], ["run", "abc"]):
            self.failure(command, 2, """\
error: no snapshot is called "abc"
  hint: `stillframe snapshots list` shows those there are""")

    def test_a_served_snapshot_stays_unless_forced(self):
        env = self.environment()
        taken = self.snapshot(env).json
        folder = self.station.root / "state" / "stillframe" / "snapshots" / taken["id"]
        write(folder / "served.json", json.dumps([{"host": "gpu1", "service": "comfyui"}]))
        before = harness.tree_state(folder)
        self.failure(["snapshots", "remove", taken["id"]], 2, f"""\
error: snapshot {taken["id"]} is served by gpu1 (comfyui)
  hint: --force removes it from this workstation all the same""")
        self.assertEqual(before, harness.tree_state(folder))
        done = self.run_it("snapshots", "remove", "--force", "--json", taken["id"])
        self.assertEqual(done.json, {"version": 1, "removed": taken["id"], "snapshot": taken["snapshot"]})
        self.assertFalse(folder.exists())
        self.assertEqual(self.snapshot(env).json["snapshot"], taken["snapshot"])


class Place(Case):
    """Which environment is meant where none is named."""

    def test_the_current_directory_unless_a_configuration_names_another(self):
        env = self.environment()
        other = small.Environment(self.place / "other")
        clean = self.clean({})
        for command in ("inspect", "lock", "snapshot"):
            result = self.station.stillframe(command, "--json", cwd=env.root, **clean)
            if command != "snapshot":
                self.assertEqual(result.json["environment"], str(env.root))
        record = self.run_it("snapshots", "show", "--json").json["record"]
        self.assertEqual(record["environment"], str(env.root))
        self.assertTrue((env.root / "stillframe.lock").exists())
        # A folder below is not looked up from; a configuration above is.
        (env.root / "custom_nodes" / "inner").mkdir()
        done = self.station.stillframe("inspect", cwd=env.root / "custom_nodes", code=1, **clean)
        self.says(done.err, f"""\
error: {env.root}/custom_nodes is not a ComfyUI directory: it has no main.py
  hint: give the directory that holds ComfyUI's main.py""")
        write(self.place / "stillframe.toml", f'environment = "other"\n')
        result = self.station.stillframe("inspect", "--json", cwd=env.root, **clean)
        self.assertEqual(result.json["environment"], str(other.root))
        # One that is named is none of that project's: neither its lock's place nor its configuration.
        write(self.place / "stillframe.toml", 'environment = "other"\nexclude = ["custom_nodes/first-pack"]\n')
        for name in ("stillframe.lock", "pylock.toml"):
            (env.root / name).unlink(missing_ok=True)
        result = self.station.stillframe("lock", "--json", env.root, cwd=self.place, **clean)
        self.assertEqual((result.json["environment"], [p["name"] for p in result.json["packs"]]), (str(env.root), ["first-pack", "inner"]))
        self.assertTrue((env.root / "stillframe.lock").exists() and not (self.place / "stillframe.lock").exists())
        result = self.station.stillframe("inspect", "--json", self.place / "other", cwd=self.place, **clean)
        self.assertEqual(result.json["packs"], [])
        write(self.place / "stillframe.toml", 'environment = "other"\n')
        # Snapshots outlive the environment that they were taken of.
        shutil.rmtree(other.root)
        for command in ("list", "show"):
            self.assertIn(record["id"], self.station.stillframe("snapshots", command, cwd=self.place, **clean).out)
        done = self.station.stillframe("inspect", cwd=self.place, code=2, **clean)
        self.says(done.err, f"""\
error: cannot open the environment {other.root}
  because: No such file or directory (os error 2)
  hint: give the directory that holds ComfyUI's main.py""")


if __name__ == "__main__":
    unittest.main()
