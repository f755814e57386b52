"""The gateway owns the jobs: what it accepted runs once and to its end, whatever dies, and its client sees one service."""
import json
import time
import uuid

import jobchaos
import owned
import service

SECONDS = 300


def graph(seconds=0.2, prefix="x"):
    return {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}},
            "2": {"class_type": "Save", "inputs": {"filename_prefix": prefix, "images": ["1", 0]}}}


class Jobs(service.Case):
    jobs = owned.OWNED
    slots = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.owned = owned.Owned(cls.place, cls.slots)
        cls.owned.configure(text=cls.jobs)
        cls.place.deploy("--label", "one", mark="one")

    def post(self, prompt, code=200, **more):
        body = json.dumps({"prompt": prompt, **more})
        answer = self.place.local("alpha", "/prompt", "-X", "POST", "-H", "Content-Type: application/json", "-d", body, "-w", "\n%{http_code}")
        text, _, status = answer.rpartition("\n")
        self.assertEqual(int(status), code, text)
        return json.loads(text)

    def get(self, path, *arguments):
        return json.loads(self.place.local("alpha", path, *arguments))

    def send(self, path, body):
        return self.place.local("alpha", path, "-X", "POST", "-d", json.dumps(body), "-w", "%{http_code}")

    def ended(self, job, limit=60):
        return self.wait(lambda: self.get(f"/history/{job}").get(job), limit)

    def clients(self, *arguments):
        process = self.owned.clients(*arguments)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def outcome(self, process, limit=400):
        out, _ = process.communicate(timeout=limit)
        return json.loads(out)

    def all_ended(self, seen, count):
        """Every job ended well for its client, and none ran again after it had ended well."""
        self.assertEqual(seen["failures"], [])
        self.assertEqual(len(seen["jobs"]), count)
        self.assertEqual({job["status"] for job in seen["jobs"].values()}, {"success"})
        files = [name for job in seen["jobs"].values() for name in job["files"]]
        self.assertEqual(len(files), len(set(files)), "a picture was overwritten")
        runs = self.runs()
        self.assertEqual(self.owned.twice(), ([], 0))
        self.assertEqual([job for job in seen["jobs"] if runs.get(job) != 1], [])

    def runs(self):
        return self.owned.successes()


