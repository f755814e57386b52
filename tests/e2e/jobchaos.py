"""Everything that can end a job's instance, gateway or host, in an order that a seed gives, while clients go on asking for jobs: and what came of
every job. Nothing of it knows how the gateway does it. The same code runs small in `make test`, whole in `make chaos`, and with guards of the
gateway taken out in `tests/faults.py --mutations`."""
import json
import random
import threading
import time
from typing import NamedTuple

import harness
import oracle
from service import SERVICE, wait_process

#: A host is to be at rest again within so long: seconds.
SETTLE = 90
#: Places in the gateway at which a job changes hands, where an agent has them (`src/gateway/jobs`).
PLACES = ["jobs/told", "jobs/ended", "jobs/recorded", "jobs/accepted"]
#: Between two jobs, in seconds: an event with its share of the jobs takes about five.
PACE = 0.2
#: A gateway that is held at such a place is killed so long after: what it has given away ends meanwhile.
HELD = 1.0


class Plan(NamedTuple):
    """How much of what."""
    clients: int = 20
    jobs: int = 1000
    deployments: int = 20
    rollbacks: int = 5
    instances: int = 20
    gateways: int = 10
    powers: int = 2
    upgrades: int = 1
    slots: int = 2
    seconds: float = 0.3
    #: After which a client no longer waits for what it has asked for.
    limit: int = 1800

    def events(self, seed):
        """In their order. A rollback needs something to go back to, and an upgrade has clients before and after it."""
        counts = {"deployment": self.deployments - 1, "rollback": self.rollbacks, "instance": self.instances, "gateway": self.gateways,
                  "power": self.powers}
        names = [name for name, count in counts.items() for _ in range(count)]
        random.Random(seed).shuffle(names)
        names = ["deployment"] * (self.deployments > 0) + names
        middle = len(names) // 2
        return names[:middle] + ["upgrade"] * self.upgrades + names[middle:]


