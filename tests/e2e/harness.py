"""What every end-to-end test needs: a workstation of its own (scratch store, state, cache, home), the
program under test, and a look at the store from inside a mount namespace, as a user with /nix sees it.

Nothing here touches the machine's own /nix, state or caches; traffic goes to loopback and, where a test
says so, to the package index this machine's pip is configured for.
"""
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("STILLFRAME_TEST_CACHE", Path.home() / ".cache" / "stillframe-tests"))
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = Path(os.environ.get("STILLFRAME_BINARY", TARGET / "release" / "stillframe"))
# Where the program under test looks for the host's: beside it as packages have it, or in the build tree.
AGENT = next((p for p in (BINARY.parent.parent / "libexec/stillframe/stillframe-agent",
                          TARGET / f"{os.uname().machine}-unknown-linux-musl/release/stillframe-agent") if p.exists()), None)
FIXTURE = ROOT / "tests" / "fixtures" / "environment"


@dataclass
class Result:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def text(self):
        return self.out + self.err


@functools.cache
def alone_with(path):
    """Waits until no other process works with it; none does until this one ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(f"{path}.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Kept by the cache, and so open: a file that is closed is no longer locked.
    return lock


def example():
    """The example environment, built once. Another run of the tests may want it too; a test that changes it puts it back or uses a copy."""
    where = Path(os.environ.get("STILLFRAME_EXAMPLE", CACHE / "example"))
    alone_with(where)
    subprocess.run([sys.executable, FIXTURE / "build.py", where], check=True, stdout=subprocess.DEVNULL)
    return where / "ComfyUI"


def tree_state(root):
    """Name, kind, mode, size, mtime and link target of everything below: equal before and after means untouched."""
    state = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            stat = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else None
            # Reading changes neither; a listing changes no folder.
            state[os.path.relpath(path, root)] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, link)
    return state


def remove_tree(path):
    """Everything below, store folders (which are read-only) included."""
    subprocess.run(["chmod", "-R", "u+w", path], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(path, ignore_errors=True)


def in_order(test, *steps):
    """One test of several steps, each of which goes on from the state before it, and begins with `setUp` and ends with its clean-ups as
    a test does. What fails names its step, and no step follows it."""
    for number, step in enumerate(steps, 1):
        ended = False
        with test.subTest(step=f"{number}, {step.__name__.replace('_', ' ')}"):
            if number > 1:
                test.setUp()
            step()
            ended = True
        test.doCleanups()
        if not ended:
            return


class Workstation:
    """A scratch directory with a Nix store in it; remove() takes everything away again."""

    def __init__(self, prefix="sf-"):
        self.root = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
        self.store = self.root / "store"
        (self.store / "nix").mkdir(parents=True)
        (self.root / "home").mkdir()
        self.processes = []
        # What runs another Nix on this store.
        self.nix_prefix = []
        # What runs the program elsewhere: in the network of the test hosts.
        self.prefix = []

    def remove(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        remove_tree(self.root)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def environment(self, **more):
        keep = {k: v for k, v in os.environ.items()
                if k in ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") or k.lower().endswith("_proxy")
                or k.startswith(("PIP_", "UV_"))}
        keep.update(HOME=str(Path.home()), XDG_STATE_HOME=str(self.root / "state"), XDG_CACHE_HOME=str(self.root / "cache"),
                    NIX_REMOTE=f"local?root={self.store}", USER="tester", LC_ALL="C.UTF-8")
        keep.update(more)
        return {k: str(v) for k, v in keep.items() if v is not None}

    def stillframe(self, *arguments, code=0, cwd=None, stdin=None, timeout=600, **environment):
        """Runs the program; `code=None` accepts every exit code."""
        return self._run([*self.prefix, BINARY, *arguments], code, cwd, self.environment(**environment), timeout)

    def nix(self, *arguments, code=0, timeout=600):
        return self._run([*self.nix_prefix, *arguments], code, None, self.environment(), timeout)

    def _run(self, command, code, cwd, env, timeout):
        started = time.monotonic()
        done = subprocess.run([str(c) for c in command], cwd=cwd or self.root, env=env, capture_output=True,
                              timeout=timeout, stdin=subprocess.DEVNULL, text=True, errors="backslashreplace")
        result = Result(done.returncode, done.stdout, done.stderr, time.monotonic() - started)
        if code is not None and done.returncode != code:
            raise AssertionError(f"{' '.join(map(str, command))}\nended with {done.returncode}, not {code}\n"
                                 f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return result

    def start(self, *arguments, **environment):
        """The program in the background, with pipes, and in a process group of its own as a shell's job is."""
        process = subprocess.Popen([*self.prefix, str(BINARY), *map(str, arguments)], cwd=self.root, env=self.environment(**environment),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   process_group=0)
        self.processes.append(process)
        return process

    # --- inside: the store at /nix

    def inside_command(self, command, hide=()):
        """The command in a mount namespace where /nix is the scratch store and each path of `hide` is empty."""
        Path("/nix").mkdir(exist_ok=True)
        script = "mount --make-rprivate /; mount --bind \"$1\" /nix; shift; " \
                 "while [ \"$1\" != -- ]; do mount -t tmpfs none \"$1\"; shift; done; shift; exec \"$@\""
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", str(self.store / "nix"),
                *map(str, hide), "--", *map(str, command)]

    def inside(self, *command, hide=(), code=0, timeout=600, **environment):
        environment = {"NIX_REMOTE": None, **environment}
        return self._run(self.inside_command(command, hide), code, None, self.environment(**environment), timeout)

    def real(self, store_path):
        """Where a store path really lies."""
        return self.store / str(store_path).lstrip("/")


