"""Guards of the jobs, each of which a gateway with fault points does without when it is told to (`src/sys/fault.rs`). What a guard is for is done to
the service without it: the clients, or the instances' own records, must say that something is wrong."""
import json
import threading
import uuid

import jobchaos
import oracle
import owned
import service

#: What `tests/faults.py --mutations` takes out of the gateway, one after the other: the claim of a job for one instance, the record of which
#: instance has it, the turn of one request for an id, the sync of the journal, and that of what a job put out.
GUARDS = ["jobs-claim", "jobs-record", "jobs-id", "jobs-sync", "jobs-files"]
#: The journal of the service's gateway, which has a user of its own.
DATABASE = "/var/lib/private/stillframe-gateway/demo/jobs.sqlite"
#: So many ask for the same job at the same moment.
TOGETHER = 8
#: A client does not wait for longer for what never comes: seconds.
LIMIT = 60
QUIET = jobchaos.Plan(clients=6, jobs=48, deployments=0, rollbacks=0, instances=0, gateways=0, powers=0, upgrades=0, limit=LIMIT)


class Guards:
    """A host whose gateway owns the jobs."""

    def __init__(self):
        self.place = service.Place(prepare=False)
        try:
            self.owned = owned.Owned(self.place)
            self.owned.configure()
            self.owned.alpha.sh(f"mkdir -p {oracle.FOLDER} && chmod 777 {oracle.FOLDER}")
            self.place.run("host", "prepare", "--yes")
            jobchaos.Chaos(self.owned, QUIET).prepare()
        except BaseException:
            self.place.down()
            raise

    def down(self):
        self.place.down()

    def guards(self):
        """By name, what is done to the service for each: it says what is wrong afterwards."""
        return dict(zip(GUARDS, (
            lambda guard: self._chaos(guard, QUIET._replace(limit=30)),
            lambda guard: self._chaos(guard, QUIET._replace(gateways=10, seconds=0.2)),
            self._same_id,
            lambda guard: self._chaos(guard, QUIET._replace(powers=2)),
            lambda guard: self._chaos(guard, QUIET._replace(powers=2)))))

    def _take_out(self, guard):
        """A gateway opens its database once."""
        self.owned.alpha.sh(f"rm -f {oracle.FOLDER}/*; echo '{guard}' >{oracle.FOLDER}/mutations; sync")
        self.owned.kill_gateway()

    def _chaos(self, guard, plan):
        self._take_out(guard)
        chaos = jobchaos.Chaos(self.owned, plan, seed=guard or "none", aimed=True)
        wrong = chaos.run()
        self._put_back()
        return wrong

    def _put_back(self):
        """What a gateway has done without its guard is nobody's affair any more: the next one begins with no jobs."""
        self.owned.alpha.sh(f"systemctl stop {owned.GATEWAY}; rm -rf {oracle.FOLDER}/* {DATABASE}*; systemctl start {owned.GATEWAY}")

    def _same_id(self, guard):
        """A client that asks again while its first request is still under way has the same answer, and its job runs once."""
        self._take_out(guard)
        answers, job = [], str(uuid.uuid4())
        body = json.dumps({"prompt": {"1": {"class_type": "Save", "inputs": {"filename_prefix": "same"}}}, "prompt_id": job, "client_id": "same"})

        def ask():
            answers.append(self.place.local("alpha", "/prompt", "-d", body))
        asking = [threading.Thread(target=ask) for _ in range(TOGETHER)]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
        self._put_back()
        different = sorted(set(answers))
        if len(different) == 1 and job in different[0]:
            return []
        return [f"{TOGETHER} requests for one job have different answers: {different}"]
