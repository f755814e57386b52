"""What must hold on a host after any fault, written once: it serves exactly the old or exactly the new generation, each public port answers with
its own service's mark, nothing of any other generation is left, no picture is lost, and the record agrees with what serves.

`Two` is a host with two services under load, and commands that begin a deployment with a fault in it."""
import json
import subprocess
import sys
import time

import service
from service import PORT, SERVICE, Stream, wait_process

OTHER, OTHER_PORT = "other", 8288
#: Within so long of its last restart a host serves again.
SETTLE = 30
PLAN, REACHED, SEEN = "/run/stillframe-fault", "/run/stillframe-fault.reached", "/run/stillframe-effects"

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
    """Service `demo`, whose deployments have the faults, and service `other`, which must not notice."""

    def __init__(self):
        self.place = service.Place()
        self.pictures = {}
        try:
            self._prepare()
        except BaseException:
            self.place.down()
            raise

    def _prepare(self):
        place = self.place
        self.alpha = place.hosts.hosts[0]
        for label in ("one", "two"):
            place.snapshot(label=label, mark=label)
        place.deploy("--snapshot", "one")
        second = place.ws.root / "second"
        (second / "hosts").mkdir(parents=True)
        (second / "hosts" / "alpha.toml").write_text((place.project / "hosts" / "alpha.toml").read_text())
        text = (place.project / "stillframe.toml").read_text()
        (second / "stillframe.toml").write_text(text.replace(f'name = "{SERVICE}"', f'name = "{OTHER}"\nport = {OTHER_PORT}'))
        place.behave(mark=OTHER)
        place.ws.stillframe("--json", "deploy", "--offline", cwd=second)

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

    # --- a deployment with a fault in it

    def arm(self, effect, nth, when, act):
        self.alpha.sh(f"rm -f {REACHED} {PLAN}; echo '{SERVICE} {effect} {nth} {when} {act}' >{PLAN}.new && mv {PLAN}.new {PLAN}")

    def reached(self):
        return self.alpha.run("test", "-e", REACHED, check=False).returncode == 0

    def release(self):
        """The effect goes on; the plan is used up."""
        self.alpha.run("rm", "-f", REACHED, PLAN)

    def unit(self, generation):
        return f"stillframe-{SERVICE}-s0-g{generation}.service"

    def begin(self, label):
        return self.place.start("--json", "deploy", "--snapshot", label, "--again")

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
        """Every effect of a deployment without a fault, before and after it, in their order. The waits and looks of a loop come as often as
        the machine is slow: of those the first stands for all."""
        self.alpha.sh(f": >{SEEN}")
        assert not self.deploy_cleanly(self.other_label())
        self.wait(self.settled)
        lines = [line.split() for line in self.alpha.sh(f"cat {SEEN}; rm -f {SEEN}").stdout.splitlines()]
        seen, found = {}, []
        for name, effect in lines:
            seen[effect] = seen.get(effect, 0) + 1
            if name == SERVICE and (seen[effect] == 1 or effect not in ("wait", "look", "probe", "status", "queue", "journal")):
                found += [(effect, seen[effect], when) for when in ("before", "after")]
        return found

    # --- the oracle

    def settled(self):
        """Whether both services are at rest: nothing under way, all instances ready."""
        for entry in self.place.run("status", "--json", code=None).json["hosts"]:
            services = entry.get("view", {}).get("services", [])
            return len(services) == 1 and all(s["ready"] == 1 and s["deployment"] is None for s in services) \
                and self.state().get("pending", 0) is None and self.mark(OTHER_PORT) == OTHER
        return False

    def judge(self, before, target, code=None, forgiven=False, hashes=False):
        """What is wrong, as lines; none: all is as it must be. `code`: of the command, where it could still say one. `forgiven`: requests
        may have failed, because the gateway itself was down."""
        wrong = []

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
        if outcome is not None:
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

    # --- one cell of the matrix

    def cell(self, step, fault):
        """What is wrong after `fault` came at `step` of a deployment; none if all is well, None if the step was not reached."""
        effect, nth, when = step
        before, target = self.mark(), self.other_label()
        self.paint()
        serving = self.state()["serving"]
        self.arm(effect, nth, when, fault.act)
        load = Load(self.alpha, PORT)
        process = self.begin(target)
        try:
            if not self.wait(lambda: self.reached() or process.poll() is not None) or not self.reached():
                out, err, code = wait_process(process)
                return [f"the step was not reached: status {code}: {out[-500:]}{err[-500:]}"]
            fault.strike(self, process, serving)
            out, err, code = wait_process(process, 240)
            self.release()
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            self.wait(self.settled, SETTLE)
            self.failures = load.end()
        code = code if fault.tells else None
        wrong = self.judge(before, target, code, fault.forgives, fault.hashes)
        return wrong + self.deploy_cleanly(target)
