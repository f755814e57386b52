"""The Nix face: hosts and services written in Nix, with Nix 2.8 and 2.26, and the flake's apps without internet. What nixpkgs' stand-in
does not prove is in nix/tests/nixpkgs/flake.nix."""
import json
import os
import shutil
import subprocess
import unittest

import harness
import service
from harness import ROOT
from small import write

SECONDS = 80

NIX26 = ROOT / "tests" / "hosts" / "nix26.sh"
FLAKES = ["nix", "--extra-experimental-features", "nix-command flakes", "--option", "flake-registry", "", "--option", "substituters", ""]


def copy_source(target):
    """What git would have of this tree: a flake of the whole of it would take build outputs along."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


class Language(unittest.TestCase):
    """nix/lib and the NixOS module by their own tests, under both versions."""

    def setUp(self):
        self.ws = harness.Workstation("sf-nix-")
        self.addCleanup(self.ws.remove)
        self.nix = shutil.copytree(ROOT / "nix", self.ws.root / "nix")

    def evaluate(self, prefix):
        for file, arguments in (("lib.nix", []), ("nixos.nix", ["--arg", "lib", "null"])):
            with self.subTest(file):
                command = [*prefix, "nix-instantiate", "--eval", "--strict", "--json", self.nix / "tests" / file, *arguments]
                done = subprocess.run(list(map(str, command)), env=self.ws.environment(), capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
                result = json.loads(done.stdout)
                self.assertEqual(result["failed"], [])
                self.assertGreater(result["count"], 4)

    def test_with_the_installed_nix(self):
        self.evaluate([])

    def test_with_nix_2_26(self):
        subprocess.run([NIX26, "build"], check=True, stdout=subprocess.DEVNULL)
        self.evaluate([NIX26, "run", self.ws.root, "env", f"NIX_REMOTE=local?root={self.ws.store}"])


class Hosts(unittest.TestCase):
    """`hosts/*.nix` of a project, read by the program itself."""

    maxDiff = None

    def setUp(self):
        self.ws = harness.Workstation("sf-nix-")
        self.addCleanup(self.ws.remove)
        self.project = self.ws.root / "project"
        write(self.project / "stillframe.toml", "[service]\nmodels = \"/srv/models\"\n")

    def host(self, name, text):
        return write(self.project / "hosts" / name, text)

    def listed(self, *arguments):
        done = self.ws.stillframe("host", "list", "--json", *arguments, cwd=self.project)
        return [(host["name"], host["config"]) for host in done.json["hosts"]]

    def refused(self, *expected, code=2):
        error = self.ws.stillframe("host", "list", "--json", cwd=self.project, code=code).json["error"]
        for text in expected:
            self.assertIn(text.replace("HOSTS", str(self.project / "hosts")), error["message"])
        return error

    TOML = """\