class Chaos:
    """One run of a plan. `aimed`: the agent has fault points, and every second kill of the gateway comes where a job changes hands."""

    def __init__(self, owned, plan, seed="jobs", aimed=False, say=lambda text: None):
        self.owned, self.place, self.plan, self.aimed, self.say = owned, owned.place, plan, aimed, say
        self.random, self.events = random.Random(f"{seed} more"), plan.events(seed)
        self.wrong, self.figures, self.number, self.kills = [], {}, 0, 0
        self.labels = ["red", "blue"]

    def prepare(self):
        """Two snapshots to change between, and another version of the agent: the same program with some bytes more."""
        for label in self.labels:
            self.place.snapshot(label, mark=label)
        self.place.run("--json", "deploy", "--snapshot", self.labels[0], "--again")
        self.other = self.place.ws.root / f"other-agent-{time.monotonic_ns()}"
        self.other.write_bytes(harness.AGENT.read_bytes() + bytes(self.random.randrange(1, 1 << 16)))
        self.other.chmod(0o755)

    def run(self):
        """What is wrong, as lines; none: all is as it must be."""
        plan, began = self.plan, time.monotonic()
        clients = self.owned.clients("--paced", "--clients", plan.clients, "--jobs", -(-plan.jobs // plan.clients), "--seconds", plan.seconds,
                                     "--limit", plan.limit, "--prefix", "one name", "--uploads", stdin=-1)
        share, self.allowed, over = plan.jobs / max(1, len(self.events)), 0.0, threading.Event()
        pacing = threading.Thread(target=self._pace, args=[clients, over])
        pacing.start()
        try:
            for at, event in enumerate(self.events):
                # Each event has its share of the jobs, which are asked for before it, in it and after it.
                self.allowed = share * (at + 1)
                time.sleep(self.random.uniform(0.2, 1.0))
                started = time.monotonic()
                getattr(self, event)()
                self.say(f"{time.monotonic() - began:6.0f} s  {at + 1} of {len(self.events)}: {event}, {time.monotonic() - started:.1f} s")
            over.set()
            pacing.join()
            out, _, code = wait_process(clients, plan.limit + 60)
        finally:
            over.set()
            pacing.join()
            if clients.poll() is None:
                clients.kill()
                clients.communicate()
        self._check(code == 0, f"the clients ended with {code}")
        if code == 0:
            self._judge(json.loads(out))
        self.figures["seconds"] = round(time.monotonic() - began)
        return self.wrong

    def _pace(self, clients, over):
        """One job after the other, so that some are being asked for at any time."""
        told = 0
        while not over.wait(PACE):
            if told < self.allowed:
                told += 1
                try:
                    clients.stdin.write(f"{told}\n")
                    clients.stdin.flush()
                except BrokenPipeError:
                    # They have ended early, and say why.
                    return

    def _check(self, right, text):
        if not right:
            self.wrong.append(text)
            self.say(f"WRONG {text}")

    # --- events

    def deployment(self):
        self._deploy()

    def upgrade(self):
        """The gateway's program is another one from here on."""
        before = self.owned.gateway_process()
        self._deploy(STILLFRAME_AGENT=self.other)
        self._check(self.owned.gateway_process() != before, "the gateway was not upgraded")

    def _deploy(self, **environment):
        self.number += 1
        done = self.place.run("--json", "deploy", "--snapshot", self.labels[self.number % 2], "--again", code=None, **environment)
        self._check(done.code == 0, f"a deployment ended with {done.code}: {done.out[-1500:]}{done.err[-500:]}")

    def rollback(self):
        done = self.place.run("rollback", code=None)
        self._check(done.code == 0, f"a rollback ended with {done.code}: {done.out[-1500:]}{done.err[-500:]}")

    def instance(self):
        """Every third while a deployment is under way, which may then be reverted."""
        self.kills += 1
        slot = self.random.randrange(self.owned.slots)
        if self.kills % 3:
            return self.owned.kill_instance(slot)
        after = threading.Timer(self.random.uniform(1, 3), self.owned.kill_instance, [slot])
        after.start()
        self.place.run("--json", "deploy", "--snapshot", self.labels[0], "--again", code=None)
        after.join()

    def gateway(self):
        self.number += 1
        if self.aimed and self.number % 2:
            self._hold(PLACES[self.number // 2 % len(PLACES)])
        self.owned.kill_gateway()
        self.owned.alpha.sh(f"rm -f {oracle.PLAN} {oracle.REACHED}")

    def _hold(self, place):
        """Until a job comes to that place, where its gateway goes no further."""
        self.owned.alpha.sh(f"rm -f {oracle.REACHED}; echo '{SERVICE} {place} * at hang' >{oracle.PLAN}.new && mv {oracle.PLAN}.new {oracle.PLAN}")
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if self.owned.alpha.run("test", "-e", oracle.REACHED, check=False).returncode == 0:
                time.sleep(HELD)
                return
            time.sleep(0.02)

    def power(self):
        self.owned.power_loss()
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            try:
                if self.owned.ready():
                    return
            except (AssertionError, KeyError, AttributeError):
                # It is on its way up, and does not answer yet.
                pass
            time.sleep(0.2)
        self._check(False, f"not at rest {SETTLE} s after a power loss")

    # --- what came of it

    def _judge(self, seen):
        jobs, failures = seen["jobs"], seen["failures"]
        for failure in failures:
            self._check(False, f"a client says: {failure}")
        self._check(len(jobs) == -(-self.plan.jobs // self.plan.clients) * self.plan.clients, f"{len(jobs)} jobs were accepted")
        failed = {job: entry.get("why") for job, entry in jobs.items() if entry.get("status") != "success"}
        for job, why in failed.items():
            # Three instances died under it: its client was told.
            self._check("it was tried" in json.dumps(why), f"{job} did not end well: {why}")
        names = [name for entry in jobs.values() for name in entry.get("files", [])]
        self._check(len(names) == len(set(names)), "two jobs have a picture of one name")
        twice, unheard = self.owned.twice({job: entry.get("ended") for job, entry in jobs.items()})
        for line in twice:
            self._check(False, line)
        successes = self.owned.successes()
        for job, entry in jobs.items():
            self._check(entry.get("status") != "success" or successes.get(job), f"{job} ended well and never ran")
        self.figures.update(
            jobs=len(jobs), ended_well=len(jobs) - len(failed), tries_used_up=len(failed), ran_again_unheard=unheard, runs=len(self.owned.runs()),
            heard_by_socket=sum(entry.get("heard") == "socket" for entry in jobs.values()), sockets_cut=len(seen["cuts"]), asked_again=seen["refused"],
            lost=sum(failure[0] in ("lost", "never ended", "no history after its end") for failure in failures), ran_twice=len(twice),
            pictures_gone=sum("picture" in failure[0] for failure in failures))
