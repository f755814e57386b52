"""Many requests of many clients to a service of many instances: whatever a client is answered is its own, and was made where its job ran
(`crowd.py`). The same code runs small in `make test` and whole in `make chaos`."""
import json
import time
from collections import Counter
from typing import NamedTuple

from service import wait_process


class Plan(NamedTuple):
    clients: int = 50
    requests: int = 10000
    slots: int = 8
    #: After which no client asks any more: seconds.
    limit: int = 1200


class Routed:
    def __init__(self, owned, plan, say=lambda text: None):
        self.owned, self.plan, self.say, self.figures = owned, plan, say, {}

    def prepare(self):
        self.owned.place.snapshot("routed", mark="routed")
        self.owned.place.run("--json", "deploy", "--snapshot", "routed", "--again")

    def run(self):
        """What is wrong, as lines; none: all is as it must be."""
        began = time.monotonic()
        clients = self.owned.clients("--clients", self.plan.clients, "--requests", self.plan.requests, "--limit", self.plan.limit, program="crowd.py")
        try:
            out, _, code = wait_process(clients, self.plan.limit + 120)
        finally:
            if clients.poll() is None:
                clients.kill()
                clients.communicate()
        if code:
            return [f"the clients ended with {code}"]
        seen = json.loads(out)
        wrong = [f"misrouted: {line}" for line in seen["misrouted"]] + [f"failed: {line}" for line in seen["failures"]]
        # By the instances' own records.
        runs, jobs = [run for run in self.owned.runs() if run.job in seen["jobs"]], seen["jobs"]
        elsewhere = [f"misrouted: the picture of {run.job} is of {jobs[run.job]['process']}, and it ran at {run.process}"
                     for run in runs if run.status == "success" and jobs[run.job]["process"] not in (None, run.process)]
        twice = [f"{job} ran {count} times" for job, count in Counter(run.job for run in runs).items() if count > 1]
        busy = Counter(run.process for run in runs)
        if len(busy) != self.plan.slots:
            wrong.append(f"jobs ran at {len(busy)} instances, not {self.plan.slots}")
        asked = sum(seen["count"].values())
        if asked < self.plan.requests:
            wrong.append(f"{asked} requests within {self.plan.limit} s, not {self.plan.requests}")
        self.figures.update(requests=asked, **seen["count"], jobs_ended=Counter(job["status"] for job in jobs.values()), runs_at_each=sorted(busy.values()),
                            misrouted=len(seen["misrouted"]) + len(elsewhere), failed=len(seen["failures"]), ran_twice=len(twice),
                            seconds=round(time.monotonic() - began))
        return wrong + elsewhere + twice
