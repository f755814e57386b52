"""A host whose gateway owns the jobs: what ran there by the instances' own records, and how its processes are killed."""
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

OWNED = '[service.jobs]\nqueue = "gateway"\n'
GATEWAY = "stillframe-demo-gateway.service"
#: What ended so long before its instance was killed may not have been heard of by the gateway; and one that was killed itself takes so long to ask.
#: Milliseconds.
UNHEARD, RESTART = 2000, 10000


class Run(NamedTuple):
    """One job at one instance; `end` is None where nothing was written of it, and `status` says how it ended."""
    job: str
    process: str
    pid: int
    start: int
    end: int | None
    status: str | None


class Owned:
    def __init__(self, place, slots=2):
        self.place, self.slots = place, slots
        self.alpha = place.hosts.hosts[0]
        #: When which process was killed, by its number; None: all of them, with the host. Milliseconds.
        self.killed = []
        #: When the gateway was killed.
        self.deaf = []

    def configure(self, drain="20s", text=OWNED):
        self.place.configure(service=f"scaling = {{ minimum = {self.slots}, maximum = {self.slots} }}\nslots = {self.slots}", text=text, drain=drain)

    def ready(self):
        """All instances of the service are up and nothing is under way."""
        status = self.place.status()
        return status.get("ready") == self.slots and status.get("deployment") is None

    def clients(self, *arguments, program="jobclients.py", **options):
        command = ["ip", "netns", "exec", self.alpha.netns, sys.executable, Path(__file__).with_name(program), "http://127.0.0.1:8188", *arguments]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, **options)

    # --- what ran

    def log(self):
        """Every start and end of a run: job, process, event, time, status."""
        # Instances have names of each other's files: each file once.
        log = self.alpha.sh("find -L /var/lib/stillframe-data/ -name runs.log -printf '%i %p\\n' | sort -u -k1,1 | cut -d' ' -f2- | xargs -r cat").stdout
        return [json.loads(line) for line in log.splitlines()]

    def runs(self):
        """Every run, in the order of their starts."""
        runs, open_runs = [], {}
        for line in sorted(self.log(), key=lambda line: line["at"]):
            key = line["prompt_id"], line["process"]
            if line["event"] == "start":
                open_runs[key] = len(runs)
                runs.append(Run(line["prompt_id"], line["process"], line["pid"], line["at"], None, None))
            elif key in open_runs:
                at = open_runs.pop(key)
                runs[at] = runs[at]._replace(end=line["at"], status=line["status"])
        return runs

    def successes(self):
        """How often each job came to a good end."""
        counts = {}
        for run in self.runs():
            if run.status == "success":
                counts[run.job] = counts.get(run.job, 0) + 1
        return counts

    def death(self, run):
        """When the process of a run was killed, if it was."""
        return min((at for at, pid in self.killed if pid in (None, run.pid) and at >= run.start), default=None)

    def is_heard(self, run):
        """Whether a gateway that lives must have written down how a run ended, before its instance was killed."""
        death, until = self.death(run), run.end + UNHEARD
        for at in self.deaf:
            until = max(until, at + RESTART) if run.end - UNHEARD <= at <= until else until
        return death is None or death > until

    def twice(self, jobs=None):
        """What ran again after it had ended well, and what ran at two instances at the same time, as lines; and how many ran again because their
        instance was killed before the gateway can have heard of their end. `jobs`: id -> when its client knew of its end, in seconds, if it does;
        none: all."""
        wrong, unheard, of_job = [], 0, {}
        for run in self.runs():
            if jobs is not None and run.job not in jobs:
                continue
            for before in of_job.setdefault(run.job, []):
                if before.status == "success" and before.end <= run.start:
                    told = (jobs or {}).get(run.job)
                    if self.is_heard(before) or told is not None and told * 1000 < run.start:
                        wrong.append(f"{run.job} ran again after it had ended well: {before}, {run}; its client knew at {told}; killed: "
                                     f"{[at for at in self.killed if before.start <= at[0] <= run.start]}")
                    else:
                        unheard += 1
                # Of what was stopped without a word, nothing says until when it ran.
                until = min((at for at in (before.end, self.death(before)) if at is not None), default=before.start)
                if until > run.start:
                    wrong.append(f"{run.job} ran at two instances: {before}, {run}")
            of_job[run.job].append(run)
        return wrong, unheard

    # --- what is killed

    def kill_instance(self, slot=0):
        unit = next(name for name in self.place.units() if f"-s{slot}-g" in name)
        pid = self.alpha.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout.strip()
        self._kill(pid)

    def gateway_process(self):
        return self.alpha.run("systemctl", "show", "-p", "MainPID", "--value", GATEWAY).stdout.strip()

    def kill_gateway(self):
        self.deaf.append(int(time.time() * 1000))
        self._kill(self.gateway_process())

    def _kill(self, pid):
        if pid != "0":
            self.alpha.run("kill", "-9", pid, check=False)
            self.killed.append((int(time.time() * 1000), int(pid)))

    def power_loss(self):
        self.alpha.power_loss()
        self.killed.append((int(time.time() * 1000), None))
        self.alpha.boot()
        self.alpha.wait_ready()
