"""`stillframe init`: a first deployment by somebody at a terminal, from nothing to a picture; and without one."""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
import unittest

import harness
import service
from small import write

SECONDS = 90
SHARES = {"clock"}


class Terminal:
    """A program behind a pseudo-terminal, and somebody who reads before they type."""

    def __init__(self, command, cwd, environment, size=(24, 80)):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen([str(c) for c in command], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
                                        start_new_session=True, close_fds=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(theirs)
        self.ours, self.text, self.raw, self.read_to, self.size = ours, "", "", 0, size

    def more(self, wait):
        ready, _, _ = select.select([self.ours], [], [], wait)
        if not ready:
            return True
        try:
            data = os.read(self.ours, 65536)
        except OSError:
            return False
        self.raw += data.decode(errors="replace")
        self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace")).replace("\r", "")
        return bool(data)

    def expect(self, pattern, limit=120):
        """Reads on until the pattern is there, after what was expected before."""
        deadline = time.monotonic() + limit
        while not (found := re.compile(pattern).search(self.text, self.read_to)):
            if time.monotonic() > deadline or not self.more(0.5):
                raise AssertionError(f"{pattern!r} did not come:\n{self.text[-3000:]}")
        self.read_to = found.end()
        return found

    def screen(self):
        """What a full-screen program shows: cursor positions and text, which is all that it needs."""
        rows, columns = self.size
        grid, row, column = [[" "] * columns for _ in range(rows)], 0, 0
        for piece in re.finditer(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b.|([^\x1b])", self.raw, re.S):
            numbers, kind, letter = piece.groups()
            if kind == "H":
                row, column = [int(n) - 1 for n in (numbers or "1;1").split(";")]
            elif kind == "J":
                grid = [[" "] * columns for _ in range(rows)]
            elif letter and letter.isprintable() and row < rows and column < columns:
                grid[row][column] = letter
                column += 1
        return "\n".join("".join(line).rstrip() for line in grid)

    def shows(self, pattern, limit=60):
        deadline = time.monotonic() + limit
        while not re.search(pattern, self.screen()):
            if time.monotonic() > deadline or not self.more(0.3):
                raise AssertionError(f"{pattern!r} is not shown:\n{self.screen()}")

    def type(self, text):
        os.write(self.ours, text.encode() + b"\n")

    def press(self, key):
        os.write(self.ours, key.encode())

    def end(self, limit=120):
        deadline = time.monotonic() + limit
        while self.more(0.2) and time.monotonic() < deadline and self.process.poll() is None:
            pass
        code = self.process.wait(timeout=max(1, deadline - time.monotonic()))
        while self.more(0.05) and select.select([self.ours], [], [], 0)[0]:
            pass
        os.close(self.ours)
        return code


class Init(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.place = service.Place(prepare=False)
        self.addCleanup(self.place.down)
        self.project = self.place.project
        shutil.rmtree(self.project)
        self.project.mkdir()
        self.ssh = self.place.hosts.ssh_config

    def files(self):
        return sorted(p.relative_to(self.project).as_posix() for p in self.project.rglob("*") if p.is_file())

    def begin(self, *arguments):
        command = [*self.place.ws.prefix, harness.BINARY, "init", self.place.environment, "--ssh-config", self.ssh, *arguments]
        environment = {**self.place.ws.environment(), "TERM": "xterm"}
        # No index is here, and none is asked.
        return Terminal(command, self.project, {**environment, "PIP_NO_INDEX": "1"})

    def test_from_init_to_a_picture(self):
        self.place.behave(mark="first")
        user = self.begin()
        user.expect(rf"environment  {re.escape(str(self.place.environment))}")
        user.expect(r"Name of the service: [^\[]*\[comfyui\] ")
        user.type("Demo!")
        user.expect(r'"Demo!" is no name: use 1 to 27 letters')
        user.type("demo")
        for question in ("Models on the hosts", "Public port"):
            user.expect(question + r": [^\[]*\[.*\] ")
            user.type("")
        user.expect(r"Memory of each instance: [^\[]*\s\d+\s+GiB\s+\[none\] ")
        user.type("24")
        user.expect(r'"24" is no size: write a number and a\s+unit')
        user.type("2GiB")
        for question in ("Cores of each instance", "Instances that run always", "Instances at most", "Rotation", "Drain", "Generations kept"):
            user.expect(question + r": [^\[]*\[.*\] ")
            user.type("5s" if question == "Drain" else "")
        user.expect("host: ")
        user.type("-x")
        user.expect('"-x" is no host')
        user.type("alpha")
        user.expect("host: ")
        user.type("")
        user.expect(r"Write these to [^?]*\?\s+\[Y/n\] ")
        self.assertEqual(self.files(), [])
        user.type("y")
        user.expect("wrote hosts/alpha.toml, stillframe.toml")
        user.expect("ready for a deployment")
        user.expect(r"Prepare alpha and deploy now\?[^\[]*\[Y/n\] ")
        user.type("")
        user.expect(r"Do this\? \[y/N\] ")
        user.type("y")
        user.expect("alpha is prepared")
        user.expect(r"1 of 1 hosts? succeeded", limit=300)
        self.assertEqual(user.end(), 0)
        # It serves, with what was answered, and makes a picture.
        self.assertEqual(self.place.mark(), "first")
        service_of = self.place.status()
        self.assertEqual(service_of["service"], "demo")
        prompt = json.dumps({"prompt": {"1": {"class_type": "Save", "inputs": {}}}, "client_id": "first-use"})
        posted = json.loads(self.place.local("alpha", "/prompt", "-d", prompt))["prompt_id"]
        deadline = time.monotonic() + 30
        while not (done := json.loads(self.place.local("alpha", f"/history/{posted}"))):
            self.assertLess(time.monotonic(), deadline, "the graph does not end")
            time.sleep(0.1)
        image = next(iter(done[posted]["outputs"].values()))["images"][0]["filename"]
        self.assertTrue(self.place.local("alpha", f"/view?filename={image}").startswith("first "))
        memory = self.place.hosts["alpha"].sh("systemctl show -p MemoryMax --value 'stillframe-demo-s0-g1.service'").stdout.strip()
        self.assertEqual(memory, str(2 << 30))
        # Later deployments ask nothing.
        again = self.place.deploy(mark="second")
        self.assertEqual((again.host()["generation"], self.place.mark()), (2, "second"))

    def test_stopped_at_any_question_nothing_is_written(self):
        for answers in range(0, 14, 3):
            with self.subTest(answers):
                user = self.begin()
                for _ in range(answers):
                    user.expect(r"(\[[^\]]*\]|host:) $")
                    user.type("alpha" if user.text.endswith("host: ") and "host: alpha" not in user.text else "")
                user.expect(r"(\[[^\]]*\]|host:) $")
                if answers % 2:
                    os.write(user.ours, b"\x03")
                    self.assertIn(user.end(), (130, -signal.SIGINT))
                else:
                    os.write(user.ours, b"\x04")
                    self.assertEqual(user.end(), 130)
                    self.assertIn("nothing was written", user.text)
                self.assertEqual(self.files(), [])
        user = self.begin("--host", "alpha", "--name", "demo")
        for _ in range(9):
            user.expect(r"\[[^\]]*\] $")
            user.type("")
        user.expect(r"Write these to [^?]*\?\s+\[Y/n\] ")
        user.type("n")
        self.assertEqual(user.end(), 130)
        self.assertEqual(self.files(), [])

    def test_without_a_terminal(self):
        run = lambda *arguments, code=0: self.place.run("init", self.place.environment, *arguments, code=code)  # noqa: E731
        refused = run(code=2)
        self.assertIn("nothing was written: nobody can be asked here", refused.err)
        self.assertIn("--yes", refused.err)
        self.assertEqual(self.files(), [])
        for arguments, why in ((["--memory", "24"], '"24" is no size'), (["--host", "a b"], '"a b" is no host'),
                               (["--host", "a", "--host", "a"], "there is a host a already"), (["--maximum", "0"], '"0" is no number from 1 to 1000'),
                               (["--minimum", "3", "--maximum", "2"], "2 is below the 3 that run always"),
                               (["--models", "models"], '"models" is no absolute path'), (["--name", "a_b"], '"a_b" is no name')):
            self.assertIn(why, run("--yes", *arguments, code=2).err)
            self.assertEqual(self.files(), [])
        written = run("--yes", "--json", "--name", "demo", "--host", "alpha", "--host", "b=me@10.0.0.9:2222", "--cpu", "1.5", "--minimum", "2",
                      "--maximum", "2", "--rotation", "replace", "--ssh-config", self.ssh).json
        self.assertEqual(written["written"], ["hosts/alpha.toml", "hosts/b.toml", "stillframe.toml"])
        listed = self.place.run("host", "list", "--json").json["hosts"]
        self.assertEqual([host["config"] for host in listed], [
            {"address": "alpha", "ssh-config": str(self.ssh)},
            {"address": "10.0.0.9", "user": "me", "port": 2222, "ssh-config": str(self.ssh)}])
        self.assertIn("stillframe.toml is there already", run("--yes", code=2).err)
        self.assertIn("cpu = 0.5", (run("--yes", "--force", "--cpu", ".5"), (self.project / "stillframe.toml").read_text())[1])
        write(self.project / "hosts/c.nix", '{ address = "c"; }')
        (self.project / "stillframe.toml").unlink()
        self.assertIn("hosts/c.nix is there already", run("--yes", "--host", "c", code=2).err)
        run("--yes", "--force", "--name", "other")
        self.assertIn('name = "other"', (self.project / "stillframe.toml").read_text())
        # Without hosts of its own it leaves those that are there; with some, it is deployed to those alone.
        names = lambda: {host["name"] for host in self.place.run("host", "list", "--json").json["hosts"]}  # noqa: E731
        self.assertEqual(names(), {"alpha", "b", "c"})
        done = run("--yes", "--force", "--json", "--host", "c", "--host", "d").json
        self.assertEqual(done["put_aside"], ["hosts/alpha.toml", "hosts/b.toml", "hosts/c.nix"])
        self.assertEqual(names(), {"c", "d"})
        self.assertTrue((self.project / "hosts/alpha.toml.old").exists())

    def test_what_is_no_environment(self):
        empty = self.place.ws.root / "empty"
        empty.mkdir()
        done = self.place.ws.stillframe("init", "--yes", cwd=empty, code=None)
        self.assertIn("is not a ComfyUI directory: it has no main.py", done.err)
        write(empty / "ComfyUI/main.py")
        write(empty / "ComfyUI/nodes.py")
        (empty / "ComfyUI/comfy").mkdir()
        self.place.ws.stillframe("init", "--yes", cwd=empty)
        self.assertIn('environment = "ComfyUI"', (empty / "stillframe.toml").read_text())


class Watching(unittest.TestCase):
    """`watch` on a real host; what it draws of what it hears is golden text beside its source."""

    def setUp(self):
        self.place = service.Place()
        self.addCleanup(self.place.down)

    def begin(self, size=(24, 80)):
        command = [*self.place.ws.prefix, harness.BINARY, "watch"]
        return Terminal(command, self.place.project, {**self.place.ws.environment(), "TERM": "xterm"}, size)

    def test_it_follows_a_deployment_and_its_keys_do_what_they_say(self):
        self.place.deploy(mark="first")
        watcher = self.begin()
        watcher.shows("demo  1 host +1 of 1 instances")
        watcher.shows(r"alpha +generation 1 \w{10} +127.0.0.1:8188 +1/1")
        watcher.shows(r"alpha +s0-g1 +0 - +healthy")
        watcher.shows("main program first on port")
        self.place.behave(mark="second", start=3)
        deployment = self.place.start("deploy", "--offline")
        watcher.shows("deploy by tester@")
        watcher.shows(r"\[(starting|checking)\]")
        watcher.shows(r"\[succeeded\]")
        watcher.shows("alpha +generation 2 ")
        # The log of an instance that was not there when this began.
        watcher.shows("main program second on port")
        self.assertEqual(deployment.wait(timeout=120), 0, deployment.stderr.read())
        deployment.stdout.close()
        deployment.stderr.close()
        watcher.press("r")
        watcher.shows(r"Roll every host back to the generation that served before\? \[y/N\]")
        watcher.press("n")
        time.sleep(0.5)
        self.assertEqual(self.place.mark(), "second")
        watcher.press("r")
        watcher.shows(r"\[y/N\]")
        watcher.press("y")
        deadline = time.monotonic() + 60
        while self.place.mark() != "first":
            self.assertLess(time.monotonic(), deadline, watcher.text[-2000:])
            watcher.more(0.2)
        watcher.shows("rollback is done")
        watcher.press("l")
        watcher.more(0.5)
        watcher.press("\x1b")
        time.sleep(0.5)
        watcher.press("q")
        self.assertEqual(watcher.end(), 0)
        # The terminal is its user's again: the other screen is left, the cursor is back.
        self.assertIn("\x1b[?1049l", watcher.raw)
        self.assertIn("\x1b[?25h", watcher.raw)

    def test_where_it_cannot_be(self):
        refused = self.place.run("watch", code=2)
        self.assertIn("watch needs a terminal", refused.err)
        small = self.begin(size=(8, 30))
        small.shows("too small: 60 x 14")
        small.press("\x03")
        self.assertEqual(small.end(), 0)


class Looking(unittest.TestCase):
    """`doctor`, `explain` and the manual pages."""

    def setUp(self):
        self.ws = harness.Workstation("sf-look-")
        self.addCleanup(self.ws.remove)
        self.project = self.ws.root / "project"
        shutil.copytree(service.PROGRAM, self.project / "ComfyUI")
        subprocess.run(["python3", "-m", "venv", "--without-pip", self.project / "ComfyUI/.venv"], check=True)
        write(self.project / "stillframe.toml", 'environment = "ComfyUI"\n[service]\nmodels = "/srv/models"\n')
        write(self.project / "hosts/a.toml", 'address = "10.0.0.1"\n')

    def doctor(self, code):
        done = self.ws.stillframe("doctor", "--json", cwd=self.project, code=code).json
        return {look["what"]: look.get("text") or look["error"]["message"] for look in done["looks"] if look["ok"] == (code == 0)}

    def test_what_is_well_and_what_is_not(self):
        well = self.doctor(0)
        self.assertRegex(well["store"], r"^Nix \d+\.\d+.* answers; the store is /nix/store$")
        self.assertEqual((well["hosts"], well["environment"]), ("1 described: a", str(self.project / "ComfyUI")))
        self.assertIn("nothing stands in the way", self.ws.stillframe("doctor", cwd=self.project).text)
        write(self.project / "hosts/b.toml", 'adress = "x"\n')
        shutil.rmtree(self.project / "ComfyUI/.venv/bin")
        ill = self.doctor(1)
        self.assertEqual(sorted(ill), ["hosts", "interpreter"])
        self.assertIn("unknown field `adress`", ill["hosts"])
        self.assertIn("2 problems", self.ws.stillframe("doctor", cwd=self.project, code=1).text)
        write(self.project / "stillframe.toml", "x = 1\n")
        self.assertEqual(list(self.doctor(1)), ["configuration"])

    def test_codes_and_pages(self):
        error = self.ws.stillframe("host", "check", "nobody", "--json", cwd=self.project, code=2).json["error"]
        told = self.ws.stillframe("explain", error["kind"])
        self.assertIn("What to do:", told.text)
        self.assertIn("did you mean secret?", self.ws.stillframe("explain", "secrets", code=2).err)
        self.ws.stillframe("man", self.ws.root / "man")
        page = (self.ws.root / "man/stillframe-deploy.1").read_text()
        self.assertIn(".TH stillframe-deploy 1", page)
        shown = subprocess.run([harness.BINARY, "--help"], capture_output=True, text=True).stdout
        commands = re.findall(r"^  ([a-z]+) ", shown.split("Commands:")[1].split("Options:")[0], re.M)
        for name in set(commands) - {"help"}:
            self.assertTrue((self.ws.root / f"man/stillframe-{name}.1").exists(), name)

    def test_a_reader_that_stops_reading(self):
        done = subprocess.run(f"{harness.BINARY} explain | head -n 1; echo ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash",
                              capture_output=True, text=True)
        self.assertEqual(done.stdout.splitlines()[-1], "0", done.stderr)
        self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main()
