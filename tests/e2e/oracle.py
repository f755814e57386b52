"""What must hold on a host after any fault, written once: it serves exactly the old or exactly the new generation, each public port answers with
its own service's mark, nothing of any other generation is left, no picture is lost, and the record agrees with what serves.

`Two` is a host with two services under load, a second host that is prepared again and again, and commands that are begun with a fault in
them."""
import json
import subprocess
import sys
import time
from typing import NamedTuple

import harness
import service
from service import PORT, SERVICE, Stream, wait_process

OTHER, OTHER_PORT = "other", 8288
#: Within so long of its last restart a host serves again: seconds, on a machine that has many other things to do.
SETTLE = 60
#: Where the agent is told what is to fail, and tells (`src/sys/fault.rs`).
FOLDER = "/opt/stillframe-faults"
#: The places, as `tests/faults.py --list` writes them.
LISTED = harness.ROOT / "tests" / "golden" / "fault-steps.txt"
PLAN, REACHED, SEEN = f"{FOLDER}/plan", f"{FOLDER}/reached", f"{FOLDER}/seen"
HOST = "host"
#: Places in loops come as often as the machine is slow: of those the first stands for all.
LOOPS = {"wait", "look", "probe", "status", "queue", "journal"}
#: The commands, and which places are looked at in each: those of an activation have names without a stroke.
COMMANDS = {
    "deploy": lambda place: "/" not in place or place.startswith("gateway/"),
    "copy": lambda place: place.startswith("copy/"),
    "upgrade": lambda place: place in ("gateway/upgrade", "gateway/ready", "gateway/taken", "gateway/upgraded"),
    "boot": lambda place: "/" not in place or place.startswith("boot/"),
    "recovery": lambda place: "/" not in place or place.startswith("boot/"),
    "completion": lambda place: "/" not in place or place.startswith("boot/"),
    "retention": lambda place: place.startswith("retention/"),
    "prepare": lambda place: place.startswith("prepare/"),
}


#: What `--mutations` takes out of the agent, one after the other.
GUARDS = ["syncfs", "hash", "lease"]

#: Where a deployment loses its power, so that the boot after it is the command: before its commit, and after it.
CUT_OFF = {"recovery": "table 1 before", "completion": "save 2 after"}


class Step(NamedTuple):
    command: str
    place: str
    nth: int
    when: str

    def __str__(self):
        return f"{self.command}: {self.when} {self.place}{f' {self.nth}' if self.nth > 1 else ''}"


def listed():
    """The steps as the agent told them last."""
    return [step(line) for line in LISTED.read_text().splitlines()]


def step(text):
    """What `str` of a step prints."""
    command, rest = text.split(": ")
    when, place, *nth = rest.split()
    return Step(command, place, int(nth[0]) if nth else 1, when)


def scope(place):
    return HOST if place.startswith(("copy/", "prepare/")) or place == "retention/collect" else SERVICE


CLIENT = """
import http.client, sys, time
failed = 0
while True:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
        connection.request("GET", "/system_stats")
        answer = connection.getresponse()
        answer.read()
        good = answer.status == 200
    except OSError as e:
        good, answer = False, e
    if not good:
        print(time.time(), getattr(answer, "status", answer), flush=True)
    time.sleep(0.05)
"""


class Load:
    """A client that never stops asking; what failed is a line each."""

    def __init__(self, host, port):
        self.process = subprocess.Popen(["ip", "netns", "exec", host.netns, sys.executable, "-c", CLIENT, str(port)],
                                        stdout=subprocess.PIPE, text=True)

    def end(self):
        self.process.terminate()
        return self.process.communicate()[0].splitlines()


