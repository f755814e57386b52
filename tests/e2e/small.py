"""A small environment for tests of bad input: a minimal ComfyUI, a venv without pip, hand-made wheels unpacked
by hand, and a package index on the loopback that misbehaves on request. It takes a second to make, where the
example environment takes a minute.
"""
import base64
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import harness
import seed

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
JSON = "application/vnd.pypi.simple.v1+json"


def write(path, content="", mode=None):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if mode is not None:
        path.chmod(mode)
    return path


def record_hash(content):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def git(place, *words):
    """Real git, with nothing of the user's own name."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, "-C", place, *words], check=True, capture_output=True, text=True).stdout.strip()


class Wheel:
    """A pure wheel of one module; its RECORD and its archive may be made to say different things."""

    def __init__(self, name, version="1.0", members=None, requires=()):
        self.name, self.version = name, version
        self.info = f"{name}-{version}.dist-info"
        self.file = f"{name}-{version}-py3-none-any.whl"
        self.members = {f"{name}/__init__.py": f"NAME = {name!r}\n".encode(), f"{name}/data.txt": b"data of " + name.encode()}
        self.members.update(members or {})
        self.members[f"{self.info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode() \
            + "".join(f"Requires-Dist: {other}\n" for other in requires).encode()
        self.members[f"{self.info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

    def rows(self):
        rows = [f"{path},{record_hash(content)},{len(content)}" for path, content in self.members.items()]
        return rows + [f"{self.info}/RECORD,,"]

    def archive(self, record=None, more=()):
        """The file's bytes. `record`: another RECORD's text, or False for none; `more`: further members."""
        text = "\n".join(self.rows()) + "\n" if record is None else record
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in [*self.members.items(), *more]:
                archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), content)
            if text is not False:
                archive.writestr(zipfile.ZipInfo(f"{self.info}/RECORD", (2024, 1, 1, 0, 0, 0)), text)
        return out.getvalue()

    def install(self, site, record=None):
        """As an installer leaves it; `record`: another text for the installed RECORD."""
        for path, content in self.members.items():
            write(site / path, content)
        write(site / self.info / "INSTALLER", "pip\n")
        text = "\n".join([*self.rows(), f"{self.info}/INSTALLER,,"]) + "\n" if record is None else record
        if text is not False:
            write(site / self.info / "RECORD", text)
        return self

    def editable(self, site, project):
        """As an installer leaves an editable install of `project`: metadata and a `.pth` file, no modules."""
        modules = [path for path in self.members if not path.startswith(f"{self.info}/")]
        for path in modules:
            write(project / path, self.members.pop(path))
        self.members[f"__editable__.{self.name}.pth"] = f"{project}\n".encode()
        self.install(site)
        write(site / self.info / "direct_url.json", json.dumps({"url": f"file://{project}", "dir_info": {"editable": True}}))
        return self


class Environment:
    """A minimal ComfyUI at `root`, with one pack and a venv."""

    def __init__(self, root, python=sys.executable):
        self.root = Path(root)
        write(self.root / "main.py", "print('never run by a capture')\n")
        write(self.root / "nodes.py", "NODE_CLASS_MAPPINGS = {}\n")
        write(self.root / "comfy" / "__init__.py")
        write(self.root / "comfyui_version.py", '__version__ = "0.1.0"\n')
        self.pack = self.root / "custom_nodes" / "first-pack"
        write(self.pack / "__init__.py", "NODE_CLASS_MAPPINGS = {}\n")
        (self.root / "models").mkdir(exist_ok=True)
        self.venv = self.root / ".venv"
        subprocess.run([python, "-m", "venv", "--without-pip", self.venv], check=True)
        self.site = next((self.venv / "lib").glob("python3*/site-packages"))

    def age(self):
        """Makes every time stamp old enough to be trusted by the metadata index (ctime cannot be set: wait)."""
        time.sleep(2.1)


class BasePython:
    """The interpreter that runs the tests, as one that can be copied."""

    def __init__(self):
        ask = "import json, os, sys, sysconfig; print(json.dumps([sys.base_prefix, os.path.realpath(sys._base_executable), " \
              "sysconfig.get_paths()['stdlib'], '%d.%d' % sys.version_info[:2]]))"
        answer = subprocess.run([sys.executable, "-I", "-S", "-c", ask], capture_output=True, text=True, check=True).stdout
        self.prefix, self.python, self.stdlib, self.version = json.loads(answer)

    def copy(self, prefix):
        """A prefix as conda, pyenv and uv make them, and its library folder; its build still names the old place."""
        leave = ("site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__", "config-*", "ensurepip")
        lib = prefix / "lib" / f"python{self.version}"
        shutil.copytree(self.stdlib, lib, symlinks=True, ignore=shutil.ignore_patterns(*leave))
        (lib / "site-packages").mkdir()
        (prefix / "bin").mkdir()
        shutil.copy(self.python, prefix / "bin" / f"python{self.version}")
        for name in ("python", "python3"):
            (prefix / "bin" / name).symlink_to(f"python{self.version}")
        for library in Path(self.prefix, "lib").glob(f"libpython{self.version}.so*"):
            shutil.copy(library, prefix / "lib", follow_symlinks=False)
        return prefix, lib


class Index:
    """A PEP 691 index and file server on the loopback. `files` is name -> bytes; `pages` and `raw` override."""

    def __init__(self):
        self.wheels, self.pages, self.sent, self.requests = {}, {}, {}, []
        self.ranges = True
        self.drip = None
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                index.requests.append(self.path)
                try:
                    index.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/simple"
        self.stopping = threading.Event()
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def publish(self, wheel, content=None, sha256=None, size=True):
        """Lists a wheel. `content`: what is served; `sha256`: what the page says, if not the truth about it."""
        content = wheel.archive() if content is None else content
        self.wheels[wheel.file] = content
        entry = {"filename": wheel.file, "url": f"/files/{wheel.file}",
                 "hashes": {"sha256": sha256 or hashlib.sha256(content).hexdigest()}}
        if size:
            entry["size"] = len(content)
        body = json.dumps({"meta": {"api-version": "1.1"}, "name": wheel.name, "files": [entry]}).encode()
        self.pages[re.sub(r"[-_.]+", "-", wheel.name).lower()] = (200, JSON, body)
        return self

    def answer(self, request):
        # pip writes the plus of a local version as %2B.
        path = unquote(request.path).strip("/").split("/")
        if self.drip and path[0] == "simple":
            return self.dribble(request)
        if path[0] == "simple" and path[-1] in self.pages:
            return self.reply(request, *self.pages[path[-1]])
        content = self.wheels.get(path[-1]) if path[0] == "files" else None
        if content is None:
            return self.reply(request, 404, "text/plain", b"nothing here")
        wanted = request.headers.get("Range", "")
        if not (self.ranges and wanted.startswith("bytes=")):
            return self.reply(request, 200, "application/zip", content)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = (int(first), min(int(last or len(content)), len(content) - 1)) if first else (
            max(0, len(content) - int(last)), len(content) - 1)
        return self.reply(request, 206, "application/zip", content[start:end + 1],
                          {"Content-Range": f"bytes {start}-{end}/{len(content)}"})

    def reply(self, request, status, kind, body, headers=None):
        request.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": len(body), **(headers or {})}.items():
            request.send_header(key, str(value))
        request.end_headers()
        view = memoryview(body)
        for at in range(0, len(view), 1 << 16):
            request.wfile.write(view[at:at + (1 << 16)])
            self.sent[request.path] = self.sent.get(request.path, 0) + len(view[at:at + (1 << 16)])

    def dribble(self, request):
        """A byte every so often, for ever."""
        request.send_response(200)
        request.send_header("Content-Type", JSON)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not self.stopping.wait(self.drip):
            request.wfile.write(b" ")
            request.wfile.flush()


def shared_object(path, *needs):
    """A library without any content that asks for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        stubs = []
        for at, name in enumerate(needs):
            stubs.append(f"{scratch}/{at}.so")
            subprocess.run(["cc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-o", stubs[-1], f"-Wl,-soname,{name}"], check=True)
        subprocess.run(["cc", "-shared", "-nostdlib", "-x", "c", "/dev/null", "-o", path, "-x", "none", "-Wl,--no-as-needed", *stubs], check=True)
    return path


