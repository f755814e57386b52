"""Files that a file system can hold and a store path cannot, or can only just: kept as they are, or named and left out, and a next
run works. What is no environment at all is in test_bad_input.py, what is made to do harm in test_hostile.py.
"""
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import unittest
from pathlib import Path

import harness
from small import AS_NOBODY, BasePython, Case, NOBODY, Wheel, python_for_nobody, untouched, write

SECONDS = 120
BATCH = True


class Files(Case):
    """What a file system can hold and a store path cannot, or can only just."""

    def test_names_no_terminal_should_see(self):
        """Not UTF-8, with newlines and escapes: in packs and in site-packages, kept byte for byte, shown escaped."""
        env = self.environment()
        Wheel("alpha").install(env.site)
        names = [b"caf\xe9.py", b"two\nlines.py", b"\x1b[31mred.py", b"tab\there"]
        shown = ["caf\\xe9.py", "two\\nlines.py", "\\u{1b}[31mred.py", "tab\\there"]
        for folder in (env.pack, env.site, env.site / "alpha"):
            for name in names:
                with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                    file.write(name)
        write(os.path.join(os.fsencode(env.root / "custom_nodes"), b"pack\nof two lines/__init__.py").decode(), "")
        os.mkdir(os.path.join(os.fsencode(env.root / "custom_nodes"), b"pack\xff"))
        with untouched(self, self.place):
            result = self.inspect(env)
            taken = self.snapshot(env).json
            text = self.run_it("inspect", env.root).out
        kept = "the name is not UTF-8 or holds control characters; kept byte for byte"
        lost = "no distribution owns it; it is captured"
        for name in shown:
            self.finds(result, ("info", "name", f"custom_nodes/first-pack/{name}", kept), ("warning", "unowned", name, lost),
                       ("warning", "unowned", f"alpha/{name}", lost))
            self.assertIn(f"  info    custom_nodes/first-pack/{name}: {kept}\n", text)
        self.finds(result, ("problem", "name", "custom_nodes/pack\\xff",
                            "a pack whose name is not UTF-8 cannot be imported: left out"))
        self.assertIn("    pack\\nof two lines               ", text)
        self.assertNotRegex(text, "[\x00-\x09\x0b-\x1f]")
        tree = os.fsencode(self.tree(taken, "first-pack"))
        for name in names:
            with open(os.path.join(tree, name), "rb") as file:
                self.assertEqual(file.read(), name)
        linked = os.fsencode((self.tree(taken, "files no distribution owns")))
        self.assertLessEqual(set(names), set(os.listdir(linked)))
        self.assertEqual(set(os.listdir(os.path.join(linked, b"alpha"))), set(names))
        self.store_is_sound()

    def test_case_only_twins(self):
        env = self.environment()
        write(env.pack / "Foo.py", "A = 1\n")
        write(env.pack / "foo.py", "A = 2\n")
        write(env.site / "Bar.py", "A = 3\n")
        write(env.site / "bar.py", "A = 4\n")
        write(env.root / "custom_nodes" / "First-Pack" / "__init__.py")
        write(env.root / ".cache" / "entry" / "a", "a")
        write(env.root / ".cache" / "Entry" / "a", "b")
        with untouched(self, self.place):
            taken = self.snapshot(env)
        self.finds(taken, *(("info", "case", name, f"differs from {first} only in case; both are kept") for name, first in (
            ("custom_nodes/first-pack/foo.py", "custom_nodes/first-pack/Foo.py"), ("custom_nodes/first-pack", "custom_nodes/First-Pack"),
            (".cache/entry", ".cache/Entry"), ("bar.py", "Bar.py"))))
        tree = self.tree(taken.json, "first-pack")
        self.assertEqual([(tree / n).read_text() for n in ("Foo.py", "foo.py")], ["A = 1\n", "A = 2\n"])
        tree = self.tree(taken.json, "files no distribution owns")
        self.assertEqual([(tree / n).read_text() for n in ("Bar.py", "bar.py")], ["A = 3\n", "A = 4\n"])

    def test_what_leads_nowhere(self):
        """Links to what does not ship, folders that are not mounted, and what `..` in extra_model_paths.yaml means."""
        env = self.environment()
        write(env.root / "user" / "styles.csv", "s")
        (env.root / "styles.csv").symlink_to("user/styles.csv")
        write(env.root / "web" / "own.js", "j")
        (env.root / "web" / "kept.js").symlink_to("own.js")
        (env.root / "web" / "pack").symlink_to("../custom_nodes/first-pack/js")
        write(env.pack / "js" / "a.js", "j")
        (env.root / "models" / "vae").symlink_to("/mnt/nowhere/vae")
        (env.root / "output").symlink_to("/mnt/nowhere/output")
        write(self.place / "shared" / "loras" / "a.safetensors", "x")
        write(env.root / "extra_model_paths.yaml", "a:\n  base_path: ../shared\n  loras: loras\nb:\n  base_path: ../ComfyUI\n  custom_nodes: custom_nodes\n")
        project = env.venv / "src" / "cloned"
        Wheel("cloned").editable(env.site, project)
        write(project / "setup.py", "")
        escape = write(env.site / "\x1b[31m.pth", f"{self.place}/shared\n")
        result = self.inspect(env)
        gone = "which cannot be followed now: its size is not known: No such file or directory (os error 2)"
        nothing = "which does not ship with it: the link leads nowhere"
        self.finds(result, ("warning", "symlink", "styles.csv", f"links to user/styles.csv, {nothing}"),
                   ("warning", "symlink", "web/pack", f"links to ../custom_nodes/first-pack/js, {nothing}"),
                   ("warning", "outside", "models/vae", f"links to /mnt/nowhere/vae, {gone}"),
                   ("warning", "outside", "output", f"links to /mnt/nowhere/output, {gone}"))
        have = self.findings(result)
        self.assertEqual([f for f in have if f[2] == "web/kept.js" or "a second pack" in f[3] or "src/cloned" in f[2]], [])
        self.assertIn({"from": "extra_model_paths.yaml", "to": str(self.place / "shared" / "loras"), "captured": False}, result.json["outside"])
        text = self.run_it("inspect", env.root).out
        self.assertNotIn("\x1b", text)
        self.assertIn(f"    {str(escape).replace(chr(27), chr(92) + 'u{1b}')} -> {self.place}/shared (captured)\n", text)

    def specials(self, folder):
        """A FIFO, a socket and, where this machine allows it, a device."""
        folder.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / "fifo.py")
        with socket.socket(socket.AF_UNIX) as one:
            cwd = os.getcwd()
            os.chdir(folder)
            one.bind("socket.py")
            os.chdir(cwd)
        try:
            os.mknod(folder / "device.py", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            return {"fifo.py": "a FIFO", "socket.py": "a socket", "device.py": "a device"}
        except PermissionError:
            return {"fifo.py": "a FIFO", "socket.py": "a socket"}

    def test_fifos_sockets_and_devices(self):
        env = self.environment()
        wheel = Wheel("alpha").install(env.site)
        names = self.specials(env.pack / "odd")
        for folder in (env.site / "odd", env.root / ".cache" / "odd", env.root / "odd"):
            self.specials(folder)
        os.mkfifo(env.root / "custom_nodes" / "pack.py")
        os.mkfifo(env.root / ".cache" / "entry")
        # In the place of files that are read for what they say.
        for place in (".git/HEAD", ".git/config", ".gitignore", "config.ini", "pyproject.toml"):
            (env.pack / place).parent.mkdir(exist_ok=True)
            os.mkfifo(env.pack / place)
        for place in ("pip.conf", f"lib/{env.site.parent.name}/site-packages/more.pth"):
            os.mkfifo(env.venv / place)
        os.mkfifo(env.root / "extra_model_paths.yaml")
        os.mkfifo(env.root / "requirements.txt")
        with untouched(self, self.place):
            taken = self.run_it("snapshot", "--json", env.root, PIP_CONFIG_FILE=None, timeout=60)
        out = "left out, because a store path cannot hold one"
        for name, word in names.items():
            self.finds(taken, ("warning", "special-file", f"custom_nodes/first-pack/odd/{name}", f"{word}; {out}"),
                       ("warning", "special-file", f"odd/{name}", f"{word}; {out}"),
                       ("warning", "special-file", f".cache/odd/{name}", f"{word}; {out}"),
                       ("warning", "special-file", f"odd/{name}", "in site-packages, neither a file nor a link to one: left out"))
        self.finds(taken, ("warning", "special-file", "custom_nodes/pack.py", "a FIFO, socket or device; left out"),
                   ("warning", "special-file", ".cache/entry", "neither file nor folder; left out"),
                   ("problem", "unreadable", "extra_model_paths.yaml",
                    "cannot be read: the folders it names are not in this report"))
        self.store_is_sound()

    def test_fifos_in_the_metadata_of_distributions(self):
        env = self.environment()
        for name, files in {"alpha": ["METADATA"], "beta": ["RECORD"], "gamma": ["WHEEL"], "delta": ["direct_url.json"],
                            "epsilon": ["entry_points.txt", "top_level.txt"], "zeta": []}.items():
            wheel = Wheel(name).install(env.site)
            for file in files:
                (env.site / wheel.info / file).unlink(missing_ok=True)
                os.mkfifo(env.site / wheel.info / file)
        # RECORD lists what is a FIFO, a folder, a loop and a shared library that is gone.
        (env.site / "zeta" / "data.txt").unlink()
        os.mkfifo(env.site / "zeta" / "data.txt")
        (env.site / "zeta" / "__init__.py").unlink()
        (env.site / "zeta" / "__init__.py").symlink_to("__init__.py")
        record = env.site / "zeta-1.0.dist-info" / "RECORD"
        record.write_text(record.read_text() + "zeta,,\nzeta/gone.so,,\n")
        with untouched(self, self.place):
            result = self.inspect(env, timeout=60)
            self.snapshot(env, timeout=60)
        self.assertEqual(sorted(self.provenance(result)), ["beta", "delta", "epsilon", "gamma", "zeta"])
        reasons = {name: reason for name, (_, reason) in self.provenance(result).items()}
        self.assertEqual(reasons["beta"], "its RECORD cannot be used: not a regular file")
        self.assertEqual(reasons["gamma"], "it has no WHEEL file, so it was not installed from a wheel")
        self.finds(result,
                   ("warning", "captured", f"{env.site}/alpha-1.0.dist-info", "no usable metadata (not a regular file), and its files count "
                    "as owned by no distribution: left out"),
                   ("warning", "unowned", "alpha/__init__.py", "no distribution owns it; it is captured"),
                   ("problem", "unreadable", "zeta/data.txt", "zeta 1.0: left out: not a regular file"),
                   ("problem", "unreadable", "zeta", "zeta 1.0: left out: not a regular file"),
                   ("problem", "unreadable", "zeta/__init__.py",
                    "zeta 1.0: left out: cannot be read (Too many levels of symbolic links (os error 40))"),
                   ("warning", "patched", "zeta/gone.so", "zeta 1.0: missing"))

    def test_packs_with_a_python_environment_of_their_own(self):
        """For what they run as a process: made from an interpreter of the machine, or a whole one in the pack's folder."""
        env = self.environment()
        outer = os.path.realpath(env.venv / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", env.pack / "inner" / "venv"], check=True)
        prefix, _ = BasePython().copy(env.pack / "portable")
        (env.root / "custom_nodes" / "broken" / ".venv" / "bin").mkdir(parents=True)
        write(env.root / "custom_nodes" / "broken" / ".venv" / "pyvenv.cfg", "home = /nonexistent\n")
        with untouched(self, self.place):
            taken = self.snapshot(env)
        about = [f for f in self.findings(taken) if f[1] == "runtime" and f[2].startswith("custom_nodes/")]
        self.assertEqual(sorted(about), sorted([
            ("problem", "runtime", "custom_nodes/first-pack/inner/venv", f"a Python environment of the pack's own: its interpreter {outer} and the "
             "libraries of that lie outside of the pack and are not captured: what the pack runs with it does not start on a host"),
            ("warning", "runtime", "custom_nodes/first-pack/portable", f"a Python environment of the pack's own: its interpreter "
             f"{os.path.realpath(prefix / 'bin' / 'python3')} ships with the pack, and needs the dynamic linker and the C library of the host"),
            ("warning", "runtime", "custom_nodes/broken/.venv", "a Python environment of the pack's own, whose interpreter is not there: it starts "
             "nowhere")]))
        self.assertEqual([f for f in self.findings(taken) if f[1] == "audit" and "/bin/python" in f[2] + f[3]], [])

    def test_symlink_loops(self):
        env = self.environment()
        (env.pack / "self").symlink_to("self")
        (env.pack / "up").symlink_to("..")
        (env.pack / "all").symlink_to(env.root)
        (env.pack / "nowhere").symlink_to("/nonexistent/file")
        (env.root / "custom_nodes" / "loop-pack").symlink_to("loop-pack")
        (env.site / "loop.py").symlink_to("loop.py")
        (env.site / "folder").symlink_to("..")
        (env.root / ".cache").mkdir()
        (env.root / ".cache" / "loop").symlink_to("loop")
        with untouched(self, self.place):
            result = self.inspect(env)
            self.snapshot(env)
        loop = "Too many levels of symbolic links (os error 40)"
        label = "custom_nodes/first-pack"
        self.finds(result,
                   ("problem", "symlink", f"{label}/self", "links to self, which leads back to itself; left out"),
                   ("problem", "symlink", f"{label}/up", f"links to {env.root}/custom_nodes, a folder it is itself in: left out"),
                   ("problem", "symlink", f"{label}/all", f"links to {env.root}, a folder it is itself in: left out"),
                   ("problem", "symlink", f"{label}/nowhere", "links to /nonexistent/file, which does not exist; left out"),
                   ("problem", "symlink", "custom_nodes/loop-pack", f"the link cannot be followed ({loop}): the pack is left out"),
                   ("problem", "symlink", "loop.py", f"a link that cannot be followed; left out: {loop}"),
                   ("problem", "symlink", "folder", f"a link to the folder {env.site.parent}; left out: name the folder in a .pth "
                    "file instead"),
                   ("problem", "symlink", ".cache/loop", f"cannot be followed ({loop}): left out"))

    def test_a_sparse_file_of_more_than_four_gigabytes(self):
        """Longer than 32 bits can count, read once as a stream: the memory does not grow with it."""
        env = self.environment()
        size = (4 << 30) + 1
        with open(env.pack / "huge.dat", "wb") as file:
            file.truncate(size)
        before = os.stat(env.pack / "huge.dat").st_blocks
        for command in ("inspect", "snapshot"):
            process = self.background(command, "--json", env.root)
            peak = harness.Peak(process)
            out, err = process.communicate()
            self.assertEqual(process.returncode, 0, err)
            self.assertTrue(0 < peak.kib() < 200 << 10, peak.kib())
        self.assertEqual(os.stat(env.pack / "huge.dat").st_blocks, before)
        taken = self.tree(json.loads(out), "first-pack") / "huge.dat"
        self.assertEqual(taken.stat().st_size, size)
        pack = next(p for p in self.inspect(env).json["packs"] if p["name"] == "first-pack")
        self.assertGreater(pack["bytes"], size)

    def test_files_that_the_configuration_names_as_secret(self):
        """Whatever they look like: the project may be the environment's own folder."""
        env = self.environment()
        write(env.root / "key", "k" * 20)
        write(env.pack / "licence.text", "ours alone")
        write(env.root / "hosts/a.toml", 'address = "a"\n[service.secrets]\nOWN = { file = "../own" }\n')
        write(env.root / "own", "of a host")
        write(env.root / "stillframe.toml", """\
[service.gateway]
api-keys = [{ file = "key" }]
[service.secrets]
LICENCE = { file = "custom_nodes/first-pack/licence.text" }
""")
        self.snapshot(env)
        kept = {path.name for path in (self.station.store / "nix/store").rglob("*")}
        self.assertIn("main.py", kept)
        self.assertEqual(kept & {"key", "licence.text", "own", "stillframe.toml", "a.toml"}, set())

    def test_what_is_left_out_comes_in_by_no_other_way(self):
        """A pack behind a link, a link to the file, an editable install of the pack, a site directory."""
        env = self.environment()
        elsewhere = self.place / "src" / "linked-pack"
        write(elsewhere / "__init__.py")
        write(elsewhere / "licence.text", "ours alone")
        (env.root / "custom_nodes" / "linked").symlink_to(elsewhere)
        write(self.place / "home" / "private.text", "ours alone")
        (env.pack / "by-link.text").symlink_to(self.place / "home" / "private.text")
        write(env.pack / "also.text", "of the project's own")
        (env.root / "custom_nodes" / "other" / "inner").mkdir(parents=True)
        (env.root / "custom_nodes" / "other" / "inner" / "copy.text").symlink_to(env.pack / "also.text")
        write(env.root / "custom_nodes" / "other" / "__init__.py")
        Wheel("alpha").editable(env.site, env.pack)
        write(env.pack / "scratch" / "x.text")
        write(env.site / "stray.text", "")
        write(env.root / "stillframe.toml", f"""\
exclude = ["custom_nodes/first-pack/scratch", "custom_nodes/first-pack/also.text", ".venv/lib/{env.site.parent.name}/site-packages/stray.text"]
[service.secrets]
LICENCE = {{ file = "custom_nodes/linked/licence.text" }}
LINK = {{ file = "custom_nodes/first-pack/by-link.text" }}
""")
        taken = self.snapshot(env)
        self.assertEqual([path.name for path in (self.station.store / "nix/store").rglob("*.text")], [])
        self.finds(taken, ("info", "excluded", "stray.text", "left out, as stillframe.toml says"))
        self.assertTrue((self.tree(taken.json, "linked") / "__init__.py").exists())
        self.station.inside(f"{taken.json['snapshot']}/python/bin/python", "-c", "import alpha", hide=[self.place])

    def test_a_file_that_changes_while_it_is_read(self):
        """An error that names the file and says to run again, whatever the change; now and then one is not met, and the
        snapshot has one state of the file."""
        env = self.environment()
        big = env.pack / "big.dat"

        def whole():
            with open(big, "wb") as file:
                file.truncate(300 << 20)

        for change in (lambda: append(big), lambda: os.truncate(big, 200 << 20), lambda: replace(big), lambda: big.unlink(True)):
            code = 0
            for attempt in range(10):
                whole()
                stop = threading.Event()
                thread = threading.Thread(target=change_while_open, args=(big, change, stop))
                thread.start()
                result = self.snapshot(env, code=None)
                stop.set()
                thread.join()
                code = result.code
                if code:
                    break
            self.assertEqual(code, 1, "ten changes, and none was met")
            error = result.json["error"]
            self.assertRegex(error["message"], f"^(first-pack: )?{re.escape(str(big))} (changed while it was read|vanished before it was read)$")
            self.assertEqual(error["hint"], "stop what writes to the environment, then run the command again")
            self.assertEqual(error["kind"], "environment")
            self.store_is_sound()
        big.unlink(missing_ok=True)
        write(big, b"quiet now")
        taken = self.snapshot(env).json
        self.assertEqual((self.tree(taken, "first-pack") / "big.dat").read_bytes(), b"quiet now")
        self.store_is_sound()

    # As most workstations have it: root's daemon has the store, and a user asks it.
    DAEMON = "rm -f /nix/var/nix/daemon-socket/socket; nix-daemon >/dev/null 2>&1 & daemon=$!; trap 'kill $daemon' EXIT; " \
             "for i in $(seq 100); do [ -S /nix/var/nix/daemon-socket/socket ] && break; sleep 0.1; done; \"$@\""

    def nobody(self, *arguments, code=0, store=False):
        """The program as a user who owns nothing here but a home; with `store`, where a daemon serves the station's."""
        home = self.station.root / "nobody"
        if not home.exists():
            home.mkdir()
            os.chown(home, NOBODY, NOBODY)
            self.station.root.chmod(0o755)
            shutil.copy(harness.BINARY, self.station.root / "stillframe")
        variables = {**self.clean({}), "HOME": home, "XDG_STATE_HOME": home / "state", "XDG_CACHE_HOME": home / "cache"}
        command = [*AS_NOBODY, self.station.root / "stillframe", *arguments]
        if store:
            return self.station.inside("bash", "-c", self.DAEMON, "bash", *command, code=code, **variables)
        return self.station._run(command, code, None, self.station.environment(**variables), 120)

    def test_files_that_may_not_be_read(self):
        env = self.environment(python=python_for_nobody())
        Wheel("alpha").install(env.site)
        Wheel("beta").install(env.site)
        write(env.pack / "secret.py", "x = 1", 0)
        write(env.pack / "closed" / "x.py", "x = 1").parent.chmod(0)
        write(env.site / "closed" / "x.py", "x = 1").parent.chmod(0)
        write(env.site / "stray.py", "x = 1", 0)
        (env.site / "alpha" / "data.txt").chmod(0)
        (env.site / "beta-1.0.dist-info" / "RECORD").chmod(0)
        write(env.root / ".cache" / "entry" / "file", "x").chmod(0)
        write(env.root / "custom_nodes" / "single.py", "x", 0)
        write(env.root / "comfy" / "closed.py", "x", 0)
        with untouched(self, self.place):
            result = self.nobody("inspect", "--json", env.root)
            taken = self.nobody("snapshot", "--json", env.root, store=True)
        no = "Permission denied (os error 13)"
        self.finds(result,
                   ("problem", "unreadable", "custom_nodes/first-pack/secret.py", f"the file cannot be read; left out: {no}"),
                   ("problem", "unreadable", "custom_nodes/first-pack/closed", f"the folder cannot be read: {no}"),
                   ("problem", "unreadable", "closed", f"the folder cannot be read: {no}"),
                   ("problem", "unreadable", "stray.py", f"the file cannot be read; left out: {no}"),
                   ("problem", "unreadable", "alpha/data.txt", f"alpha 1.0: left out: cannot be read ({no})"),
                   ("problem", "unreadable", ".cache/entry/file", f"the file cannot be read; left out: {no}"),
                   ("problem", "unreadable", "custom_nodes/single.py", f"the file cannot be read; left out: {no}"),
                   ("problem", "unreadable", "comfy/closed.py", f"the file cannot be read; left out: {no}"))
        self.assertEqual(self.provenance(result)["beta"], ("captured", f"its RECORD cannot be used: {no}"))
        # Of a snapshot, too, which has the rest.
        self.assertEqual(taken.json["findings"], result.json["findings"])
        record = self.station.root / "nobody" / "state" / "stillframe" / "snapshots" / taken.json["id"] / "record.json"
        pack = next(o["path"] for o in json.loads(record.read_text())["outputs"] if o["label"] == "first-pack")
        self.assertEqual(os.listdir(self.station.real(pack)), ["__init__.py"])
        # The scratch store of `verify` is the user's own.
        self.assertRegex(self.nobody("snapshots", "verify", store=True).out, r" verified: .*; every NAR hash is equal\n$")
        # `lock` says so beside the files that it writes, which are the user's.
        os.chown(env.root, NOBODY, NOBODY)
        locked = self.nobody("lock", "--json", env.root)
        self.assertEqual(locked.json["findings"], result.json["findings"])
        self.assertIn("first-pack/secret.py", self.nobody("lock", env.root).out)

    def test_folders_that_may_not_be_read(self):
        env = self.environment(python=python_for_nobody())
        (env.root / "custom_nodes").chmod(0)
        env.site.chmod(0)
        with untouched(self, self.place):
            result = self.nobody("inspect", "--json", env.root)
        no = "Permission denied (os error 13)"
        self.finds(result, ("problem", "unreadable", "custom_nodes", f"the packs cannot be listed: {no}"),
                   ("problem", "unreadable", str(env.site), f"cannot be listed: {no}"))
        write(env.root / "stillframe.toml", "", 0)
        self.says(self.nobody("inspect", env.root, code=2).err, f"""\
error: cannot read {env.root}/stillframe.toml
  because: {no}
  hint: correct the file, or name another with --config""")


def is_open(path):
    """Whether a process of this machine has the file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path):
                return True
        except OSError:
            continue
    return False


def change_while_open(path, change, stop):
    while not is_open(path):
        if stop.wait(0.005):
            return
    while not stop.wait(0.02):
        change()


def append(path):
    with open(path, "ab") as file:
        file.write(b"more")


def replace(path):
    write(path.with_suffix(".new"), b"other")
    os.truncate(path.with_suffix(".new"), 300 << 20)
    os.replace(path.with_suffix(".new"), path)


if __name__ == "__main__":
    unittest.main()
