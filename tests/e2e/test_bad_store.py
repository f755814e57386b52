"""A Nix store that is not there, refuses, is too old, dies or is full. Each time: a clear word, nothing half-written, and a next run that
ends where an undisturbed one would have.
"""
import os
import random
import shutil
import socket
import subprocess
import time
import unittest
from contextlib import contextmanager
from pathlib import Path

import harness
from small import AS_NOBODY, NOBODY, Case, Wheel, python_for_nobody, server, untouched, write

SECONDS = 100
BATCH = True

AGAIN = "what is in the store already stays; run the command again and it goes on from there"


class Store(Case):
    """An environment with enough in it that a snapshot takes a moment."""
    seeded = False

    def setUp(self):
        super().setUp()
        self.env = self.environment()
        Wheel("alpha").install(self.env.site)
        write(self.env.pack / "data.bin", random.Random(3).randbytes(20 << 20))

    def undisturbed(self):
        """The store path that a run on another workstation gives for the same environment."""
        with harness.Workstation("sf-bad-clean-") as other:
            return other.stillframe("snapshot", "--json", self.env.root, **self.clean({})).json["snapshot"]

    def nothing_taken(self):
        self.assertEqual(self.run_it("snapshots", "list", "--json").json, {"version": 1, "snapshots": []})
        state = self.station.root / "state" / "stillframe"
        self.assertEqual([p.name for p in state.rglob("*") if p.is_file()], ["lock"] if state.exists() else [])

    def goes_on(self):
        """The next, normal run: the same path as an undisturbed one, everything in it sound."""
        with untouched(self, self.place):
            taken = self.snapshot(self.env).json
        self.assertEqual(taken["snapshot"], self.undisturbed())
        self.store_is_sound()
        self.assertTrue(self.snapshot(self.env).json["unchanged"])
        return taken


class Unusable(Store):
    """Known before any work: no store, no rights, a daemon that cannot be talked to."""

    def refused(self, text, **variables):
        with untouched(self, self.place):
            self.failure(["snapshot", self.env.root], 1, text, **variables)
        self.nothing_taken()

    def test_no_nix(self):
        empty = self.place / "empty"
        empty.mkdir()
        self.refused("""\
error: cannot start `nix-daemon --stdio`
  because: No such file or directory (os error 2)
  hint: Nix is not installed, or not on PATH (Debian: apt-get install nix-bin)""", PATH=empty)
        # What needs no store works without one.
        self.inspect(self.env, PATH=empty)
        self.goes_on()

    def nobody(self, text, **variables):
        """As a user with no rights here, who has all of this environment to read."""
        home = self.station.root / "nobody"
        home.mkdir(exist_ok=True)
        os.chown(home, NOBODY, NOBODY)
        self.station.root.chmod(0o755)
        shutil.copy(harness.BINARY, self.station.root / "stillframe")
        variables = {**self.clean({}), "HOME": home, "XDG_STATE_HOME": home / "state", "XDG_CACHE_HOME": home / "cache", **variables}
        with untouched(self, self.place):
            result = self.station._run([*AS_NOBODY, self.station.root / "stillframe", "snapshot", self.env.root], 1, None,
                                       self.station.environment(**variables), 60)
        self.says(result.err, text)

    def test_no_rights(self):
        shutil.rmtree(self.env.root)
        self.env = self.environment(python=python_for_nobody())
        path = self.place / "socket"
        self.nobody(f"""\
error: cannot connect to the Nix daemon at {path}
  because: No such file or directory (os error 2)
  hint: install Nix (Debian: apt-get install nix-setup-systemd), or start its daemon: systemctl start nix-daemon.socket""",
                    NIX_REMOTE=None, NIX_DAEMON_SOCKET_PATH=path)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
            path.chmod(0o600)
            self.nobody(f"""\
error: cannot connect to the Nix daemon at {path}
  because: Permission denied (os error 13)
  hint: your user may not use Nix here: see `allowed-users` in nix.conf and the socket's mode""",
                        NIX_REMOTE=None, NIX_DAEMON_SOCKET_PATH=path)
            path.chmod(0o666)
            self.nobody(f"""\
error: cannot connect to the Nix daemon at {path}
  because: Connection refused (os error 111)
  hint: install Nix (Debian: apt-get install nix-setup-systemd), or start its daemon: systemctl start nix-daemon.socket""",
                        NIX_REMOTE=None, NIX_DAEMON_SOCKET_PATH=path)
        path.unlink()
        # A store of somebody else.
        self.nobody("""\
error: the Nix daemon at `nix-daemon --stdio` ended the connection: {{error: .*Permission denied.*}}
  hint: what is in the store already stays; run the command again and it goes on from there""")
        self.goes_on()

    def daemon(self, script):
        return write(self.place / "daemon", f"#!/bin/sh\n{script}\n", 0o755)

    def test_a_daemon_too_old(self):
        old = r"printf '\157\151\170\144\0\0\0\0\012\001\0\0\0\0\0\0'; cat >/dev/null"
        self.refused(f"""\
error: the Nix daemon at `{self.place}/daemon` speaks protocol 1.10; stillframe needs 1.{{{{[0-9]+}}}} or later
  hint: use Nix 2.8 or later""", STILLFRAME_NIX_DAEMON=self.daemon(old))
        future = r"printf '\157\151\170\144\0\0\0\0\012\002\0\0\0\0\0\0'; cat >/dev/null"
        self.refused(f"""\
error: the Nix daemon at `{self.place}/daemon` speaks protocol 2.10; stillframe needs 1.{{{{[0-9]+}}}} or later
  hint: use an older Nix, or a newer stillframe""", STILLFRAME_NIX_DAEMON=self.daemon(future))
        self.goes_on()

    def test_a_daemon_that_is_none(self):
        for script in ("echo hello there, this is no daemon", "cat"):
            self.refused(f"""\
error: `{self.place}/daemon` does not speak the Nix worker protocol
  hint: STILLFRAME_NIX_DAEMON must name a program that does what `nix-daemon --stdio` does""",
                         STILLFRAME_NIX_DAEMON=self.daemon(script))
        self.refused(f"""\
error: the Nix daemon at `{self.place}/daemon` ended the connection: out of order
  hint: {AGAIN}""", STILLFRAME_NIX_DAEMON=self.daemon("echo out of order >&2; exit 3"))
        self.refused(f"""\
error: cannot start `{self.place}/daemon`
  because: Permission denied (os error 13)
  hint: check that the program may be executed""", STILLFRAME_NIX_DAEMON=write(self.place / "daemon", "", 0o644))

    def test_a_daemon_that_hangs_up_and_stays(self):
        started = time.monotonic()
        self.refused(f"""\
error: the Nix daemon at `{self.place}/daemon` ended the connection
  hint: {AGAIN}""", STILLFRAME_NIX_DAEMON=self.daemon("exec >&-; exec sleep 20"))
        self.assertLess(time.monotonic() - started, 10)