def resident(process):
    """The most memory that a process has had resident, in KiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)


class Peak(threading.Thread):
    """The most memory a process had resident by itself. (What wait4 tells is not that: it begins with what the
    parent had when it forked, and takes the children in.)"""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.high = process, 0
        self.start()

    def run(self):
        while self.process.poll() is None:
            try:
                self.high = max(self.high, resident(self.process))
            except OSError:
                pass
            time.sleep(0.005)

    def kib(self):
        self.join()
        return self.high


class Server:
    """`stillframe run --json` in the background, the environment out of sight."""

    def __init__(self, workstation, *arguments, hide=()):
        command = workstation.inside_command([BINARY, "run", "--json", *arguments], hide)
        keep = {"HOME": str(workstation.root / "home"), "XDG_STATE_HOME": str(workstation.root / "state"),
                "XDG_CACHE_HOME": str(workstation.root / "cache"), "PATH": os.environ["PATH"]}
        self.log = open(workstation.root / "server.log", "w+")
        started = time.monotonic()
        self.process = subprocess.Popen(command, env=keep, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        workstation.processes.append(self.process)
        line = ""
        for text in self.process.stdout:
            line += text
            try:
                self.ready = json.loads(line)
                # As whoever started it has waited.
                self.ready_seconds = time.monotonic() - started
                break
            except json.JSONDecodeError:
                continue
        else:
            self.process.wait()
            self.log.seek(0)
            raise AssertionError(f"`stillframe run` ended with {self.process.returncode}: {self.log.read()[-4000:]}")
        self.url = self.ready["url"]
        self.pid = self.ready["pid"]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path, value):
        request = urllib.request.Request(self.url + path, json.dumps(value).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def graph(self, graph, limit=60):
        """Runs a graph and returns the names of its pictures."""
        prompt = self.post("/prompt", {"prompt": graph, "client_id": "tests"})["prompt_id"]
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                outputs = history[prompt]["outputs"].values()
                return [image for output in outputs for image in output.get("images", [])]
            time.sleep(0.1)
        raise AssertionError(f"the graph did not end within {limit} s")

    def maps(self):
        """Files mapped by the server and its children."""
        seen = set()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    stat = (process / "stat").read_text()
                    parent = int(stat.rsplit(")", 1)[1].split()[1])
                    if int(process.name) == self.pid or parent == self.pid:
                        seen.update(line.split(None, 5)[5].strip() for line in (process / "maps").read_text().splitlines()
                                    if len(line.split(None, 5)) == 6)
                except (OSError, IndexError):
                    continue
        return {path for path in seen if path.startswith("/")}

    def stop(self, how=signal.SIGTERM):
        """Signals the program itself and returns its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self.log.close()
        return code