def library(name):
    """Where the loader has a library from."""
    ctypes.CDLL(name)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return Path(next(line.split(None, 5)[5] for line in maps if f"/{name}" in line))


def server(answer, first=""):
    """A main.py that answers every question with the JSON of an expression, on the port that it is given."""
    return f"""\
import http.server, json, sys
{first}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def sri(text):
    return base64.b64decode(text.removeprefix("sha256-")).hex() if text.startswith("sha256-") else text.removeprefix("sha256:")


@contextmanager
def untouched(test, root):
    """The block leaves everything below `root` as it was."""
    before = harness.tree_state(root)
    yield
    test.assertEqual(before, harness.tree_state(root), "the environment was changed")


class Case(unittest.TestCase):
    """A workstation, an environment in it, and an index where a test wants one."""

    maxDiff = None
    # Whether the store has the interpreter already; False where it matters how a store fills.
    seeded = True

    def setUp(self):
        self.station = harness.Workstation("sf-bad-")
        self.addCleanup(self.station.remove)
        if self.seeded:
            seed.plant(self.station, Environment)
        self.place = self.station.root / "place"

    def environment(self, **options):
        return Environment(self.place / "ComfyUI", **options)

    def index(self):
        index = Index()
        self.addCleanup(index.close)
        return index

    def clean(self, variables):
        """Nothing of this machine's index settings: there is no index but the one a test names."""
        clean = {name: None for name in os.environ if name.startswith(("PIP_", "UV_"))}
        return {**clean, "PIP_CONFIG_FILE": "/dev/null", **({} if "PIP_INDEX_URL" in variables else {"PIP_NO_INDEX": "1"})}

    def run_it(self, *arguments, code=0, timeout=600, **variables):
        return self.station.stillframe(*arguments, code=code, timeout=timeout, **{**self.clean(variables), **variables})

    def background(self, *arguments, **variables):
        """The program in the background, as `run_it` starts it."""
        return self.station.start(*arguments, **{**self.clean(variables), **variables})

    def inspect(self, env, code=0, **variables):
        return self.run_it("inspect", "--json", env.root, code=code, **variables)

    def snapshot(self, env, code=0, **variables):
        return self.run_it("snapshot", "--json", env.root, code=code, **variables)

    def failure(self, arguments, code, text, **variables):
        """Ends with `code` and says exactly `text` on its standard error, where `{...}` is a regular expression."""
        result = self.run_it(*arguments, code=code, **variables)
        self.says(result.err, text)
        return result

    def says(self, got, text):
        # On a busy machine a stage takes long enough to say how far it is.
        got = re.sub(r"(?m)^[a-z ]+: [0-9.]+( \w+)? of [^:\n]+\n?", "", got)
        parts = re.split(r"\{\{(.+?)\}\}", text)
        pattern = "".join(f"(?:{part})" if at % 2 else re.escape(part) for at, part in enumerate(parts))
        if not re.fullmatch(pattern, got.strip(), re.S):
            self.assertEqual(got.strip(), text)

    def findings(self, result):
        return [(f["severity"], f["topic"], f["path"], f["message"]) for f in result.json["findings"]]

    def finds(self, result, *wanted):
        """Each of `wanted` (severity, topic, path, message) is in the report, word for word."""
        have = self.findings(result)
        for one in wanted:
            self.assertIn(one, have)

    def provenance(self, result):
        return {d["name"]: (d["provenance"], d["reason"]) for d in result.json["distributions"]}

    def tree(self, taken, label):
        """Where the store has one output of a snapshot."""
        record = self.run_it("snapshots", "show", "--json", taken["id"]).json["record"]
        return self.station.real(next(o["path"] for o in record["outputs"] if o["label"] == label))

    def store_is_sound(self):
        """Every path in the store has the hash that the store says, and nothing was left half-written."""
        self.station.nix("nix-store", "--verify", "--check-contents")


def python_for_nobody():
    """An interpreter that an unprivileged user may run: this one may be in somebody's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        # The shell is what the unprivileged user runs: setpriv itself still finds files as root does.
        tried = subprocess.run([*AS_NOBODY, "sh", "-c", "exec \"$0\" -c ''", python], cwd="/", check=False, capture_output=True)
        if tried.returncode == 0:
            return python
    raise AssertionError("no interpreter here may be run by an unprivileged user")