class Lost(Store):
    """Lost in the middle: the daemon, the room on the disk."""

    def test_a_daemon_killed_after_some_bytes(self):
        wrapper = write(self.place / "wrapper.py", """\
import os, subprocess, sys
left = int(sys.argv[1])
daemon = subprocess.Popen(["nix-daemon", "--stdio"], stdin=subprocess.PIPE)
while left > 0 and (data := os.read(0, min(left, 65536))):
    left -= len(data)
    daemon.stdin.write(data)
    daemon.stdin.flush()
daemon.kill()
""")
        python = shutil.which("python3", path="/usr/bin:" + os.environ["PATH"])
        for bytes_left in (8, 300, 100_000, 5_000_000, 21_500_000):
            with untouched(self, self.place):
                result = self.run_it("snapshot", self.env.root, code=1, STILLFRAME_NIX_DAEMON=f"{python} {wrapper} {bytes_left}")
            self.says(result.err, f"""\
error: {{{{(.*: )?}}}}the Nix daemon at `{python} {wrapper} {bytes_left}` ended the connection
  hint: {AGAIN}""")
            self.nothing_taken()
            self.store_is_sound()
        self.goes_on()

    def no_builder_is_left(self):
        """A killed daemon's builder writes on for a moment, and Nix cannot clear away below it."""
        def builders():
            for environ in Path("/proc").glob("[0-9]*/environ"):
                try:
                    if b"NIX_BUILD_TOP=" in environ.read_bytes():
                        yield environ.parent.name
                except OSError:
                    continue
        deadline = time.monotonic() + 60
        while left := list(builders()):
            self.assertLess(time.monotonic(), deadline, f"processes {left} build on")
            time.sleep(0.05)

    def test_a_daemon_killed_after_some_time(self):
        ended = []
        for seconds in (0.05, 0.3, 0.8, 1.5):
            daemon = f"timeout --signal=KILL {seconds} nix-daemon --stdio"
            result = self.run_it("snapshot", self.env.root, code=None, STILLFRAME_NIX_DAEMON=daemon)
            ended.append(result.code)
            if result.code:
                self.assertEqual(result.code, 1)
                self.says(result.err, f"""\
error: {{{{(.*: )?}}}}the Nix daemon at `{daemon}` ended the connection
  hint: {AGAIN}""")
                self.nothing_taken()
            self.no_builder_is_left()
            self.store_is_sound()
        self.assertIn(1, ended)
        self.goes_on()

    @contextmanager
    def small_disk(self, path, size):
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
        try:
            yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)

    def test_a_full_store(self):
        with self.small_disk(self.station.store, "30m") as resize:
            (self.station.store / "nix").mkdir()
            with untouched(self, self.place):
                result = self.run_it("snapshot", self.env.root, code=1)
            self.says(result.err, """\
error: {{.+: .*(No space left on device|disk is full).*}}
  hint: free space on the file system of the Nix store, then run the command again: it goes on from what is there""")
            self.nothing_taken()
            resize("1g")
            self.goes_on()

    def test_a_full_state_directory(self):
        with self.small_disk(self.station.root / "state", "64k") as resize:
            write(self.station.root / "state" / "ballast", bytes(56 << 10))
            result = self.run_it("snapshot", self.env.root, code=1)
            self.says(result.err, f"""\
error: cannot {{{{[a-z ]+}}}} {self.station.root}/state/stillframe/{{{{.+}}}}
  because: No space left on device (os error 28)
  hint: free space there, then run the command again""")
            self.assertEqual(self.run_it("snapshots", "list", "--json").json, {"version": 1, "snapshots": []})
            self.assertEqual([p for p in (self.station.root / "state").rglob(".stillframe-*")], [])
            resize("10m")
            (self.station.root / "state" / "ballast").unlink()
            self.goes_on()

    def test_a_full_cache_is_no_reason_to_stop(self):
        with self.small_disk(self.station.root / "cache", "8k"):
            write(self.station.root / "cache" / "ballast", bytes(8 << 10))
            result = self.run_it("snapshot", self.env.root)
            self.says(result.err, f"""\
the next run will read everything again: cannot {{{{.+}}}} {self.station.root}/cache/stillframe{{{{.*}}}}: No space left on device (os error 28)""")
        self.goes_on()

    def test_no_room_for_what_is_there_for_a_moment(self):
        """The scratch store of `verify`, the slots of the probe and of `run`: named, and nothing of it is left."""
        write(self.env.root / "main.py", server("{}"))
        data = write(self.env.pack / "data.py", b"#" * (20 << 20))
        self.snapshot(self.env)
        cache, state = self.station.root / "cache", self.station.root / "state"
        with self.small_disk(cache, "10m") as resize:
            self.failure(["snapshots", "verify"], 1, """\
error: {{.+: .*(No space left on device|disk is full).*}}
  hint: {{.+}}""")
            self.failure(["snapshot", "--probe", self.env.root], 1, f"""\
error: cannot copy {data} to {cache}/stillframe/probe-{{{{\\S+}}}}/base/custom_nodes/first-pack/data.py
  because: No space left on device (os error 28)
  hint: free space there, then run the command again""")
            self.assertEqual([p.name for p in (cache / "stillframe").iterdir() if p.name.startswith(("probe-", "verify-"))], [])
            resize("1g")
            self.assertIn(" verified: ", self.run_it("snapshots", "verify").out)
            self.assertTrue(self.run_it("snapshot", "--probe", "--json", self.env.root).json["unchanged"])
        records = shutil.copytree(state, self.place / "records", symlinks=True)
        with self.small_disk(state, "10m"):
            shutil.copytree(records, state, symlinks=True, dirs_exist_ok=True)
            done = self.station.inside(harness.BINARY, "run", code=1)
            self.says(done.err, f"""\
error: cannot copy to {state}/stillframe/run/{{{{\\w+}}}}/slot-{{{{\\S+}}}}/base/custom_nodes/first-pack/data.py
  because: No space left on device (os error 28)
  hint: free space there, then run the command again""")
            self.assertEqual(list(state.rglob("slot-*")), [])

    def test_no_room_for_a_lock_keeps_the_old_one(self):
        project = self.place / "project"
        with self.small_disk(project, "40k"):
            write(project / "stillframe.toml", f'environment = "{self.env.root}"\n')
            old = write(project / "stillframe.lock", "# an old one\n")
            write(project / "ballast", bytes(32 << 10))
            result = self.run_it("lock", "--config", project / "stillframe.toml", code=1)
            self.says(result.err, f"""\
error: cannot write {project}/.stillframe-{{{{\\w+}}}}
  because: No space left on device (os error 28)
  hint: free space there, then run the command again""")
            self.assertEqual(old.read_text(), "# an old one\n")
            self.assertEqual(sorted(p.name for p in project.iterdir()), ["ballast", "stillframe.lock", "stillframe.toml"])
            (project / "ballast").unlink()
            self.run_it("lock", "--config", project / "stillframe.toml")
            self.assertIn("lock-version = 1", old.read_text())