class Two:
    """Service `demo`, whose deployments have the faults, and service `other`, which must not notice, on host alpha; beta is prepared."""

    other_port = OTHER_PORT

    def __init__(self):
        self.place = service.Place(count=2, prepare=False)
        self.pictures, self.notes, self.fresh, self.command = {}, [], 0, "deploy"
        try:
            self._prepare()
        except BaseException:
            self.place.down()
            raise

    def _prepare(self):
        place = self.place
        self.alpha, self.beta = place.hosts.hosts
        for host in (self.alpha, self.beta):
            host.sh(f"mkdir -p {FOLDER} && chmod 777 {FOLDER}")
        text = (place.project / "stillframe.toml").read_text()

        def project(name, host, text):
            folder = place.ws.root / name
            (folder / "hosts").mkdir(parents=True)
            (folder / "hosts" / f"{host}.toml").write_text((place.project / "hosts" / f"{host}.toml").read_text())
            (folder / "stillframe.toml").write_text(text)
            return folder
        self.second = project("second", "alpha", text.replace(f'name = "{SERVICE}"', f'name = "{OTHER}"\nport = {OTHER_PORT}'))
        self.third = project("third", "beta", text)
        (place.project / "hosts" / "beta.toml").unlink()
        # Another version of the agent: the same program with a byte more.
        self.other_agent = place.ws.root / "other-agent"
        self.other_agent.write_bytes(harness.AGENT.read_bytes() + b"\0")
        self.other_agent.chmod(0o755)
        place.run("host", "prepare", "--yes")
        for label in ("one", "two"):
            place.snapshot(label=label, mark=label)
        place.deploy("--snapshot", "one")
        place.behave(mark=OTHER)
        place.ws.stillframe("--json", "deploy", "--offline", cwd=self.second)

    @property
    def host(self):
        """Where the command's faults are."""
        return self.beta if self.command == "prepare" else self.alpha

    def down(self):
        self.place.down()

    # --- what serves

    def mark(self, port=PORT):
        out = self.place.local("alpha", "/system_stats", port=port, check=False)
        try:
            return json.loads(out)["system"]["mark"]
        except (ValueError, KeyError):
            return None

    def state(self, name=SERVICE):
        """Of the host: the file, or its copy where a fault has spoiled the file; empty while neither can be read."""
        for file in ("state.json", "state.copy.json"):
            try:
                return json.loads(self.alpha.sh(f"cat /var/lib/stillframe/services/{name}/{file}").stdout)
            except (ValueError, RuntimeError):
                pass
        return {}

    def paint(self):
        """A picture, made by whatever serves, that `/view` must have from now on."""
        prompt = json.dumps({"prompt": {"1": {"class_type": "Save", "inputs": {"filename_prefix": f"p{len(self.pictures)}"}}}})
        for _ in range(20):
            made = json.loads(self.place.local("alpha", "/prompt", "-d", prompt))
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                found = json.loads(self.place.local("alpha", f"/history/{made['prompt_id']}")).get(made["prompt_id"])
                if found:
                    image = found["outputs"]["1"]["images"][0]["filename"]
                    self.pictures[image] = made["prompt_id"]
                    # ComfyUI does not wait for the disk; this is about pictures that have reached it.
                    self.alpha.run("sync")
                    return
                time.sleep(0.05)
        raise AssertionError("no picture was made")

    def agent(self, *words, check=True):
        return self.host.run("/var/lib/stillframe/agent/bin/stillframe-agent", *words, check=check)

    def problems(self):
        return self.agent("problems", check=False).stdout.splitlines()

    # --- a command with a fault in it

    def arm(self, step, act):
        # The gateway's process, and that of a transfer, count for longer than a command.
        nth = "*" if "/" in step.place else step.nth
        self.host.sh(f"rm -f {FOLDER}/*; echo '{scope(step.place)} {step.place} {nth} {step.when} {act}' >{PLAN}.new && mv {PLAN}.new {PLAN}")

    def reached(self):
        return self.host.run("test", "-e", REACHED, check=False).returncode == 0

    def release(self):
        """What was held goes on; the plan is used up."""
        self.host.run("rm", "-f", REACHED, PLAN)

    def note(self, wrong, text):
        """What a fault itself saw to be wrong."""
        if wrong:
            self.notes.append(text)

    def unit(self, generation):
        return f"stillframe-{SERVICE}-s0-g{generation}.service"

    def aim(self, command):
        """Which command the next fault is for; the label that is to serve after it."""
        self.command = command
        if command in ("deploy", "upgrade", *CUT_OFF):
            return self.other_label()
        if command == "copy":
            self.fresh += 1
            label = f"fresh-{self.fresh}"
            self.place.snapshot(label=label, mark=label)
            return label
        if command == "prepare":
            self.beta.sh("systemctl disable --quiet stillframe.service; rm -rf /etc/systemd/system/stillframe.service /var/lib/stillframe "
                         "/nix/var/nix/gcroots/stillframe; systemctl daemon-reload; sync", check=False)
        return self.mark()

    def begin(self, target):
        if self.command == "boot":
            self.alpha.reboot()
            return None
        if self.command in CUT_OFF:
            return self._cut_off(target)
        if self.command == "retention":
            return self.place.start("--json", "retention")
        if self.command == "prepare":
            return self.place.start("host", "prepare", "--yes", cwd=self.third)
        agent = {"STILLFRAME_AGENT": self.other_agent} if self.command == "upgrade" else {}
        return self.place.start("--json", "deploy", "--snapshot", target, "--again", **agent)

    def _cut_off(self, target):
        """A deployment whose host loses its power; what was planned is for the boot after that."""
        folder = self.alpha.dir / "upper" / FOLDER[1:]
        later = {name: (folder / name).read_text() for name in ("plan", "seen") if (folder / name).exists()}
        place, nth, when = CUT_OFF[self.command].split()
        self.arm(Step("deploy", place, int(nth), when), "hang")
        process = self.place.start("--json", "deploy", "--snapshot", target, "--again")
        assert self.wait(self.reached), f"the deployment was not held: {process.poll()}"
        self.alpha.power_loss()
        (folder / "reached").unlink()
        # It is off, so that this folder is nobody's.
        for name, text in later.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o666)
        self.alpha.boot()
        self.alpha.wait_ready()
        return process

    def wait(self, what, limit=60):
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            if found := what():
                return found
            time.sleep(0.05)
        return None

    def other_label(self):
        return "two" if self.mark() == "one" else "one"

    def steps(self):
        """Every place of each command without a fault, in their order."""
        found = []
        for command, is_looked_at in COMMANDS.items():
            target = self.aim(command)
            self.host.sh(f": >{SEEN} && chmod 666 {SEEN}")
            process = self.begin(target)
            if process is not None:
                out, err, code = wait_process(process)
                assert code == 0 or command in CUT_OFF, f"{command}: {out}{err}"
            assert command == "prepare" or self.wait(self.settled), f"{command}: the host does not settle"
            lines = [line.split() for line in self.host.sh(f"cat {SEEN}; rm -f {SEEN}").stdout.splitlines()]
            seen = {}
            for of, place, when in lines:
                if of != scope(place) or not is_looked_at(place):
                    continue
                nth = seen[place, when] = seen.get((place, when), 0) + 1
                if nth == 1 or "/" not in place and place not in LOOPS:
                    found.append(Step(command, place, nth, when))
            wrong = self.again(target)
            assert not wrong, wrong
        return found

    # --- the oracle

    def settled(self):
        """Whether both services are at rest: nothing under way, all instances ready."""
        for entry in self.place.run("status", "--json", code=None).json["hosts"]:
            services = entry.get("view", {}).get("services", [])
            return len(services) == 1 and all(s["ready"] == 1 and s["deployment"] is None for s in services) \
                and self.state().get("pending", 0) is None and self.mark(OTHER_PORT) == OTHER
        return False

    def judge(self, before, target, code=None, forgiven=False, hashes=False, recorded=True):
        """What is wrong, as lines; none: all is as it must be. `code`: of the command, where it could still say one. `forgiven`: requests
        may have failed, because the gateway itself was down. `recorded`: the command was a deployment, which has a record."""
        wrong, self.notes = self.notes, []

        def check(right, *what):
            if not right:
                wrong.append(" ".join(map(str, what)))
        if not self.wait(self.settled, SETTLE):
            check(False, f"not at rest after {SETTLE} s: {self.place.run('status', code=None).out}")
            return wrong
        state = self.state()
        serving = state["serving"]
        mark = self.mark()
        check(mark in (before, target), f"the port answers {mark}, not {before} or {target}")
        check(self.mark(OTHER_PORT) == OTHER, f"the other port answers {self.mark(OTHER_PORT)}")
        own = state["generations"][str(serving)]["wanted"]["snapshot"]
        labels = {r.get("label"): r["snapshot"] for r in self.place.run("snapshots", "list", "--json").json["snapshots"]}
        check(labels.get(mark) == own, f"the state names {own}, and {mark} answers")
        check(self.alpha.sh(f"readlink /nix/var/nix/profiles/stillframe-{SERVICE}").stdout.strip() == f"stillframe-{SERVICE}-{serving}-link",
              "the profile is another generation's")
        self._leftovers(check, serving, self.state(OTHER)["serving"])
        made = list(self.pictures.items())
        # The newest, and some of the older ones.
        for picture, content in made[-5:] + made[:-5:20]:
            got = self.place.local("alpha", f"/view?filename={picture}&type=output", check=False)
            check(content in got, f"the picture {picture} is gone: {got[:80]}")
        record = self.place.history()[0]
        outcome = record["events"][-1].get("outcome")
        check(outcome is not None, "the newest record has no outcome")
        if outcome is not None and recorded:
            succeeded = outcome["status"] == "succeeded"
            check(succeeded == (mark == target), f"the record says {outcome['status']}, and {mark} serves")
            check(outcome.get("generation") == serving, f"the record names generation {outcome.get('generation')}, {serving} serves")
            if code is not None:
                check((code == 0) == succeeded, f"status {code}, and the record says {outcome['status']}")
        if hashes:
            paths = self.alpha.sh(f"nix-store -qR {own} | xargs nix-store --verify-path", check=False)
            check(paths.returncode == 0, f"wrong store paths: {paths.stderr}")
        if not forgiven:
            for line in self.failures:
                check(False, f"a request failed: {line}")
        return wrong

    def _leftovers(self, check, serving, other):
        """Everything on the host that has a generation's name is that of one that serves."""
        ids = {SERVICE: f"s0-g{serving}", OTHER: f"s0-g{other}"}
        found = self.alpha.sh("cd /run/systemd/system && ls -d stillframe-*-s*-g*.service; true").stdout.split()
        check(sorted(found) == sorted(f"stillframe-{name}-{id}.service" for name, id in ids.items()), "unit files:", found)
        units = self.alpha.sh("systemctl list-units --all --plain --no-legend 'stillframe-*'").stdout.splitlines()
        running = [line.split()[0] for line in units if "-s0-g" in line or "-activation-" in line]
        check(sorted(running) == sorted(f"stillframe-{name}-{id}.service" for name, id in ids.items()), "units:", running)
        for name, id in ids.items():
            for folder in (f"/var/lib/private/stillframe-slots/{name}", f"/run/stillframe-instances/{name}"):
                there = self.alpha.sh(f"ls {folder}").stdout.split()
                check(there == [id], f"{folder}:", there)
            files = self.alpha.sh(f"ls /run/stillframe/{name}").stdout.split()
            check(sorted(files) == sorted(["gateway.json", f"{id}.json"]), f"/run/stillframe/{name}:", files)
        links = self.alpha.sh(f"ls /nix/var/nix/profiles | grep '^stillframe-{SERVICE}-'").stdout.split()
        kept = self.state()["generations"]
        check(sorted(links) == sorted(f"stillframe-{SERVICE}-{n}-link" for n in kept), "links:", links)
        mounts = self.alpha.sh("grep -c stillframe-data /proc/self/mounts; true").stdout.strip()
        check(mounts == "0", f"{mounts} mounts")

    def deploy_cleanly(self, label):
        """The same command again must complete, whatever was before it."""
        done = Stream(self.place.run("--json", "deploy", "--snapshot", label, "--again", code=None))
        return [] if done.code == 0 and self.mark() == label else [f"the same command again: status {done.code}: {done.text[-2000:]}"]

    def again(self, target):
        """The command once more, without a fault; then the host is as the next one expects it."""
        self.host.sh(f"rm -f {FOLDER}/*")
        if self.command == "prepare":
            return self.prepare_cleanly()
        if self.command == "retention":
            done = self.place.run("retention", code=None)
            return [] if done.code == 0 else [f"the same command again: status {done.code}: {done.out}{done.err}"]
        if self.command == "upgrade":
            done = self.place.run("--json", "deploy", "--snapshot", target, "--again", code=None, STILLFRAME_AGENT=self.other_agent)
            wrong = [] if done.code == 0 else [f"the same command again: status {done.code}: {done.out[-2000:]}{done.err}"]
            # With the agent that the other commands bring.
            return wrong + self.deploy_cleanly(target)
        return self.deploy_cleanly(target)

    def prepare_cleanly(self):
        """The host is ready, and still is when its power fails right afterwards."""
        done = self.place.ws.stillframe("host", "prepare", "--yes", cwd=self.third, code=None)
        if done.code:
            return [f"the same command again: status {done.code}: {done.out}{done.err}"]
        self.beta.power_loss()
        self.beta.boot()
        self.beta.wait_ready()
        looked = self.place.ws.stillframe("host", "check", cwd=self.third, code=None)
        wrong = [] if looked.code == 0 else [f"after a power loss: {looked.out}{looked.err}"]
        served = self.beta.run("systemctl", "is-active", "stillframe.service", check=False).stdout.strip()
        return wrong + ([] if served == "active" else [f"the boot service is {served} after a power loss"])

    # --- guards of the agent, each of which can be taken out: the oracle must see that

    def guards(self):
        """By name, what a deployment is put through for each: it says what is wrong afterwards."""
        return dict(zip(GUARDS, (self._without_power, self._with_a_wrong_path, self._with_a_second)))

    def _take_out(self, guard):
        self.alpha.sh(f"echo '{guard}' >{FOLDER}/mutations")

    def _without_power(self, guard):
        """The power fails right after a deployment has succeeded."""
        target, before = self.aim("copy"), self.mark()
        self._take_out(guard)
        done = self.place.run("--json", "deploy", "--snapshot", target, code=None)
        self.alpha.power_loss()
        self.alpha.boot()
        self.alpha.wait_ready()
        # What is to be seen is what comes of the power loss, not a deployment that failed for another reason.
        assert done.code == 0, f"the deployment: status {done.code}: {done.err}"
        wrong = self.judge(before, target, done.code, True, True)
        return wrong + self._mended(self.again(target))

    def _with_a_wrong_path(self, guard):
        """A path that the store has already is something else, and nothing remembers that it was right."""
        target, before = self.aim("deploy"), self.mark()
        snapshots = {r.get("label"): r["snapshot"] for r in self.place.run("snapshots", "list", "--json").json["snapshots"]}
        self.place.run("host", "send", "--snapshot", target)
        self.alpha.sh(f"set -e; nix-store -qR {snapshots[before]} | sort >/tmp/serves; nix-store -qR {snapshots[target]} | sort >/tmp/comes; "
                      "paths=$(comm -13 /tmp/serves /tmp/comes | grep -v comfyui-snapshot); test -n \"$paths\"; file=$(find $paths -type f | head -n 1); "
                      "test -n \"$file\"; chmod u+w $file; echo >>$file; chmod u-w $file; rm -f /var/lib/stillframe/verified.json")
        self._take_out(guard)
        self.failures = []
        done = self.place.run("--json", "deploy", "--snapshot", target, "--again", code=None)
        wrong = self.judge(before, target, done.code, True, True)
        self.alpha.sh("rm -f /var/lib/stillframe/verified.json")
        return wrong + self._mended(self.again(target))

    def _with_a_second(self, guard):
        """The workstation is gone in the middle of an activation, and somebody else deploys."""
        target, before = self.aim("deploy"), self.mark()
        self.arm(Step("deploy", "table", 1, "before"), "hang")
        self._take_out(guard)
        wrong = []
        process = self.begin(target)
        try:
            assert self.wait(self.reached), "the activation was not held"
        finally:
            process.kill()
            process.communicate()
        self.alpha.sh("pkill -KILL -f 'stillframe-agent [o]rder'", check=False)
        second = self.place.start("--json", "deploy", "--snapshot", before, "--again")
        try:
            second.communicate(timeout=SETTLE)
            if second.returncode == 0:
                wrong.append("a second deployment went through beside the first")
        except subprocess.TimeoutExpired:
            wrong.append("a second deployment was let in beside the first")
            second.kill()
            second.communicate()
        self.release()
        self.wait(self.settled, SETTLE)
        if self.mark() != target and not wrong:
            wrong.append(f"{self.mark()} serves, and the first deployment brought {target}")
        return wrong + self._mended(self.again(target))

    def _mended(self, wrong):
        """Without the guard's absence the next deployment mends what it did."""
        if wrong:
            raise AssertionError(f"not mended by the next deployment: {wrong}")
        return []

    # --- one cell of the matrix

    def cell(self, step, fault):
        """What is wrong after `fault` came at `step`; none if all is well."""
        target = self.aim(step.command)
        before = self.mark()
        if self.command != "prepare":
            self.paint()
        serving = self.state()["serving"]
        self.arm(step, fault.act)
        load = Load(self.alpha, PORT)
        process = self.begin(target)
        code = None

        def over():
            # A host that loses its power comes to the step without its workstation.
            return process is not None and process.poll() is not None and self.command not in CUT_OFF
        try:
            if not self.wait(lambda: self.reached() or over()) or not self.reached():
                said = process.communicate(timeout=1)[:2] if over() else ""
                return [f"the step was not reached: {said}"]
            fault.strike(self, process, serving)
            if process is not None:
                out, err, code = wait_process(process, 240)
            self.release()
        finally:
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
            if self.command != "prepare":
                self.wait(self.settled, SETTLE)
            self.failures = load.end()
        # A host that loses its power may still have said that its disk fails.
        code = code if step.command in fault.tells and step.command not in CUT_OFF else None
        if self.command == "prepare":
            wrong, self.notes = self.notes, []
            if code == 0 and self.place.ws.stillframe("host", "check", cwd=self.third, code=None).code:
                wrong.append("status 0, and the host is not ready")
            return wrong + self.again(target)
        deploys = self.command in ("deploy", "copy", "upgrade", *CUT_OFF)
        was_down = self.command in ("boot", *CUT_OFF)
        wrong = self.judge(before, target, code if deploys else None, fault.forgives or was_down, fault.hashes, deploys)
        return wrong + self.again(target)
