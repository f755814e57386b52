"""What tests of deployments share: real hosts, a workstation, an environment whose main program starts in a moment and behaves as a test
says, and clients of the public port that speak HTTP and WebSocket from the hosts' own network."""
import json
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
import harness  # noqa: E402
from harness import Workstation  # noqa: E402
from hosts import Hosts  # noqa: E402

PROGRAM = harness.ROOT / "tests" / "fixtures" / "service"
SERVICE = "demo"
PORT = 8188
#: Healthy after two answers, so that a rotation takes a second or two.
QUICK = """
[service.health]
interval = "50ms"
passes = 2
minimum = "100ms"
deadline = "20s"
timeout = "2s"
"""


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Place:
    """Hosts, a workstation in their network, an environment, a project that deploys it."""

    def __init__(self, count=1, prepare=True):
        self.hosts = Hosts(count)
        self.ws = Workstation()
        try:
            self.hosts.up()
            self.ws.prefix = self.hosts.client_command()
            self.environment = self.ws.root / "env"
            shutil.copytree(PROGRAM, self.environment)
            (self.environment / "models" / "checkpoints").mkdir(parents=True)
            self.pack = self.environment / "custom_nodes" / "painter" / "__init__.py"
            self.pack.parent.mkdir(parents=True)
            self.pack.write_text("NODE_CLASS_MAPPINGS = {}\n")
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.environment / ".venv"], check=True)
            self.behave(mark="one")
            self.project = self.ws.root / "project"
            (self.project / "hosts").mkdir(parents=True)
            self.configure()
            for host in self.hosts.hosts:
                host.sh("mkdir -p /srv/models/checkpoints; echo weights >/srv/models/checkpoints/a.safetensors")
                self.describe(host.name)
            if prepare:
                self.run("host", "prepare", "--yes")
        except BaseException:
            self.down()
            raise

    def down(self):
        self.hosts.down()
        self.ws.remove()

    # --- what is there

    def behave(self, **behaviour):
        (self.environment / "behaviour.json").write_text(json.dumps(behaviour))

    def configure(self, text="", service="", quick=QUICK, drain="5s"):
        """stillframe.toml: `service` goes below [service], `text` to the end."""
        (self.project / "stillframe.toml").write_text(
            f'environment = "{self.environment}"\n[service]\nname = "{SERVICE}"\nmodels = "/srv/models"\ndrain = "{drain}"\n{service}\n{quick}\n{text}\n')

    def describe(self, name, file=None, service=None, **more):
        """hosts/NAME.toml"""
        values = {"address": name, "ssh-config": str(self.hosts.ssh_config), **more}
        lines = [f"{key} = {toml(value)}" for key, value in values.items()]
        lines += ["[service]"] + [f"{key} = {toml(value)}" for key, value in (service or {}).items()] if service else []
        path = self.project / "hosts" / f"{file or name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    # --- what is done

    def run(self, *arguments, code=0, **options):
        return self.ws.stillframe(*arguments, code=code, cwd=self.project, **options)

    def snapshot(self, label=None, **behaviour):
        if behaviour:
            self.behave(**behaviour)
        return self.run("snapshot", "--offline", "--json", *(["--label", label] if label else [])).json

    def deploy(self, *arguments, code=0, **behaviour):
        """Deploys a new snapshot of a program that behaves so; the stream of events."""
        if behaviour:
            self.behave(**behaviour)
        if "--snapshot" not in arguments:
            arguments = ("--offline", *arguments)
        return Stream(self.run("--json", "deploy", *arguments, code=code))

    def start(self, *arguments, cwd=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
        return subprocess.Popen([*map(str, self.ws.prefix), str(harness.BINARY), *arguments], cwd=cwd or self.project,
                                env=self.ws.environment(**environment), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True)

    # --- what is served

    def client(self, *words, **options):
        return self.hosts.client(*words, **options)

    def curl(self, host, path, *arguments, port=PORT, check=True):
        address = self.hosts[host].address if not host.startswith("1") else host
        done = self.client("curl", "-sS", "--noproxy", "*", "--max-time", "30", *arguments, f"http://{address}:{port}{path}", check=check)
        return done.stdout

    def local(self, host, path, *arguments, port=PORT, check=True):
        """The public port from the host itself: the default is loopback alone."""
        return self.inside(host, ["curl", "-sS", "--noproxy", "*", "--max-time", "30", *arguments, f"http://127.0.0.1:{port}{path}"], check=check).stdout

    def instance(self, host, id, path, *arguments, service=SERVICE, check=True):
        """An instance itself, past the gateway: root alone gets to its socket."""
        socket = f"/proc/{self.hosts[host].pid()}/root/run/stillframe-instances/{service}/{id}/http.sock"
        return self.inside(host, ["curl", "-sS", "--max-time", "30", "--unix-socket", socket, *arguments, f"http://localhost{path}"], check=check).stdout

    def inside(self, host, command, check=True, **options):
        """This machine's program in the host's network."""
        done = subprocess.run(["ip", "netns", "exec", self.hosts[host].netns, *map(str, command)], capture_output=True, text=True, **options)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def mark(self, host="alpha"):
        """Which snapshot answers."""
        return json.loads(self.local(host, "/system_stats"))["system"]["mark"]

    def status(self, host="alpha", code=None):
        [entry] = self.run("status", "--json", "--hosts", host, code=code).json["hosts"]
        return entry["view"]["services"][0] if entry.get("view", {}).get("services") else entry

    def history(self, host="alpha"):
        """This host's records, newest first."""
        found = self.run("history", "--json", "--hosts", host, "-n", "50").json["deployments"]
        return [part["record"] for deployment in found for part in deployment["hosts"] if "record" in part]

    def units(self, host="alpha"):
        shown = self.hosts[host].run("systemctl", "list-units", "--all", "--plain", "--no-legend", f"stillframe-{SERVICE}-*").stdout
        return {line.split()[0]: line.split()[2] for line in shown.splitlines()}


class Stream:
    """The events of a command that tells them as JSON lines."""

    def __init__(self, result):
        self.code, self.err = result.code, result.err
        self.events = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
        self.text = result.out + result.err

    @property
    def result(self):
        return next(e for e in reversed(self.events) if e["type"] == "result")

    def host(self, name="alpha"):
        return next(h for h in self.result["hosts"] if h["host"] == name)

    def statuses(self, name="alpha"):
        found = []
        for event in self.events:
            if event["type"] == "event" and event["host"] == name and (not found or found[-1] != event["event"]["status"]):
                found.append(event["event"]["status"])
        return found


class Case(unittest.TestCase):
    maxDiff = None
    count = 1
    place = None

    @classmethod
    def setUpClass(cls):
        cls.place = Place(cls.count)
        cls.addClassCleanup(cls.place.down)

    def setUp(self):
        self.hosts = self.place.hosts
        self.alpha = self.hosts.hosts[0]

    def only_units_of(self, generation):
        """Nothing else is left. The activation's own unit ends a moment after its record, which the command waits for."""
        units = dict.fromkeys(["stillframe-demo-gateway.service", "stillframe-demo-gateway.socket",
                               f"stillframe-demo-s0-g{generation}.service"], "active")
        self.wait(lambda: self.place.units() == units)

    def wait(self, what, limit=30):
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            found = what()
            if found:
                return found
            time.sleep(0.05)
        self.fail(f"did not come: {what}")


class Good(Case):
    """The snapshot `good` serves, and the configuration is as it was at first."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place.deploy("--label", "good", mark="good")

    def setUp(self):
        super().setUp()
        self.place.configure()

    def slow(self, seconds=4, mark="slow"):
        """A deployment whose instances take a while to start."""
        self.place.behave(mark=mark, start=seconds)
        return self.place.start("--json", "deploy", "--offline")

    def until(self, status):
        """Until the newest attempt of the service is so far on its first host."""
        def reached():
            last = self.alpha.sh(f"tail -n 1 $(ls /var/lib/stillframe/services/{SERVICE}/attempts/*.jsonl | tail -n 1)").stdout
            return f'"status":"{status}"' in last and json.loads(last)
        return self.wait(reached)


def wait_process(process, limit=120):
    out, err = process.communicate(timeout=limit)
    return out, err, process.returncode