class WrittenTo(Store):
    """Paths of the store that something wrote into after they were registered, as root may."""

    def setUp(self):
        super().setUp()
        self.taken = self.snapshot(self.env).json

    def alter(self, label, name, content):
        """Writes one file of an output, and says which it is."""
        file = self.tree(self.taken, label) / name
        mode = file.parent.stat().st_mode
        file.parent.chmod(0o755)
        if file.exists():
            file.chmod(0o644)
        write(file, content)
        file.parent.chmod(mode)
        return file

    def bytecode(self):
        tree = self.tree(self.taken, "bytecode of alpha 1.0")
        return next(tree.rglob("*.pyc")).relative_to(tree)

    def test_another_snapshot_makes_them_anew(self):
        """The cache that a module leaves beside itself, other bytes in a pack and in what was built, a file that is gone."""
        cache = self.alter("alpha 1.0", "alpha/kernel.nbi", "cache")
        pack = self.alter("first-pack", "__init__.py", "NODE_CLASS_MAPPINGS = []\n")
        built = self.alter("bytecode of alpha 1.0", self.bytecode(), "")
        gone = self.tree(self.taken, "main program") / "nodes.py"
        gone.parent.chmod(0o755)
        gone.unlink()
        self.assertEqual(self.run_it("snapshots", "verify", code=1).code, 1)
        # What was copied is mended; where a store lies elsewhere than it is named, Nix cannot build again.
        again = self.run_it("snapshot", self.env.root, code=1)
        for said in [f"the first file that differs is {file}" for file in (cache, pack, built)] + [f"a file was taken from {gone.parent}"]:
            self.assertIn(said, again.err)
        root = self.station.store
        self.says(again.err[again.err.index("error:"):], f"""\
error: Nix builds again only in a store that lies where it is named: {{{{\S+}}}} was written to after Nix had registered it: \
the first file that differs is {built}
  hint: mount {root}/nix/store at /nix/store and run the command there without NIX_REMOTE, or delete that store and run it again""")
        self.assertEqual((cache.exists(), gone.exists()), (False, True))
        with untouched(self, self.place):
            again = self.station.inside(harness.BINARY, "snapshot", self.env.root, **self.clean({}))
        self.assertIn(f"the first file that differs is {Path('/') / built.relative_to(root)}", again.err)
        self.store_is_sound()
        self.assertEqual((cache.exists(), gone.exists(), pack.read_text()), (False, True, "NODE_CLASS_MAPPINGS = {}\n"))
        self.assertIn(" verified: ", self.run_it("snapshots", "verify").out)
        # Nothing is in doubt any more.
        again = self.run_it("snapshot", "--json", self.env.root)
        self.assertEqual((again.json["snapshot"], again.json["unchanged"], again.err), (self.taken["snapshot"], True, ""))

    def test_nothing_is_built_from_what_was_written_to(self):
        cache = self.alter("alpha 1.0", "alpha/kernel.nbi", "cache")
        write(self.env.pack / "new.py", "")
        again = self.run_it("snapshot", self.env.root)
        self.assertIn(f"was written to after Nix had registered it, and is made anew: the first file that differs is {cache}\n", again.err)
        self.goes_on()
        # And what every build runs: found before, where the distribution is found beside.
        library = self.alter("Python runtime", "bin/more", "#!/bin/sh\n")
        write(self.env.pack / "newer.py", "")
        again = self.run_it("snapshot", self.env.root)
        self.assertIn(f"the first file that differs is {library}\n", again.err)
        self.assertFalse(library.exists())
        self.goes_on()

    def test_what_cannot_be_built_again_is_in_doubt_whatever_was_built_beside(self):
        built = self.alter("bytecode of alpha 1.0", self.bytecode(), "")
        tree = self.tree(self.taken, "bytecode of alpha 1.0").relative_to(self.station.store)
        write(self.env.pack / "new.py", "")
        for _ in range(2):
            again = self.run_it("snapshot", self.env.root, code=1)
            self.assertIn(f"error: Nix builds again only in a store that lies where it is named: /{tree} was written to", again.err)
            self.assertIn(f"the first file that differs is {built}\n", again.err)
        self.assertEqual(len(self.run_it("snapshots", "list", "--json").json["snapshots"]), 1)
        self.station.inside(harness.BINARY, "snapshot", self.env.root, **self.clean({}))
        self.store_is_sound()

    def test_an_instance_here_says_so(self):
        write(self.env.root / "main.py", server("{}"))
        self.taken = self.snapshot(self.env).json
        cache = self.alter("alpha 1.0", "alpha/kernel.nbi", "cache")
        cache = Path("/", cache.relative_to(self.station.store))
        running = harness.Server(self.station)
        self.addCleanup(lambda: running.process.poll() is None and running.stop())
        log = self.station.root / "server.log"
        deadline = time.monotonic() + 20
        while (said := f" was written to after Nix had registered it: the first file that differs is {cache}\n") not in log.read_text():
            self.assertLess(time.monotonic(), deadline, said)
            time.sleep(0.05)
        self.assertEqual(running.stop(), 0)



if __name__ == "__main__":
    unittest.main()
