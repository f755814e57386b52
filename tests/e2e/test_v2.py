"""Comfy API v2 at the gateway: two stand-in instances and the agent's gateway on loopback, asked by hand and by Comfy's own SDK."""
import concurrent.futures
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import uuid
from pathlib import Path

import harness

SECONDS = 85
SHARES = {"network"}
BATCH = True

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "src" / "host" / "scripts"
AGENT = os.environ.get("STILLFRAME_AGENT") or harness.AGENT
#: What the shapes were read from; another version may want something else.
SDK = "0.5.0"
KEYS = ["first key", "second key"]
OVER = {"succeeded", "failed", "canceled", "expired"}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


def graph(seconds=0.1, prefix="v2", **more):
    return {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}},
            "2": {"class_type": "Save", "inputs": {"filename_prefix": prefix, "images": ["1", 0]}}, **more}


def loads(image, prefix="loaded"):
    return {"1": {"class_type": "Load", "inputs": {"image": image}},
            "2": {"class_type": "Save", "inputs": {"filename_prefix": prefix, "images": ["1", 0]}}}


def reference(asset):
    return {"__type": "core/ASSET", "info": {"id": asset}}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class V2(unittest.TestCase):
    keys = []
    rules = {"waiting": 1000, "waiting_per_client": 8}
    output = "output"

    @classmethod
    def setUpClass(cls):
        cls.place = Path(tempfile.mkdtemp(prefix="v2-"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        cls.log = (cls.place / "log").open("wb")
        cls.addClassCleanup(cls.log.close)
        cls.port = free_port()
        (cls.place / "input").mkdir()
        (cls.place / "jobs").mkdir()
        cls.programs = {}
        cls.instances = [cls.instance(n) for n in range(2)]
        cls.settings()
        cls.start()

    @classmethod
    def process(cls, *command, **environment):
        process = subprocess.Popen(list(map(str, command)), stdout=cls.log, stderr=cls.log, env={**os.environ, **environment})
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.kill)
        return process

    @classmethod
    def instance(cls, n):
        """Inputs and outputs are one folder for all, as on a host."""
        program, socket_file = cls.place / f"program{n}", cls.place / f"{n}.sock"
        shutil.copytree(ROOT / "tests" / "fixtures" / "service", program)
        (program / "behaviour.json").write_text(json.dumps({"mark": f"mark{n}"}))
        port = free_port()
        arguments = [sys.executable, program / "main.py", "--port", port, "--base-directory", program, "--input-directory", cls.place / "input",
                     "--output-directory", cls.place / cls.output.format(n), "--temp-directory", cls.place / f"temp{n}"]
        code = f"import os, sys; os.environ['STILLFRAME_SOCKET'] = f'{{os.getpid()}}:{port}:{socket_file}'; os.execv(sys.argv[1], sys.argv[1:])"
        process = cls.process(sys.executable, "-c", code, *arguments, PYTHONPATH=str(HOOK), PYTHONDONTWRITEBYTECODE="1")
        cls.wait(socket_file.exists)
        cls.programs[n] = process
        return {"id": f"s{n}-g1", "address": str(socket_file), "slot": n, "generation": 1}

    @classmethod
    def settings(cls):
        keys = [hashlib.sha256(key.encode()).hexdigest() for key in cls.keys]
        keep = {"age_ms": 10**10, "count": 10000, "bytes": 10**9}
        jobs = {"tries": 3, "drain_running": "requeue", "stuck_ms": 600000, "keep": keep, **cls.rules}
        (cls.place / "settings.json").write_text(json.dumps({
            "version": 1, "service": "demo", "listen": f"127.0.0.1:{cls.port}", "metrics": None, "control": str(cls.place / "control"),
            "table": str(cls.place / "table.json"), "api_keys": keys, "limits": {}, "jobs": {"file": str(cls.place / "jobs/jobs.db"), "rules": jobs},
            "check": {"path": "/system_stats", "interval_ms": 500, "timeout_ms": 5000, "failures": 3}}))

    @classmethod
    def start(cls):
        (cls.place / "control").unlink(missing_ok=True)
        cls.gateway = cls.process(AGENT, "gateway", "--settings", cls.place / "settings.json")
        cls.wait((cls.place / "control").exists)
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(cls.place / "control"))
            control.sendall(json.dumps({"op": "set", "table": {"version": 1, "targets": cls.instances}}).encode() + b"\n")
            control.makefile().readline()
        cls.wait(lambda: cls.ask("GET", "/api/v2/jobs")[0] in (200, 401))

    @classmethod
    def kill(cls):
        cls.gateway.send_signal(signal.SIGKILL)
        cls.gateway.wait()

    @classmethod
    def wait(cls, what, limit=20):
        until = time.monotonic() + limit
        while True:
            try:
                if found := what():
                    return found
            except OSError:
                pass
            if time.monotonic() > until:
                raise AssertionError((cls.place / "log").read_text(errors="replace")[-6000:])
            time.sleep(0.05)

    @classmethod
    def ask(cls, method, path, body=None, key=None, **headers):
        """Status, headers and body, which is read as JSON where it is."""
        connection = http.client.HTTPConnection("127.0.0.1", cls.port, timeout=30)
        try:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            if key:
                headers["Authorization"] = f"Bearer {key}"
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.getheader("Content-Type", "").startswith("application/json") and content:
                content = json.loads(content)
            return answer.status, answer.headers, content
        finally:
            connection.close()

    def get(self, path, status=200, **more):
        got, _, body = self.ask("GET", path, **more)
        self.assertEqual(got, status, body)
        return body

    def submit(self, workflow, status=201, key=None, headers=None, **more):
        got, _, body = self.ask("POST", "/api/v2/jobs", {"workflow": workflow, **more}, key, **(headers or {}))
        self.assertEqual(got, status, body)
        return body if status == 201 else body["error"]

    def over(self, job, **more):
        return self.wait(lambda: (found := self.get(f"/api/v2/jobs/{job['id']}", **more))["status"] in OVER and found, 60)

    def upload(self, content=PICTURE, path="photo.png", kind="image/png", key=None, **fields):
        form = b"".join(f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
                        for name, value in {"content_type": kind, "file_path": path, **fields}.items())
        form += f'--B\r\nContent-Disposition: form-data; name="file"; filename="{path}"\r\nContent-Type: {kind}\r\n\r\n'.encode() + content
        return self.ask("POST", "/api/v2/assets", form + b"\r\n--B--\r\n", key, Content_Type="multipart/form-data; boundary=B")

    def events(self, job):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.addCleanup(connection.close)
        connection.request("GET", f"/api/v2/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})
        answer = connection.getresponse()
        self.assertEqual((answer.status, answer.getheader("Content-Type")), (200, "text/event-stream"))
        found, kind = [], None
        for line in answer:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                found.append((kind, json.loads(line[6:])))
        return found


class Jobs(V2):
    def test_a_job_from_its_submission_to_its_picture(self):
        job = self.submit(graph(0.5), metadata={"client": "acme"})
        self.assertEqual(job["id"], str(uuid.UUID(job["id"])))
        self.assertIn(job["status"], ("queued", "running"))
        for name in ("created_at", "expires_at", "queue_position", "progress", "outputs", "error", "urls", "started_at", "completed_at"):
            self.assertIn(name, job)
        job = self.over(job)
        self.assertEqual((job["status"], job["error"], job["metadata"]), ("succeeded", None, {"client": "acme"}))
        self.assertGreaterEqual(job["metrics"]["execution_ms"], 400)
        [output] = job["outputs"]
        self.assertEqual((output["node_id"], output["type"], output["content_type"], output["job_id"]), ("2", "image", "image/png", job["id"]))
        self.assertEqual(output["url"], f"http://127.0.0.1:{self.port}/api/v2/assets/{output['id']}/content")
        status, headers, content = self.ask("GET", f"/api/v2/assets/{output['id']}/content")
        self.assertEqual((status, len(content)), (200, output["size_bytes"]))
        self.assertIn(job["id"].encode(), content)
        self.assertEqual(self.get(f"/api/v2/assets/{output['id']}")["job_id"], job["id"])
        self.assertEqual(self.get(job["urls"]["self"] + "/workflow"), {"workflow": graph(0.5), "format": "api"})
        # The same job at ComfyUI's own address, and one of that address here.
        self.assertEqual(self.get(f"/history/{job['id']}")[job["id"]]["status"]["status_str"], "success")
        other = self.ask("POST", "/prompt", {"prompt": graph(0.1), "client_id": "c"})[2]["prompt_id"]
        self.assertEqual(self.over({"id": other})["status"], "succeeded")

    def test_a_list_in_pages(self):
        label = uuid.uuid4().hex
        ids = [self.submit(graph(0), metadata={"run": label, "n": str(n % 2)})["id"] for n in range(5)]
        page = self.get(f"/api/v2/jobs?metadata%5Brun%5D={label}&limit=3")
        self.assertEqual([job["id"] for job in page["jobs"]], ids[:1:-1])
        rest = self.get(f"/api/v2/jobs?metadata%5Brun%5D={label}&limit=3&cursor={page['next_cursor']}")
        self.assertEqual([job["id"] for job in rest["jobs"]], ids[1::-1])
        self.assertNotIn("next_cursor", rest)
        odd = self.get(f"/api/v2/jobs?metadata%5Brun%5D={label}&metadata%5Bn%5D=1")
        self.assertEqual([job["id"] for job in odd["jobs"]], [ids[3], ids[1]])
        self.assertEqual({job["metadata"]["run"] for job in odd["jobs"]}, {label})
        for query, code in (("limit=0", "invalid_request"), ("cursor=x", "invalid_cursor"), ("metadata=x", "invalid_metadata_filter"), ("status=x", "invalid_request")):
            self.assertEqual(self.get(f"/api/v2/jobs?{query}", 400)["error"]["code"], code)
        for job in ids:
            self.over({"id": job})

    def test_what_is_refused(self):
        self.assertEqual(self.submit(graph(), 422, webhook_url="http://x")["code"], "invalid_workflow")
        self.assertEqual(self.submit({"nodes": [], "links": []}, 422)["code"], "workflow_format_ui")
        self.assertEqual(self.submit(graph(), 400, extra_data={"x": 1})["code"], "invalid_request")
        self.assertEqual(self.submit(graph(), 422, metadata="x")["code"], "metadata_invalid")
        unknown = self.submit({"1": {"class_type": "Nothing", "inputs": {}}}, 422)
        self.assertEqual((unknown["code"], unknown["details"]["node_errors"]["1"][0]["reason"]), ("invalid_workflow", "missing_node_type"))
        bad = self.submit({"1": {"class_type": "Load", "inputs": {}}}, 422)
        self.assertEqual(bad["details"]["node_errors"]["1"][0]["field"], "image")
        self.assertEqual(self.submit(loads(reference("nobody")), 422)["code"], "missing_asset")
        self.assertEqual(self.submit(loads({"__type": "core/ASSET"}), 422)["code"], "missing_asset")
        self.assertEqual(self.get(f"/api/v2/jobs/{uuid.uuid4()}", 404)["error"]["code"], "not_found")
        self.assertEqual(self.get("/api/v2/nothing", 404)["error"]["code"], "not_found")
        self.assertEqual(self.ask("POST", "/api/v2/jobs", b"{")[2]["error"]["code"], "invalid_request")

    def test_a_failure_and_a_cancellation(self):
        failed = self.over(self.submit({"1": {"class_type": "Fail", "inputs": {"message": "no", "type": "ValueError"}}}))
        self.assertEqual((failed["status"], failed["error"]["code"], failed["error"]["node_id"], failed["error"]["message"]),
                         ("failed", "node_execution_error", "1", "no"))
        job = self.submit(graph(30))
        self.wait(lambda: self.get(f"/api/v2/jobs/{job['id']}")["status"] == "running")
        progress = self.wait(lambda: self.get(f"/api/v2/jobs/{job['id']}")["progress"])
        self.assertEqual((progress["nodes_total"], progress["current_node_class"]), (2, "Sleep"))
        status, _, told = self.ask("POST", f"/api/v2/jobs/{job['id']}/cancel")
        self.assertEqual((status, told["status"] in ("canceling", "canceled")), (200, True))
        self.assertEqual(self.over(job)["status"], "canceled")
        # What has ended stays as it ended.
        self.assertEqual(self.ask("POST", f"/api/v2/jobs/{failed['id']}/cancel")[2]["status"], "failed")

    def test_a_full_queue(self):
        jobs = [self.submit(graph(2)) for _ in range(6)]
        try:
            for _ in range(30):
                status, headers, body = self.ask("POST", "/api/v2/jobs", {"workflow": graph(2)})
                if status == 429:
                    break
                jobs.append(body)
            self.assertEqual((status, body["error"]["code"]), (429, "queue_full"))
            self.assertGreater(int(headers["Retry-After"]), 0)
            waits = [job for job in (self.get(f"/api/v2/jobs/{job['id']}") for job in jobs) if job["queue_position"]]
            self.assertEqual([job["queue_position"] for job in waits], list(range(1, len(waits) + 1)))
        finally:
            for job in jobs:
                self.ask("POST", f"/api/v2/jobs/{job['id']}/cancel")
            for job in jobs:
                self.over(job)

    def test_events_in_their_order(self):
        job = self.submit({**graph(1.5), "3": {"class_type": "Preview", "inputs": {"count": 4, "seconds": 0.4}}})
        events = self.events(job)
        kinds = [kind for kind, _ in events]
        self.assertEqual((kinds[0], kinds[-1], events[-1][1]["status"]), ("status", "status", "succeeded"))
        self.assertTrue({"progress", "preview", "output"} <= set(kinds), kinds)
        values = [data["value"] for kind, data in events if kind == "progress"]
        self.assertEqual(values, sorted(values))
        [output] = [data for kind, data in events if kind == "output"]
        self.assertEqual(output, {**self.get(f"/api/v2/jobs/{job['id']}")["outputs"][0], "url_expires_at": output["url_expires_at"]})
        # Nothing is said again: what is over is told as it is.
        self.assertEqual([kind for kind, _ in self.events(job)], ["output", "status"])

    def test_a_key_makes_one_job(self):
        key = {"Idempotency_Key": uuid.uuid4().hex}
        # What makes no job does not use it up.
        self.submit({"1": {"class_type": "Nothing"}}, 422, headers=key)
        job = self.submit(graph(), headers=key)
        for workflow in (graph(), graph(0.2, "other")):
            refused = self.submit(workflow, 422, headers=key)
            self.assertEqual((refused["code"], refused["details"]["job_id"]), ("idempotency_key_reuse", job["id"]))
        for bad in ("", "x" * 256):
            self.assertEqual(self.submit(graph(), 400, headers={"Idempotency_Key": bad})["code"], "invalid_request")
        at_once = {"Idempotency_Key": uuid.uuid4().hex}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [each.result() for each in [pool.submit(self.ask, "POST", "/api/v2/jobs", {"workflow": graph()}, **at_once) for _ in range(8)]]
        [made] = [body for status, _, body in answers if status == 201]
        self.assertEqual({body["error"]["details"]["job_id"] for status, _, body in answers if status == 422}, {made["id"]})
        self.over(job)
        self.over(made)

    def test_an_accepted_job_outlives_the_gateway(self):
        key = {"Idempotency_Key": uuid.uuid4().hex}
        jobs = [self.submit(graph(0.5, "killed")) for _ in range(3)] + [self.submit(graph(0.5, "killed"), headers=key, metadata={"a": "b"})]
        self.kill()
        self.start()
        self.assertEqual([self.over(job)["status"] for job in jobs], ["succeeded"] * 4)
        self.assertEqual(self.submit(graph(), 422, headers=key)["details"]["job_id"], jobs[3]["id"])
        self.assertEqual(self.get(f"/api/v2/jobs/{jobs[3]['id']}")["metadata"], {"a": "b"})


class Away(V2):
    """Each instance has its own pictures, until the agent gives them to others."""
    output = "output{}"

    def test_a_picture_whose_maker_is_away_is_not_denied(self):
        job = str(uuid.uuid4())
        self.assertEqual(self.ask("POST", "/prompt", {"prompt": graph(0), "prompt_id": job})[0], 200)
        entry = self.wait(lambda: self.get(f"/history/{job}").get(job))
        view = f"/view?filename={entry['outputs']['2']['images'][0]['filename']}"
        self.assertIn(job.encode(), self.get(view))
        maker = next(n for n in range(2) if list(self.place.glob(f"output{n}/*.png")))
        self.programs[maker].kill()
        self.programs[maker].wait()
        status, headers, answer = self.ask("GET", view)
        self.assertEqual((status, headers["Retry-After"]), (503, "5"), answer)
        self.assertIn(f"s{maker}-g1 made it, and does not answer", json.dumps(answer))
        # Nobody says that of what was never made.
        self.get("/view?filename=nobody.png", 404)
        (self.place / f"{maker}.sock").unlink()
        shutil.rmtree(self.place / f"program{maker}")
        self.instance(maker)
        self.assertIn(job.encode(), self.get(view))
        # Its maker itself has it no longer.
        for picture in self.place.glob(f"output{maker}/*.png"):
            picture.unlink()
        self.get(view, 404)


class Assets(V2):
    def test_an_upload_and_its_bytes(self):
        status, _, asset = self.upload()
        self.assertEqual((status, asset["created_new"], asset["size_bytes"], asset["content_type"]), (201, True, len(PICTURE), "image/png"))
        self.assertTrue(re.fullmatch(r"blake3:[0-9a-f]{64}", asset["hash"]))
        again = self.upload()
        self.assertEqual((again[0], again[2]["created_new"], again[2]["id"]), (200, False, asset["id"]))
        elsewhere = self.upload(path="other.png")
        self.assertEqual((elsewhere[0], elsewhere[2]["hash"]), (200, asset["hash"]))
        self.assertNotEqual(elsewhere[2]["id"], asset["id"])
        content = f"/api/v2/assets/{asset['id']}/content"
        status, headers, body = self.ask("GET", content)
        self.assertEqual((status, body, headers["Content-Type"], headers["Accept-Ranges"]), (200, PICTURE, "image/png", "bytes"))
        status, part, body = self.ask("GET", content, Range="bytes=2-5")
        self.assertEqual((status, body, part["Content-Range"]), (206, PICTURE[2:6], f"bytes 2-5/{len(PICTURE)}"))
        self.assertEqual(self.ask("GET", content, Range="bytes=-3")[2], PICTURE[-3:])
        status, none, _ = self.ask("GET", content, Range=f"bytes={len(PICTURE)}-")
        self.assertEqual((status, none["Content-Range"]), (416, f"bytes */{len(PICTURE)}"))
        self.assertEqual(self.ask("GET", content, Range="bytes=0-1", If_Range='"other"')[0], 200)
        self.assertEqual(self.ask("GET", content, Range="bytes=0-1", If_Range=headers["ETag"])[0], 206)
        status, head, body = self.ask("HEAD", content)
        self.assertEqual((status, head["Content-Length"], body), (200, str(len(PICTURE)), b""))

    def test_bytes_that_are_there_already(self):
        asset = self.upload(b"from-hash " * 100, "there.txt", "text/plain")[2]
        self.assertEqual(self.ask("HEAD", f"/api/v2/assets/by-hash/{asset['hash']}")[0], 200)
        status, _, same = self.ask("POST", "/api/v2/assets/from-hash", {"hash": asset["hash"], "file_path": "there.txt"})
        self.assertEqual((status, same["id"]), (200, asset["id"]))
        status, _, new = self.ask("POST", "/api/v2/assets/from-hash", {"hash": asset["hash"], "file_path": "copy.txt", "expires_in": 60})
        self.assertEqual((status, new["created_new"], new["file_path"]), (201, False, "copy.txt"))
        self.assertLess(new["expires_at"], asset["expires_at"])
        for wrong in ("blake3:" + "0" * 64, "blake3:nope", "x"):
            self.assertEqual(self.ask("HEAD", f"/api/v2/assets/by-hash/{wrong}")[0], 404)
            status, _, body = self.ask("POST", "/api/v2/assets/from-hash", {"hash": wrong})
            self.assertEqual((status, body["error"]["code"]), (404, "blob_not_found"))

    def test_uploads_that_are_refused(self):
        status, _, body = self.upload(expected_hash="blake3:" + "0" * 64)
        self.assertEqual((status, body["error"]["code"]), (409, "hash_mismatch"))
        for path in ("../x", "/etc/x", "a//b", ""):
            self.assertEqual(self.upload(path=path)[0], 422, path)
        for body in (b"", b"--B\r\n", b'--B\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'):
            status, _, told = self.ask("POST", "/api/v2/assets", body, Content_Type="multipart/form-data; boundary=B")
            self.assertEqual((status, told["error"]["code"]), (422, "invalid_request"))
        self.assertEqual(self.ask("POST", "/api/v2/assets", {})[0], 422)
        # One that breaks off leaves nothing.
        before = set(os.listdir(self.place / "jobs" / "assets"))
        with socket.create_connection(("127.0.0.1", self.port)) as broken:
            broken.sendall(b"POST /api/v2/assets HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: 9999\r\n\r\n"
                           b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + b"x" * 500)
        self.wait(lambda: not os.listdir(self.place / "jobs" / "assets" / "incoming"))
        self.assertEqual(set(os.listdir(self.place / "jobs" / "assets")), before)

    def test_a_job_has_the_files_that_it_names(self):
        content = b"for a job " + uuid.uuid4().bytes
        asset = self.upload(content, "named.png")[2]
        job = self.submit(loads(reference(asset["id"])))
        self.assertEqual(self.over(job)["status"], "succeeded")
        name = self.get(f"/api/v2/jobs/{job['id']}/workflow")["workflow"]["1"]["inputs"]["image"]
        self.assertEqual((self.place / "input" / name).read_bytes(), content)
        # Somebody took it away while a job waits: it is there again when that one runs.
        blockers = [self.submit(graph(1.5, "blocks")) for _ in range(4)]
        waits = self.submit(loads(reference(asset["id"])))
        (self.place / "input" / name).unlink()
        status, _, body = self.ask("DELETE", f"/api/v2/assets/{asset['id']}")
        self.assertEqual((status, body["error"]["code"]), (409, "asset_in_use"))
        self.assertEqual(self.over(waits)["status"], "succeeded")
        self.assertEqual((self.place / "input" / name).read_bytes(), content)
        for job in blockers:
            self.over(job)
        self.assertEqual(self.ask("DELETE", f"/api/v2/assets/{asset['id']}")[0], 204)
        self.assertEqual(self.ask("DELETE", f"/api/v2/assets/{asset['id']}")[0], 404)
        self.assertEqual(self.get(f"/api/v2/assets/{asset['id']}", 404)["error"]["code"], "not_found")
        self.assertFalse((self.place / "jobs" / "assets" / asset["hash"].removeprefix("blake3:")).exists())
        self.assertEqual(self.submit(loads(reference(asset["id"])), 422)["code"], "missing_asset")

    def test_instances_that_cannot_take_a_file_do_not_try_for_ever(self):
        asset = self.upload(b"nobody takes it", "untaken.png")[2]
        shutil.move(self.place / "input", self.place / "away")
        try:
            (self.place / "input").write_text("no folder")
            job = self.over(self.submit(loads(reference(asset["id"]))))
            self.assertEqual((job["status"], job["error"]["code"]), ("failed", "tries_used_up"))
            self.assertIn("answered 500", job["error"]["message"])
        finally:
            (self.place / "input").unlink()
            shutil.move(self.place / "away", self.place / "input")

    def test_the_name_of_a_file_is_never_taken_from_another(self):
        self.upload(b"one", "same.png")
        self.upload(b"two", "same.png")
        self.assertEqual((self.place / "input" / "same.png").read_bytes(), b"one")


class Keys(V2):
    keys = KEYS

    def test_each_key_sees_its_own(self):
        for key in (None, "wrong"):
            status, headers, body = self.ask("GET", "/api/v2/jobs", key=key)
            self.assertEqual((status, body["error"]["code"]), (401, "unauthorized"))
        first, second = KEYS
        job = self.submit(graph(), key=first)
        asset = self.upload(key=first)[2]
        self.over(job, key=first)
        self.assertEqual(self.get(f"/api/v2/jobs/{job['id']}", 404, key=second)["error"]["code"], "not_found")
        self.assertEqual(self.get("/api/v2/jobs", key=second)["jobs"], [])
        self.assertEqual(self.ask("POST", f"/api/v2/jobs/{job['id']}/cancel", key=second)[0], 404)
        output = self.get(f"/api/v2/jobs/{job['id']}", key=first)["outputs"][0]["id"]
        for path in (f"/api/v2/assets/{asset['id']}", f"/api/v2/assets/{asset['id']}/content", f"/api/v2/assets/{output}/content"):
            self.assertEqual(self.ask("GET", path, key=first)[0], 200)
            self.assertEqual(self.ask("GET", path, key=second)[0], 404)
        self.assertEqual(self.ask("HEAD", f"/api/v2/assets/by-hash/{asset['hash']}", key=second)[0], 404)
        self.assertEqual(self.submit(loads(reference(asset["id"])), 422, key=second)["code"], "missing_asset")
        key = {"Idempotency_Key": "the same"}
        self.submit(graph(), key=first, headers=key)
        self.submit(graph(), key=second, headers=key)


def sdk():
    """Comfy's own SDK, unchanged, in an environment of its own; none without a package index."""
    place = harness.CACHE / f"comfy-sdk-{SDK}"
    harness.alone_with(place)
    python = place / "bin" / "python"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        got = subprocess.run([python, "-m", "pip", "install", "-q", f"comfy-sdk=={SDK}"], capture_output=True, text=True)
        if got.returncode:
            raise unittest.SkipTest(f"comfy-sdk {SDK} cannot be had: {got.stderr.strip()[-300:]}")
        (place / "done").touch()
    return python


class Sdk(V2):
    def run_with(self, code):
        python = sdk()
        environment = {**os.environ, "COMFY_BASE_URL": f"http://127.0.0.1:{self.port}"}
        environment.pop("COMFY_API_KEY", None)
        done = subprocess.run([python, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_the_client(self):
        self.run_with("""
            import io
            from comfy_sdk import Comfy, OutputReady, Preview, Progress, StatusChange
            from comfy_sdk import exceptions as no
            client = Comfy()
            graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": 1.0}},
                     "2": {"class_type": "Save", "inputs": {"filename_prefix": "sdk", "images": ["1", 0]}},
                     "3": {"class_type": "Preview", "inputs": {"count": 3, "seconds": 0.3}}}
            load = {"1": {"class_type": "Load", "inputs": {"image": ""}},
                    "2": {"class_type": "Save", "inputs": {"filename_prefix": "sdk", "images": ["1", 0]}}}
            job = client.run(client.workflows.from_json(graph))
            assert job.status == "succeeded" and job.get_workflow().graph == graph
            [output] = job.get_outputs("2")
            content = output.to_bytes()
            assert len(content) == output.size_bytes and job.id.encode() in content
            assert output.get_download_url().url.endswith("/content")
            # Live.
            job = client.submit(client.workflows.from_json(graph), metadata={"client": "acme"})
            events = list(job.events())
            kinds = {type(event) for event in events}
            assert kinds == {StatusChange, Progress, Preview, OutputReady}, kinds
            assert events[-1].status == "succeeded" and job.refresh().status == "succeeded"
            assert [found.id for found in client.list_jobs(metadata={"client": "acme"})] == [job.id]
            assert job.metadata == {"client": "acme"}
            # Files: put in once, found again, and where the job looks for them.
            picture = b"a picture of the SDK" * 50
            asset = client.assets.from_bytes(picture, filename="sdk.png")
            workflow = client.workflows.from_json(load)
            workflow.set_input("1", "image", asset)
            assert client.run(workflow).status == "succeeded" and asset.created_new
            again = client.assets.from_bytes(picture, filename="sdk.png")
            assert again.commit() == asset.id and not again.created_new
            with client._low.get_asset_content(asset.id, range=(2, 8)) as answer:
                assert answer.status_code == 206 and answer.read() == picture[2:9]
            # By the name alone, which the SDK's own tests do.
            load["1"]["inputs"]["image"] = "sdk.png"
            assert client.run(client.workflows.from_json(load)).status == "succeeded"
            # What is refused is what the SDK takes it for.
            def refused(kind, act):
                try:
                    act()
                except kind as why:
                    return why
                raise AssertionError(kind)
            assert refused(no.InvalidWorkflow, lambda: client.submit(client.workflows.from_json({"1": {"class_type": "Nothing"}}))).details["node_errors"]
            load["1"]["inputs"]["image"] = {"__type": "core/ASSET", "info": {"id": "nobody"}}
            refused(no.MissingAsset, lambda: client.submit(client.workflows.from_json(load)))
            refused(no.NotFound, lambda: client.jobs.get("00000000-0000-4000-8000-000000000000"))
            job = client.submit(client.workflows.from_json(graph), idempotency_key="sdk")
            reuse = refused(no.IdempotencyKeyReuse, lambda: client.submit(client.workflows.from_json(graph), idempotency_key="sdk"))
            assert reuse.details["job_id"] == job.id
            job.cancel()
            assert job.wait(20).status in ("canceled", "succeeded")
            failed = client.submit(client.workflows.from_json({"1": {"class_type": "Fail", "inputs": {"message": "no"}}}))
            assert refused(no.JobFailed, failed.result) and failed.error.node_id == "1"
            client.assets.delete(asset.id)
            refused(no.NotFound, lambda: client.assets.get(asset.id))
        """)

    def test_the_asynchronous_client(self):
        self.run_with("""
            import asyncio
            from comfy_sdk import AsyncComfy
            graph = {"1": {"class_type": "Sleep", "inputs": {"seconds": 0.3}},
                     "2": {"class_type": "Save", "inputs": {"filename_prefix": "async", "images": ["1", 0]}}}
            async def main():
                client = AsyncComfy()
                asset = client.assets.from_bytes(b"bytes of an asynchronous client", filename="a.bin")
                assert await asset.commit()
                jobs = [await client.submit(client.workflows.from_json(graph)) for _ in range(4)]
                async def ends(job):
                    return [event async for event in job.events()][-1].status
                assert await asyncio.gather(*map(ends, jobs)) == ["succeeded"] * 4
                outputs = (await jobs[0].refresh()).outputs
                assert jobs[0].id.encode() in await outputs[0].to_bytes()
            asyncio.run(main())
        """)