class OneService(Jobs):
    def test_a_job_in_every_view(self):
        prompt, job = graph(0.1, "views"), str(uuid.uuid4())
        answer = self.post(prompt, client_id="me", prompt_id=job, extra_data={"extra_pnginfo": {"workflow": {"id": "flow"}}})
        self.assertEqual((answer["prompt_id"], answer["node_errors"]), (job, {}))
        entry = self.ended(job)
        self.assertEqual(entry["prompt"][1:3], [job, prompt])
        self.assertEqual(entry["prompt"][3]["client_id"], "me")
        self.assertEqual(entry["status"]["status_str"], "success")
        name = entry["outputs"]["2"]["images"][0]["filename"]
        self.assertIn(job, self.place.local("alpha", f"/view?filename={name}"))
        self.assertIn(job, self.get("/history"))
        self.assertEqual(self.get("/prompt"), {"exec_info": {"queue_remaining": 0}})
        self.assertEqual(self.get("/queue"), {"queue_running": [], "queue_pending": []})
        listed = self.get("/api/jobs?workflow_id=flow")
        self.assertEqual([(j["id"], j["status"]) for j in listed["jobs"]], [(job, "completed")])
        one = self.get(f"/api/jobs/{job}")
        self.assertEqual((one["status"], one["outputs_count"]), ("completed", 1))
        # The same request again has the same answer, and runs no second time.
        again = self.post(prompt, client_id="me", prompt_id=job, extra_data={"extra_pnginfo": {"workflow": {"id": "flow"}}})
        self.assertEqual(again["prompt_id"], job)
        self.assertEqual(self.runs()[job], 1)
        conflict = self.post(graph(0.2, "other"), code=409, client_id="me", prompt_id=job)
        self.assertEqual(conflict["error"]["type"], "prompt_id_conflict")

    def test_what_an_instance_would_refuse_is_refused(self):
        refused = self.post({"1": {"class_type": "NoSuchNode", "inputs": {}}}, code=400)
        self.assertIn("error", refused)
        self.assertEqual(self.get("/prompt")["exec_info"]["queue_remaining"], 0)
        for body, kind in (('{"prompt"', "invalid_json"), ("{}", "no_prompt"), ('{"prompt": {}, "prompt_id": "x"}', "invalid_prompt_id")):
            answer = json.loads(self.place.local("alpha", "/prompt", "-X", "POST", "-d", body))
            self.assertEqual(answer["error"]["type"], kind)

    def test_two_instances_share_the_queue(self):
        jobs = [self.post(graph(1.0, f"share{n}"), client_id="share")["prompt_id"] for n in range(6)]
        queue = self.wait(lambda: (q := self.get("/queue")) and len(q["queue_running"]) == 2 and q)
        self.assertEqual(len(queue["queue_running"]) + len(queue["queue_pending"]), 6)
        for job in jobs:
            self.assertEqual(self.ended(job)["status"]["status_str"], "success")

    def test_each_job_finds_its_own_picture_under_its_name(self):
        # Of one prefix, made by two instances at the same time.
        jobs = [self.post(graph(0.3, "same"), client_id=f"v{n}")["prompt_id"] for n in range(8)]
        names = set()
        for job in jobs:
            [image] = [image for node in self.ended(job)["outputs"].values() for image in node.get("images", [])]
            names.add(image["filename"])
            picture = self.place.local("alpha", f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type=output")
            self.assertIn(f" {job}", picture, image)
        self.assertEqual(len(names), len(jobs))
        self.assertGreater(len({name.split("_")[0] for name in names}), 1)

    def test_cancel_what_waits_and_what_runs(self):
        blockers = [self.post(graph(3.0), client_id="c")["prompt_id"] for _ in range(4)]
        waits = self.post(graph(0.1), client_id="c")["prompt_id"]
        self.assertEqual(self.send(f"/api/jobs/{waits}/cancel", {}), '{"cancelled":true}200')
        self.assertEqual(self.get(f"/api/jobs/{waits}")["status"], "cancelled")
        running = self.wait(lambda: self.get("/queue")["queue_running"])[0][1]
        self.assertEqual(self.send("/interrupt", {"prompt_id": running}), "200")
        self.assertEqual(self.wait(lambda: (j := self.get(f"/api/jobs/{running}"))["status"] not in ("pending", "in_progress") and j)["status"], "cancelled")
        self.assertEqual(self.send("/queue", {"clear": True}), "200")
        for job in blockers:
            self.ended(job)
        self.assertEqual(self.send(f"/api/jobs/{uuid.uuid4()}/cancel", {}), '{"cancelled":false}200')
        self.assertEqual(self.runs().get(waits), None)

    def test_the_command(self):
        job = self.post(graph(0.1, "command"), client_id="cli")["prompt_id"]
        self.ended(job)
        listed = self.place.run("jobs", "--json").json
        self.assertIn(job, json.dumps(listed))
        shown = self.place.run("jobs", "show", job).out
        self.assertIn(job, shown)
        self.assertIn("succeeded", shown)
        self.place.run("jobs", "requeue", job)
        self.wait(lambda: self.runs().get(job) == 2)
        exported = self.place.run("jobs", "export").out
        self.assertIn(job, {json.loads(line)["id"] for line in exported.splitlines()})


class Deaths(Jobs):
    def test_an_instance_is_killed_while_it_runs_a_job(self):
        job = self.post(graph(2.0, "killed"), client_id="k")["prompt_id"]
        where = self.wait(lambda: [r for r in self.place.run("jobs", "--json", "--state", "running").json["hosts"][0]["jobs"] if r["id"] == job])[0]
        self.owned.kill_instance(int(where["instance"][1]))
        self.assertEqual(self.ended(job)["status"]["status_str"], "success")
        self.assertEqual(self.runs()[job], 1)
        [tried] = json.loads(self.place.run("jobs", "show", job, "--json").out)["hosts"][0]["job"]["tries"]
        self.assertEqual(tried["reason"]["kind"], "instance-died")

    def test_the_gateway_is_killed_with_a_full_queue(self):
        clients = self.clients("--clients", "4", "--jobs", "8", "--seconds", "0.3")
        for _ in range(3):
            time.sleep(2)
            self.owned.kill_gateway()
        self.all_ended(self.outcome(clients), 32)

    def test_a_cancel_outlives_the_gateway(self):
        job = self.post(graph(8.0), client_id="c")["prompt_id"]
        where = self.wait(lambda: [r for r in self.place.run("jobs", "--json", "--state", "running").json["hosts"][0]["jobs"] if r["id"] == job])[0]
        unit = f"stillframe-demo-{where['instance']}.service"
        # Its instance hears nothing of it before the gateway is gone.
        self.alpha.run("systemctl", "kill", "--signal=STOP", unit)
        self.addCleanup(self.alpha.run, "systemctl", "kill", "--signal=CONT", unit)
        self.assertEqual(self.send(f"/api/jobs/{job}/cancel", {}), '{"cancelled":true}200')
        self.owned.kill_gateway()
        self.alpha.run("systemctl", "kill", "--signal=CONT", unit)
        self.assertEqual(self.wait(lambda: (j := self.get(f"/api/jobs/{job}"))["status"] not in ("pending", "in_progress") and j)["status"], "cancelled")
        self.assertNotIn(job, self.runs())

    def test_an_upgrade_of_the_gateway_with_a_full_queue(self):
        clients = self.clients("--clients", "4", "--jobs", "12", "--seconds", "0.4")
        time.sleep(2)
        process = self.owned.gateway_process()
        for number in range(2):
            # Another version of the agent: the same program with some bytes more.
            other = self.place.ws.root / f"other-agent-{number}"
            other.write_bytes(service.harness.AGENT.read_bytes() + bytes(number + 1))
            other.chmod(0o755)
            self.place.run("--json", "deploy", "--offline", "--label", f"upgraded{number}", STILLFRAME_AGENT=str(other))
        self.assertNotEqual(self.owned.gateway_process(), process)
        seen = self.outcome(clients)
        self.all_ended(seen, 48)
        self.assertEqual((seen["cuts"], seen["refused"]), ([], 0))
        self.assertEqual({job["heard"] for job in seen["jobs"].values()}, {"socket"})

    def test_a_power_loss(self):
        jobs = [self.post(graph(1.0, f"power{n}"), client_id="p")["prompt_id"] for n in range(6)]
        self.owned.power_loss()
        self.wait(lambda: (self.place.status() or {}).get('ready') == 2)
        for job in jobs:
            self.assertEqual(self.ended(job, 120)["status"]["status_str"], "success")
        self.assertEqual({job: self.runs().get(job) for job in jobs}, dict.fromkeys(jobs, 1))

    def test_a_deployment_does_not_wait_for_sockets_and_loses_no_job(self):
        clients = self.clients("--clients", "4", "--jobs", "12", "--seconds", "0.5")
        time.sleep(2)
        for label in ("two", "three"):
            before = time.monotonic()
            done = self.place.deploy("--label", label, mark=label)
            self.assertEqual(done.host()["status"], "succeeded")
            self.assertLess(time.monotonic() - before, 20)
        seen = self.outcome(clients)
        self.all_ended(seen, 48)
        self.assertEqual(seen["cuts"], [], "a WebSocket was cut by a deployment")
        self.assertEqual({job["heard"] for job in seen["jobs"].values()}, {"socket"})

    def test_what_still_runs_at_the_drain_limit_waits_again(self):
        self.owned.configure(text=self.jobs, drain="1s")
        job = self.post(graph(25.0, "long"), client_id="d")["prompt_id"]
        self.wait(lambda: self.get("/queue")["queue_running"])
        self.assertEqual(self.place.deploy("--label", "drained", mark="drained").host()["status"], "succeeded")
        self.assertEqual(self.ended(job)["status"]["status_str"], "success")
        self.assertEqual(self.runs()[job], 1)
        [tried] = json.loads(self.place.run("jobs", "show", job, "--json").out)["hosts"][0]["job"]["tries"]
        self.assertEqual(tried["reason"]["kind"], "drained")


class Broken(Jobs):
    """Instances whose process cannot go on: it is ended, and the next one of its unit takes jobs."""
    jobs = owned.OWNED + 'stuck-after = "2s"\n'

    def fails(self, prompt, kind):
        job = self.post(prompt, extra_data={"stillframe": {"retry": False}})["prompt_id"]
        self.assertEqual(self.ended(job)["status"]["status_str"], "error")
        shown = json.loads(self.place.run("jobs", "show", job, "--json").out)["hosts"][0]["job"]
        self.assertEqual((shown["state"], shown["reason"]["kind"]), ("failed", kind))
        pids = lambda: {json.loads(self.place.instance("alpha", one["id"], "/system_stats"))["system"]["pid"] for one in self.place.status()["instances"]}  # noqa: E731
        self.wait(lambda: self.place.status()["ready"] == 2)
        after = [self.post(graph(0.1), client_id=f"b{n}")["prompt_id"] for n in range(4)]
        self.assertEqual([self.ended(other)["status"]["status_str"] for other in after], ["success"] * 4)
        return pids()

    def test_one_that_is_stuck_or_has_lost_its_gpu(self):
        freezes = {"1": {"class_type": "Freeze", "inputs": {"seconds": 3600}}, "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}}
        first = self.fails(freezes, "instance-stuck")
        broken = {"1": {"class_type": "Fail", "inputs": {"type": "torch.AcceleratorError", "message": "CUDA error: unspecified launch failure"}},
                  "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}}
        second = self.fails(broken, "gpu-failed")
        self.assertEqual((len(first), len(second), len(first & second)), (2, 2, 1), "one process is another one")
        said = self.alpha.sh("journalctl --no-pager -o cat | grep -c 'ended by the gateway: ' || true").stdout
        self.assertEqual(int(said), 2)


class Everything(Jobs):
    """A sample of `make chaos`."""

    def test_deployments_rollbacks_and_deaths_under_jobs(self):
        plan = jobchaos.Plan(clients=6, jobs=150, deployments=4, rollbacks=1, instances=4, gateways=3, powers=1, upgrades=1, limit=300)
        chaos = jobchaos.Chaos(self.owned, plan, say=lambda text: print(text, flush=True))
        chaos.prepare()
        self.assertEqual(chaos.run(), [])
        print(chaos.figures, flush=True)
        self.assertEqual(chaos.figures["jobs"], 150)