address = "gpu-1.example"
user = "deploy"
port = 2222
identity-file = "id"
jump = "bastion"
ssh-config = "ssh_config"
tags = ["eu", "big"]
[service]
name = "demo"
arguments = ["--lowvram"]
environment = { A = "1" }
listen = "0.0.0.0"
port = 9000
models = "/srv/models"
output = "/mnt/out"
user = "comfy"
slots = [[0, "GPU-1"], [2]]
instance-ports = "21000-21010"
folders = [{ path = "/mnt/luts", at = "input/luts", writable = true }]
keep = ["custom_nodes/p/data"]
driver = "/opt/driver"
rotation = "replace"
drain = "90s"
[service.resources]
memory = "24GiB"
cpu = 1.5
[service.scaling]
minimum = 1
maximum = 2
[service.health]
path = "/x"
interval = "500ms"
passes = 4
classes = false
smoke = "smoke.json"
[service.gateway]
api-keys = [{ env = "KEY" }, { command = ["pass", "key"] }]
body-limit = "2GB"
waiting = 5
[service.secrets]
TOKEN = { env = "TOKEN", as = "file" }
[service.retention]
generations = 7
[service.jobs]
queue = "gateway"
tries = 2
stuck-after = "5min"
keep = { age = "7d", count = 1000, bytes = "1GiB" }
"""

    NIX = """\
{ lib, name, config, ... }:
{
  imports = [ ./shared/eu.nix ];
  address = "${name}.example";
  tags = [ "big" ];
  service = {
    name = "demo";
    arguments = [ "--lowvram" ];
    environment.A = toString config.service.scaling.minimum;
    listen = "0.0.0.0";
    port = 9000;
    output = "/mnt/out";
    user = "comfy";
    slots = [ [ 0 "GPU-1" ] [ 2 ] ];
    instance-ports = "21000-21010";
    folders = [ { path = "/mnt/luts"; at = "input/luts"; writable = true; } ];
    keep = [ "custom_nodes/p/data" ];
    driver = "/opt/driver";
    rotation = "replace";
    drain = lib.mkForce "1.5min";
    resources = { memory = "24576MiB"; cpu = 1.5; };
    scaling = { minimum = 1; maximum = 2; };
    health = { path = "/x"; interval = "500ms"; passes = 4; classes = false; smoke = "smoke.json"; };
    gateway = { api-keys = [ { env = "KEY"; } { command = [ "pass" "key" ]; } ]; body-limit = "2GB"; waiting = 5; };
    secrets.TOKEN = { env = "TOKEN"; as = "file"; };
    retention.generations = 7;
    jobs = { queue = "gateway"; tries = 2; stuck-after = "5min"; keep = { age = "7d"; count = 1000; bytes = "1GiB"; }; };
  };
}
"""

    SHARED = """\
{ lib, ... }:
{
  user = lib.mkDefault "deploy";
  port = 2222;
  identity-file = "id";
  jump = "bastion";
  ssh-config = "ssh_config";
  tags = [ "eu" ];
  service = { models = "/srv/models"; drain = "10s"; };
}
"""

    def test_the_same_host_in_both_languages_is_the_same(self):
        self.host("gpu-1.toml", self.TOML)
        in_toml = self.listed()
        (self.project / "hosts/gpu-1.toml").unlink()
        self.host("gpu-1.nix", self.NIX)
        self.host("shared/eu.nix", self.SHARED)
        self.assertEqual(self.listed(), in_toml)
        # Every option of the schema that a host has is in it.
        schema = self.ws.stillframe("schema", "host").json["$defs"]
        said = in_toml[0][1]
        self.assertEqual(set(schema["HostConfig"]["properties"]), set(said))
        self.assertEqual(set(schema["ServiceConfig"]["properties"]) - set(said["service"]), {"gpus", "programs", "system-files"})

    def test_both_kinds_beside_each_other_and_selectors(self):
        self.host("a.toml", 'address = "10.0.0.1"\ntags = ["eu"]\n')
        self.host("b.nix", '{ address = "10.0.0.2"; tags = [ "eu" ]; }')
        self.host("c.nix", '_: { address = "10.0.0.3"; }')
        self.assertEqual([name for name, _ in self.listed()], ["a", "b", "c"])
        self.assertEqual([name for name, _ in self.listed("@eu")], ["a", "b"])
        text = self.ws.stillframe("host", "list", cwd=self.project).text
        self.assertEqual(text, "a  10.0.0.1 @eu\nb  10.0.0.2 @eu\nc  10.0.0.3\n")

    def test_all_that_is_wrong_is_said_at_once(self):
        self.host("a.nix", '{ address = "x"; service.prot = 1; }')
        self.host("b.nix", '{ service.drain = "60"; }')
        error = self.refused("hosts/a.nix: service.prot is no option; did you mean port?",
                             'hosts/b.nix: service.drain is "60", not a span of time with its unit', "hosts/b.nix: address is not set")
        self.assertEqual(error["kind"], "input")
        self.assertNotIn("nix/lib", error["message"])

    def test_what_nix_itself_refuses(self):
        broken = self.host("a.nix", '{ address = "x"\n')
        self.refused("Nix cannot evaluate the hosts in HOSTS: syntax error", "HOSTS/a.nix:1:16")
        broken.write_text('{ config, ... }: { address = config.user; user = config.address; }')
        self.refused("Nix cannot evaluate the hosts in HOSTS: infinite recursion encountered")
        broken.write_text('throw "not today"')
        self.refused("Nix cannot evaluate the hosts in HOSTS: not today")
        broken.write_text('{ pkgs, ... }: { address = "x"; }')
        self.refused("Nix cannot evaluate the hosts in HOSTS:", "without required argument 'pkgs'", "HOSTS/a.nix:1")
        broken.write_text('{ address = "x"; imports = [ ./none.nix ]; }')
        self.refused("Nix cannot evaluate the hosts in HOSTS:", "none.nix")

    def test_one_host_twice_and_what_only_the_program_knows(self):
        self.host("a.nix", '{ address = "x"; }')
        self.host("a.toml", 'address = "x"\n')
        self.refused("HOSTS/a.toml and HOSTS/a.nix are one host twice")
        (self.project / "hosts/a.toml").unlink()
        self.host("a.nix", '{ address = "-oProxyCommand=x"; }')
        self.refused('HOSTS/a.nix is not valid: address = "-oProxyCommand=x" is no address')
        self.host("a.nix", '{ address = "x"; service.listen = "1.2.3.4.5"; }')
        self.refused("HOSTS/a.nix is not valid: invalid IP address syntax")

    def test_without_nix(self):
        self.host("a.nix", '{ address = "x"; }')
        gone = 'mount --make-rprivate /; mount --bind /dev/null "$(command -v nix-instantiate)"; exec "$@"'
        self.ws.prefix = ["unshare", "--mount", "sh", "-ec", gone, "sh"]
        error = self.refused("cannot evaluate the hosts in HOSTS: cannot run `nix-instantiate`", code=1)
        self.assertEqual(error["hint"], "hosts written in Nix need it; in TOML (hosts/NAME.toml) they do not")


class Flake(unittest.TestCase):
    """The flake without internet, and a team's own flake, deployed to a real host."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.place = service.Place()
        cls.addClassCleanup(cls.place.down)
        cls.ws = cls.place.ws
        cls.flake = copy_source(cls.ws.root / "flake")
        cls.nixpkgs = shutil.copytree(ROOT / "nix/tests/nixpkgs", cls.ws.root / "nixpkgs")
        (cls.nixpkgs / "prebuilt/shell").mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), cls.nixpkgs / "prebuilt/shell")
        for program in (harness.BINARY, harness.AGENT):
            shutil.copy(program, cls.nixpkgs / "prebuilt")

    def nix(self, *arguments, cwd=None, code=0, inputs=None, **environment):
        """Nix with the store at /nix, in the hosts' network."""
        inputs = {"nixpkgs": self.nixpkgs} if inputs is None else inputs
        overrides = [word for name, path in inputs.items() for word in ("--override-input", name, f"path:{path}")]
        overrides = ["--no-write-lock-file", *overrides] if "init" not in arguments else []
        at = arguments.index("--") if "--" in arguments else len(arguments)
        command = self.ws.inside_command([*FLAKES, *arguments[:at], *overrides, *arguments[at:]])
        done = subprocess.run(self.place.hosts.client_command(*command), cwd=cwd or self.flake, capture_output=True, text=True,
                              env=self.ws.environment(**{"NIX_REMOTE": None, **environment}), stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def test_the_lock_fits_its_flake(self):
        """Nix says so itself, and asks no network for it."""
        done = self.nix("flake", "metadata", "--json", "--no-update-lock-file", f"path:{self.flake}", inputs={})
        locked = json.loads(done.stdout)["locks"]["nodes"]["nixpkgs"]
        self.assertEqual((locked["original"]["ref"], len(locked["locked"]["rev"])), ("nixos-26.05", 40))

    def test_what_it_has(self):
        shown = json.loads(self.nix("flake", "show", "--json", f"path:{self.flake}").stdout)
        kinds = {}

        def walk(path, node):
            if "type" in node and isinstance(node["type"], str):
                kinds[".".join(path)] = node["type"]
            else:
                for name, inner in node.items():
                    walk([*path, name], inner)
        walk([], shown)
        golden = ROOT / "tests/golden/flake-show.json"
        if os.environ.get("STILLFRAME_WRITE_GOLDEN"):
            golden.write_text(json.dumps(kinds, indent=1, sort_keys=True) + "\n")
        self.assertEqual(kinds, json.loads(golden.read_text()))

    def test_with_nix_2_26(self):
        subprocess.run([NIX26, "build"], check=True, stdout=subprocess.DEVNULL)
        project = self.ws.root / "of-2.26"
        write(project / "stillframe.toml", "")
        write(project / "hosts/a.nix", '{ name, ... }: { address = "${name}.example"; }')

        def nix(*words, code=0):
            words = [*FLAKES, words[0], "--no-write-lock-file", "--override-input", "nixpkgs", f"path:{self.nixpkgs}", *words[1:]]
            command = [NIX26, "run", self.ws.root, "env", "NIX_REMOTE=local", "sh", "-c", 'cd "$0" && exec "$@"', project, *words]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, code, done.stdout[-1000:] + done.stderr[-3000:])
            return json.loads(done.stdout)
        self.assertIn("2.26", subprocess.run([NIX26, "run", self.ws.root, "nix", "--version"], capture_output=True, text=True).stdout)
        lib = nix("eval", "--json", f"path:{self.flake}#lib", "--apply", 'lib: lib.evalHosts { hosts.a.address = "x"; }')
        self.assertEqual(lib, {"a": {"address": "x"}})
        listed = nix("run", f"path:{self.flake}#stillframe", "--", "host", "list", "--json")
        self.assertEqual([host["config"] for host in listed["hosts"]], [{"address": "a.example"}])
        # Its errors have another shape, ours have none of it.
        for text, told in (('{ adress = "x"; }', "hosts/a.nix: adress is no option; did you mean address?\nhosts/a.nix: address is not set"),
                           ("{ address = x; }", f"Nix cannot evaluate the hosts in {project}/hosts: undefined variable 'x' (at {project}/hosts/a.nix:1:13)"),
                           ('throw "not today"', f"Nix cannot evaluate the hosts in {project}/hosts: not today (while evaluating hosts/a.nix)")):
            write(project / "hosts/a.nix", text)
            refused = nix("run", f"path:{self.flake}#stillframe", "--", "host", "list", "--json", code=2)
            self.assertEqual(refused["error"]["message"], told)

    def test_what_needs_no_nixpkgs_does_not_evaluate_it(self):
        none = self.ws.root / "none"
        write(none / "flake.nix", '{ outputs = _: throw "nixpkgs was evaluated"; }')
        inputs = {"nixpkgs": none}
        hosts = write(self.ws.root / "h.nix", '{ a.address = "x"; }')
        shown = self.nix("eval", "--json", f"path:{self.flake}#lib", "--apply", "lib: lib.evalHosts { hosts = " + hosts.read_text() + "; }", inputs=inputs)
        self.assertEqual(json.loads(shown.stdout), {"a": {"address": "x"}})
        shown = self.nix("eval", "--json", f"path:{self.flake}#templates.default.description", inputs=inputs)
        self.assertIn("nix run .#deploy", shown.stdout)
        data = "lib: (lib.mkDeployment { service.port = 1; hosts.a.address = \"x\"; }).deployment"
        shown = self.nix("eval", "--json", f"path:{self.flake}#lib", "--apply", data, inputs=inputs)
        self.assertEqual(json.loads(shown.stdout), {"version": 1, "folder": None, "project": {"service": {"port": 1}}, "hosts": {"a": {"address": "x"}}})
        self.assertIn("nixpkgs was evaluated", self.nix("eval", f"path:{self.flake}#packages.x86_64-linux.default.name", inputs=inputs, code=1).stderr)

    def test_flakes_that_are_not_enabled(self):
        done = subprocess.run(self.ws.inside_command(["nix", "run", f"path:{self.flake}#status"]), capture_output=True, text=True,
                              env=self.ws.environment(NIX_REMOTE=None, HOME=self.ws.root))
        self.assertNotEqual(done.returncode, 0)
        # Nix says what is missing; how to enable it is in README.
        self.assertIn("experimental Nix feature", done.stderr)
        readme = (ROOT / "README.md").read_text()
        self.assertIn("experimental-features = nix-command flakes", readme)

    def test_a_teams_own_flake_from_the_template_to_a_rollback(self):
        team = self.ws.root / "team"
        team.mkdir()
        # `flake init` takes no override, and there is no internet to find nixpkgs in.
        source = copy_source(self.ws.root / "source")
        write(source / "flake.nix", (source / "flake.nix").read_text().replace("github:NixOS/nixpkgs/nixos-26.05", f"path:{self.nixpkgs}"))
        self.nix("flake", "init", "-t", f"path:{source}", cwd=team)
        self.assertEqual(sorted(p.relative_to(team).as_posix() for p in team.rglob("*") if p.is_file()), ["flake.nix", "hosts/gpu-1.nix"])
        # What a user edits: the environment, and the hosts.
        text = (team / "flake.nix").read_text()
        text = text.replace('environment = "ComfyUI";', f'environment = "{self.place.environment}";')
        text = text.replace('resources.memory = "24GiB";', 'health = { interval = "50ms"; passes = 2; minimum = "100ms"; };')
        # Relative to the flake, as its own text has it.
        text = text.replace('drain = "60s";', 'drain = "60s"; secrets.TOKEN = { file = "token"; };')
        write(team / "token", "of the team")
        (team / "flake.nix").write_text(text)
        (team / "hosts/gpu-1.nix").unlink()
        write(team / "hosts/alpha.nix", '{ name, ... }: {\n  address = name;\n  ssh-config = "%s";\n  service.port = 8288;\n}\n' % self.place.hosts.ssh_config)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example", "-C", team]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "ours"], check=True)
        inputs = {"stillframe": self.flake, "stillframe/nixpkgs": self.nixpkgs}

        def app(name, *arguments, code=0):
            return self.nix("run", f"git+file://{team}#{name}", "--", *arguments, cwd=team, inputs=inputs, code=code)

        self.place.behave(mark="first")
        first = service.Stream(harness.Result(0, app("deploy", "--offline", "--json").stdout, "", 0))
        self.assertEqual(first.host()["generation"], 1)
        serves = lambda: json.loads(self.place.local("alpha", "/system_stats", port=8288))["system"]["mark"]  # noqa: E731
        self.assertEqual(serves(), "first")
        # A tree with changes that are not committed deploys what is there now.
        write(team / "hosts/alpha.nix", (team / "hosts/alpha.nix").read_text().replace("service.port", "service.retention.generations = 5;\n  service.port"))
        self.place.behave(mark="second")
        app("deploy", "--offline")
        self.assertEqual(serves(), "second")
        app("rollback")
        self.assertEqual(serves(), "first")
        status = json.loads(app("status", "--json").stdout)
        self.assertEqual([host["host"] for host in status["hosts"]], ["alpha"])
        self.assertIn("alpha", app("host-check").stdout)
        # A host that git does not know is not in the flake, and that is said.
        write(team / "hosts/beta.nix", '{ address = "beta"; }')
        told = app("default", "host", "list")
        self.assertNotIn("beta", told.stdout)
        self.assertIn("hosts/beta.nix is not part of the flake: `git add` it", told.stderr)
        # What is wrong with a host is said by its file's name.
        write(team / "hosts/alpha.nix", '{ adress = "alpha"; }')
        told = app("deploy", code=1)
        self.assertIn("hosts/alpha.nix: adress is no option; did you mean address?", told.stderr)
        self.assertEqual(serves(), "first")

    def test_a_clone_deploys_to_its_own_hosts(self):
        """hosts/ and stillframe.toml of this repository, as `make hosts` leaves them: one host in Nix, one in TOML."""
        clone = copy_source(self.ws.root / "clone")
        (clone / ".hosts").symlink_to(self.place.hosts.state)
        write(self.place.hosts.state / "api-key", "of-the-demo-0123456789")
        (clone / "target").mkdir()
        (clone / "target/example").symlink_to(self.ws.root)
        if not (self.ws.root / "ComfyUI").exists():
            (self.ws.root / "ComfyUI").symlink_to(self.place.environment)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example", "-C", clone]
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
            subprocess.run([*git, *words], check=True)
        # Another service of these tests has the port.
        config = clone / "stillframe.toml"
        config.write_text(config.read_text().replace('listen = "0.0.0.0"', 'listen = "0.0.0.0"\nport = 8488').replace('memory = "4GiB"', 'memory = "100MiB"'))
        app = lambda name, *arguments: self.nix("run", f"git+file://{clone}#{name}", "--", *arguments, cwd=clone)  # noqa: E731
        listed = json.loads(app("stillframe", "host", "list", "--json").stdout)["hosts"]
        self.assertEqual([(host["name"], host["file"].rsplit("/", 1)[1], host["config"]["tags"]) for host in listed],
                         [("alpha", "alpha.nix", ["demo"]), ("beta", "beta.toml", ["demo"])])
        self.place.behave(mark="clone")
        app("deploy", "--offline", "--hosts", "alpha")
        told = self.place.local("alpha", "/system_stats", "-H", "X-Api-Key: of-the-demo-0123456789", port=8488)
        self.assertEqual(json.loads(told)["system"]["mark"], "clone")

    def test_our_own_apps_serve_a_project_in_toml(self):
        self.place.behave(mark="toml")
        app = lambda name, *arguments: self.nix("run", f"path:{self.flake}#{name}", "--", *arguments, cwd=self.place.project)  # noqa: E731
        app("deploy", "--offline")
        self.assertEqual(self.place.mark(), "toml")
        self.assertIn("alpha", app("status").stdout)


if __name__ == "__main__":
    unittest.main()
