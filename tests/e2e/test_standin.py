"""The tests' own main program says what a real ComfyUI said: its messages, history and refusals beside those that were recorded. With it
the start hook, by which an instance validates a job and queues none."""
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from pathlib import Path

SECONDS = 20
BATCH = True

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "comfyui-wire"
HOOK = ROOT / "src" / "host" / "scripts"
PORT = 18188
#: The recorded job: a class that tells no progress, one that does, one that writes a picture.
RECORDED = {"1": {"class_type": "Freeze", "inputs": {"seconds": 0}}, "2": {"class_type": "Sleep", "inputs": {"image": ["1", 0], "seconds": 0.4}},
            "3": {"class_type": "Save", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}


def golden(name):
    return json.loads((GOLDEN / name).read_text())


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


class WebSocket:
    def __init__(self, path, client=None):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        query = f"?clientId={client}" if client else ""
        self.socket.sendall(f"GET /ws{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        while self.file.readline().strip():
            pass

    def send(self, value):
        text = json.dumps(value).encode()
        self.socket.sendall(bytes([0x81, 0xfe]) + len(text).to_bytes(2, "big") + bytes(4) + text)

    def receive(self):
        first, size = self.file.read(2)
        if size > 125:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        payload = self.file.read(size)
        return json.loads(payload) if first & 15 == 1 else payload

    def until(self, last):
        """All messages up to the one that is the last."""
        found = []
        while not found or not last(found[-1]):
            found.append(self.receive())
        return found

    def until_over(self):
        return self.until(lambda m: isinstance(m, dict) and m["type"] == "executing" and m["data"]["node"] is None)

    def close(self):
        self.file.close()
        self.socket.close()


class Standin(unittest.TestCase):
    def setUp(self):
        self.place = Path(tempfile.mkdtemp(prefix="standin-"))
        self.addCleanup(shutil.rmtree, self.place)

    def start(self, pack=None, variables=(), **behaviour):
        program = self.place / "program"
        shutil.copytree(ROOT / "tests" / "fixtures" / "service", program)
        (program / "behaviour.json").write_text(json.dumps({"mark": "one", **behaviour}))
        if pack:
            (program / "custom_nodes" / "pack").mkdir(parents=True)
            (program / "custom_nodes" / "pack" / "__init__.py").write_text(pack)
        self.socket = self.place / "http.sock"
        arguments = [sys.executable, str(program / "main.py"), "--port", str(PORT), "--base-directory", str(program)]
        for name in ("input", "output", "temp"):
            (self.place / name).mkdir()
            arguments += [f"--{name}-directory", str(self.place / name)]
        code = f"import os, sys; os.environ['STILLFRAME_SOCKET'] = f'{{os.getpid()}}:{PORT}:{self.socket}'; os.execv(sys.argv[1], sys.argv[1:])"
        log = (self.place / "log").open("wb")
        self.addCleanup(log.close)
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=log, stderr=log, env={
            **os.environ, "PYTHONPATH": str(HOOK), "PYTHONDONTWRITEBYTECODE": "1", **dict(variables)})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.wait(self.listens)
        return process

    def listens(self):
        with socket.socket(socket.AF_UNIX) as tried:
            # It is bound a moment before it listens.
            return tried.connect_ex(str(self.socket)) == 0

    def wait(self, what):
        until = time.monotonic() + 15
        while not (found := what()):
            if time.monotonic() > until:
                raise AssertionError((self.place / "log").read_text())
            time.sleep(0.02)
        return found

    def ask(self, method, path, body=None):
        connection = Unix(self.socket)
        try:
            connection.request(method, path, None if body is None else body if isinstance(body, bytes) else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if answer.getheader("Content-Type") == "application/json" else text
        finally:
            connection.close()

    def post(self, prompt, **more):
        status, answer = self.ask("POST", "/prompt", {"prompt": prompt, **more})
        self.assertEqual(status, 200, answer)
        return answer["prompt_id"]

    def entry(self, prompt_id):
        return self.wait(lambda: self.ask("GET", f"/history/{prompt_id}")[1])[prompt_id]

    def connect(self, client=None):
        found = WebSocket(self.socket, client)
        self.addCleanup(found.close)
        return found

    def runs(self):
        log = self.place / "output" / "runs.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def plain(self, value, prompt_id):
        """Without what differs from run to run."""
        text = json.dumps(value).replace(prompt_id, "ID").replace('"Slow"', '"Sleep"')
        value = json.loads(text)

        def walk(value):
            if isinstance(value, dict):
                return {key: 0 if key in ("timestamp", "create_time") else "F" if key == "filename" else walk(each)
                        for key, each in value.items() if key != "mark"}
            return [walk(each) for each in value] if isinstance(value, list) else value
        return walk(value)

    def test_messages_and_history_as_they_were_recorded(self):
        self.start(cache=True)
        one = self.connect("A")
        recorded, history = golden("ws_success.json"), golden("history.json")
        ids = list(history)
        greeting = one.receive()
        self.assertEqual(self.plain(greeting, "-"), recorded[0][1])
        first = self.post(RECORDED, client_id="A", partial_execution_targets=["3"])
        self.assertEqual(self.plain(one.until_over(), first), self.plain([m for _, m in recorded[1:]], ids[0]))
        second = self.post(RECORDED, client_id="A", partial_execution_targets=["3"])
        self.assertEqual(self.plain(one.until_over(), second), self.plain([m for _, m in golden("ws_cached.json")], ids[1]))
        # One that is stopped after its first steps: how many, is the moment's.
        third = self.post({**RECORDED, "2": {"class_type": "Sleep", "inputs": {"image": ["1", 0], "seconds": 8.0}}}, client_id="A", partial_execution_targets=["3"])
        self.wait(lambda: self.ask("GET", f"/api/jobs/{third}")[1]["status"] == "in_progress")
        found = one.until(lambda m: m["type"] == "progress")
        self.assertEqual(self.ask("POST", "/interrupt", {"prompt_id": third}), (200, ""))
        found += one.until_over()

        def once(messages):
            steps = [m for m in messages if m["type"] == "progress" or m["type"] == "progress_state" and m["data"]["nodes"].get("2", {}).get("value", 0) > 1]
            return [m for m in messages if m not in steps or m == steps[0]]
        expected = [m for _, m in golden("ws_interrupt.json")]
        # What it has run before it finds in its cache, which the recorded one had not.
        cached = [m for m in expected if m["type"] != "executing" or m["data"]["node"] != "1"]
        kinds = [m["type"] for m in once(self.plain(found, third)) if m["type"] != "progress_state"]
        self.assertEqual(kinds, [m["type"] for m in once(self.plain(cached, ids[2])) if m["type"] != "progress_state"])
        for prompt_id, other in zip((first, second, third), ids):
            entry, was = self.plain(self.entry(prompt_id), prompt_id), self.plain(history[other], other)
            for each in (entry, was):
                each["prompt"][0] = each["prompt"][2] = None
                for _, data in each["status"]["messages"]:
                    data.pop("nodes", None)
                    data.pop("executed", None)
            self.assertEqual(entry, was)
        listed = self.ask("GET", "/api/jobs")[1]
        by_id = {job["id"]: set(job) for job in golden("api_jobs.json")["jobs"]}
        self.assertEqual([set(job) for job in listed["jobs"]], [by_id[ids[2]], by_id[ids[1]], by_id[ids[0]]])
        self.assertEqual(listed["pagination"], {"offset": 0, "limit": None, "total": 3, "has_more": False})
        self.assertEqual(self.ask("GET", "/queue")[1], golden("queue.json"))
        self.assertEqual([(run["prompt_id"], run.get("status")) for run in self.runs()],
                         [(first, None), (first, "success"), (second, None), (second, "success"), (third, None), (third, "error")])

    def test_the_queue(self):
        self.start()
        runs = self.post({"1": {"class_type": "Sleep", "inputs": {"seconds": 60}}})
        self.wait(lambda: self.ask("GET", "/queue")[1]["queue_running"])
        nothing = {"1": {"class_type": "Save", "inputs": {}}}
        later, front, numbered = self.post(nothing), self.post(nothing, front=True), self.post(nothing, number=-7.5, extra_data={"api_key_comfy_org": "k"})
        waiting = self.ask("GET", "/api/queue")[1]["queue_pending"]
        self.assertEqual(sorted((item[0], item[1]) for item in waiting), [(-7.5, numbered), (-2, front), (1, later)])
        self.assertEqual([len(item) for item in waiting], [5, 5, 5])
        self.assertNotIn("api_key_comfy_org", str(waiting))
        self.assertEqual(self.ask("GET", "/prompt")[1], {"exec_info": {"queue_remaining": 4}})
        self.assertEqual(self.ask("POST", "/queue", {"delete": [later, "none"]})[0], 200)
        self.assertEqual(self.ask("POST", f"/api/jobs/{front}/cancel"), (200, {"cancelled": True}))
        self.assertEqual(self.ask("POST", f"/api/jobs/{front}/cancel"), (200, {"cancelled": False}))
        self.assertEqual(self.ask("POST", "/api/jobs/cancel", {"job_ids": [str(uuid.uuid4())]}), (200, {"cancelled": False}))
        self.assertEqual(self.ask("POST", "/api/jobs/cancel", {"job_ids": ["x"]})[0], 400)
        # Whose id it is not, is left alone.
        self.ask("POST", "/interrupt", {"prompt_id": numbered})
        self.assertEqual(self.ask("GET", f"/api/jobs/{runs}")[1]["status"], "in_progress")
        self.assertEqual((self.ask("GET", f"/history/{runs}")[1], self.ask("GET", "/api/jobs/none")[0]), ({}, 404))
        self.assertEqual(self.ask("GET", f"/api/jobs/{numbered}")[1]["status"], "pending")
        self.ask("POST", "/interrupt")
        self.entry(numbered)
        self.assertEqual(list(self.ask("GET", "/history")[1]), [runs, numbered])
        self.assertEqual(list(self.ask("GET", "/history?max_items=1")[1]), [numbered])
        self.assertEqual(list(self.ask("GET", "/history?max_items=1&offset=0")[1]), [runs])
        jobs = self.ask("GET", "/api/jobs?status=cancelled,failed&limit=1")[1]
        self.assertEqual(([job["id"] for job in jobs["jobs"]], jobs["pagination"]["total"]), ([runs], 1))
        # The same id again runs again.
        self.post(nothing, prompt_id=numbered)
        self.wait(lambda: [run["event"] for run in self.runs() if run["prompt_id"] == numbered] == ["start", "end"] * 2)
        self.ask("POST", "/history", {"delete": [numbered]})
        self.assertEqual(list(self.ask("GET", "/history")[1]), [runs])
        self.ask("POST", "/history", {"clear": True})
        self.assertEqual(self.ask("GET", "/history")[1], {})
        self.post({"1": {"class_type": "Sleep", "inputs": {"seconds": 60}}})
        self.post(nothing)
        self.wait(lambda: self.ask("GET", "/prompt")[1]["exec_info"]["queue_remaining"] == 2)
        self.ask("POST", "/queue", {"clear": True})
        self.assertEqual(self.ask("GET", "/prompt")[1]["exec_info"]["queue_remaining"], 1)

    def test_refusals(self):
        self.start(uuid=True, classes=["Save", "Sleep"])
        unknown = golden("prompt_400_unknown_node.json")
        for path in ("/prompt", "/stillframe/validate"):
            self.assertEqual(self.ask("POST", path, {"prompt": {"9": {"class_type": "NoSuchNode"}}}), (400, unknown))
            status, answer = self.ask("POST", path, {"prompt": {"1": {"class_type": "Sleep", "inputs": {}}}})
            self.assertEqual((status, answer["error"]["type"], answer["error"]["details"]),
                             (400, "prompt_outputs_failed_validation", "Required input is missing: seconds"))
            self.assertEqual(answer["node_errors"]["1"]["dependent_outputs"], ["1"])
            self.assertEqual(self.ask("POST", path, {"prompt": {}})[1]["error"]["type"], "prompt_no_outputs")
        self.assertEqual(self.ask("POST", "/prompt", {})[1]["error"]["type"], "no_prompt")
        self.assertEqual(self.ask("POST", "/prompt", {"prompt": {}, "prompt_id": "ABC"})[1]["error"]["type"], "invalid_prompt_id")
        self.assertEqual(self.ask("POST", "/prompt", b"nonsense")[0], 500)

    def test_the_hook_validates_and_queues_nothing(self):
        self.start(pack="import server\ndef change(value):\n    value['prompt']['2'] = {'class_type': 'Save', 'inputs': {}}\n    return value\n"
                        "server.PromptServer.instance.add_on_prompt_handler(change)\n")
        half = {"prompt": {"1": {"class_type": "Sleep", "inputs": {}}}, "prompt_id": str(uuid.uuid4())}
        status, answer = self.ask("POST", "/stillframe/validate", half)
        self.assertEqual((status, answer["outputs_to_execute"], list(answer["node_errors"])), (200, ["2"], ["1"]))
        status, answer = self.ask("POST", "/stillframe/validate", {"prompt": {"1": 3}})
        self.assertIn("'int'", answer["error"].pop("details"))
        self.assertEqual((status, answer), (400, {"node_errors": {}, "error": {
            "type": "exception_during_validation", "message": "Exception when validating prompt", "extra_info": {"exception_type": "TypeError"}}}))
        self.assertEqual((self.ask("GET", "/stillframe/validate")[0], self.runs()), (404, []))
        self.assertEqual(self.ask("GET", "/prompt")[1], {"exec_info": {"queue_remaining": 0}})
        self.assertIn("POST /prompt", json.loads((self.place / "routes.json").read_text()))

    def test_the_hook_answers_when_files_are_on_disk(self):
        process = self.start()
        entry = self.entry(self.post({"1": {"class_type": "Save", "inputs": {"filename_prefix": "deep/er/x"}}}))
        [image] = entry["outputs"]["1"]["images"]
        (self.place / "output" / "link").symlink_to(self.place / "log")
        # Files that nobody has, and files elsewhere, are none of its affair.
        others = [{"subfolder": "", "filename": name} for name in ("nobody.png", "link", "../log")] + [{"subfolder": "/etc", "filename": "hostname"}]
        out, into = self.place.resolve() / "output", self.place.resolve() / "input"
        with self.traced(process) as synced:
            self.assertEqual(self.ask("POST", "/stillframe/sync", {"files": [image, *others]}), (200, {}))
        self.assertEqual(synced, sorted(map(str, [out, out / "deep", out / "deep/er", out / "deep/er" / image["filename"]])))
        self.assertEqual(self.ask("POST", "/stillframe/sync", {})[0], 500)
        self.assertEqual(self.ask("GET", "/stillframe/sync")[0], 404)
        # The same of what is uploaded.
        body = b"--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\none\r\n--B--\r\n"
        for path in ("/upload/image", "/api/upload/mask"):
            connection = Unix(self.socket)
            with self.traced(process) as synced:
                connection.request("POST", path, body, {"Content-Type": "multipart/form-data; boundary=B"})
                self.assertEqual(json.loads(connection.getresponse().read())["name"], "a.png")
            connection.close()
            self.assertEqual(synced, [str(into), str(into / "a.png")])
        # A disk that takes nothing.
        with self.traced(process, "-e", "inject=fsync:error=ENOSPC"):
            connection.request("POST", "/upload/image", body, {"Content-Type": "multipart/form-data; boundary=B"})
            answer = connection.getresponse()
            self.assertEqual((answer.status, json.loads(answer.read())), (500, {"error": "a.png is not on disk: No space left on device"}))
            self.assertEqual(self.ask("POST", "/stillframe/sync", {"files": [image]})[0], 500)
        connection.close()

    @contextlib.contextmanager
    def traced(self, process, *options):
        """Which files it syncs meanwhile."""
        trace, synced = self.place / "trace", []
        watching = subprocess.Popen(["strace", "-f", "-y", "-e", "trace=fsync", "-o", str(trace), *options, "-p", str(process.pid)], stderr=subprocess.PIPE)
        try:
            self.assertIn(b"attached", watching.stderr.readline())
            yield synced
        finally:
            watching.terminate()
            watching.wait()
            watching.stderr.close()
        synced += sorted(re.findall(r"fsync\(\d+<(.*?)>\) += 0", trace.read_text()))

    def test_the_hook_ends_the_process_when_it_is_told(self):
        process = self.start()
        for said, ends in ((b"\n", False), (b"it does not answer\n", True)):
            # Its event loop does nothing meanwhile.
            if ends:
                self.post({"1": {"class_type": "Freeze", "inputs": {"seconds": 60}}, "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}}})
            with socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(20)
                stream.connect(str(self.socket.with_name("end.sock")))
                stream.sendall(said)
                self.assertEqual(stream.recv(1), b"")
            if not ends:
                self.assertEqual(self.ask("GET", "/queue")[0], 200)
        self.assertEqual(process.wait(20), 70)
        self.assertIn("ended by the gateway: it does not answer\n", (self.place / "log").read_text())

    def test_the_hook_marks_the_files_that_nodes_save(self):
        # A pack takes the function by its name, and before anything was saved.
        pack = "from folder_paths import get_save_image_path as NAME\nimport json, os\nNAMES = [NAME(prefix, os.environ['OUT'])[1:4] for prefix in json.loads(os.environ['PREFIXES'])]\n" \
               "NAMES.append(NAME(filename_prefix='by name', output_dir=os.environ['OUT'])[1:4])\n" \
               "open(os.environ['OUT'] + '/names', 'w').write(json.dumps(NAMES))\n"
        out = self.place / "saved"
        out.mkdir()
        prefixes = ["a", "a/b", "a/b/", "a.b", "", ".", "a/.."]
        self.start(pack, {"STILLFRAME_MARK": "7s1", "OUT": str(out), "PREFIXES": json.dumps(prefixes)})
        names = json.loads((out / "names").read_text())
        self.assertEqual(names, [["a-7s1", 1, ""], ["b-7s1", 1, "a"], ["b-7s1", 1, "a"], ["a.b-7s1", 1, ""],
                                 [".", 1, ""], [".", 1, ""], [".", 1, ""], ["by name-7s1", 1, ""]])
        for count in (1, 2):
            entry = self.entry(self.post(RECORDED))
            self.assertEqual([image["filename"] for node in entry["outputs"].values() for image in node.get("images", [])], [f"x-7s1_{count:05}_.png"])

    def test_previews_by_what_a_client_knows(self):
        self.start()
        job = {"1": {"class_type": "Preview", "inputs": {"count": 2, "text": "half"}}}
        old, new, other = self.connect("old"), self.connect("new"), self.connect()
        new.send({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        flags = new.until(lambda m: m["type"] == "feature_flags")[-1]["data"]
        self.assertEqual(flags, self.ask("GET", "/features")[1])
        self.assertTrue(flags["supports_preview_metadata"])
        found = {}
        for name, socket_ in (("old", old), ("new", new)):
            prompt_id = self.post(job, client_id=name)
            found[name] = prompt_id, [m for m in socket_.until_over() if isinstance(m, bytes)]
        prompt_id, frames = found["old"]
        self.assertEqual([f[:4] for f in frames], [b"\0\0\0\3", b"\0\0\0\1"] * 2)
        self.assertEqual(frames[0][4:], b"\0\0\0\1" b"1half")
        self.assertEqual(frames[1][4:], b"\0\0\0\1\xff\xd8\xff\xe0" + f"{prompt_id} 0".encode())
        prompt_id, frames = found["new"]
        self.assertEqual([f[:4] for f in frames], [b"\0\0\0\3", b"\0\0\0\4"] * 2)
        size = int.from_bytes(frames[1][4:8], "big")
        metadata = json.loads(frames[1][8:8 + size])
        self.assertEqual((metadata["node_id"], metadata["prompt_id"], metadata["image_type"]), ("1", prompt_id, "image/jpeg"))
        self.assertEqual(frames[1][8 + size:], b"\xff\xd8\xff\xe0" + f"{prompt_id} 0".encode())
        # Whoever else is there hears how much waits, and nothing of others' jobs.
        other.close()
        third = self.connect("third")
        failed = self.post({"1": {"class_type": "Fail", "inputs": {"message": "no"}}}, client_id="new")
        self.assertEqual([m["type"] for m in new.until_over() if m["type"] != "status"],
                         ["execution_start", "execution_cached", "progress_state", "executing", "execution_error", "executing"])
        seen = third.until(lambda m: m["type"] == "status" and "sid" not in m["data"] and m["data"]["status"]["exec_info"]["queue_remaining"] == 0)
        self.assertEqual({m["type"] for m in seen}, {"status"})
        error = dict(self.entry(failed)["status"]["messages"])["execution_error"]
        self.assertEqual((error["exception_type"], error["exception_message"]), ("RuntimeError", "no\n"))

    def test_uploads(self):
        self.start()
        with_image = {"1": {"class_type": "Load", "inputs": {"image": "a.png"}}}
        self.assertEqual(self.ask("POST", "/prompt", {"prompt": with_image})[0], 400)
        for content, name in ((b"one", "a.png"), (b"one", "a.png"), (b"two", "a (1).png")):
            body = b"--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n" + content + b"\r\n--B--\r\n"
            connection = Unix(self.socket)
            connection.request("POST", "/upload/image", body, {"Content-Type": "multipart/form-data; boundary=B"})
            self.assertEqual(json.loads(connection.getresponse().read()), {"name": name, "subfolder": "", "type": "input"})
            connection.close()
        self.assertEqual(self.ask("GET", "/view?filename=a.png&type=input"), (200, "one"))
        self.entry(self.post(with_image))

    def test_an_instance_that_ends_while_it_has_a_job(self):
        process = self.start()
        prompt_id = self.post({"1": {"class_type": "Exit", "inputs": {}}})
        self.assertEqual(process.wait(15), 9)
        self.assertEqual([(run["prompt_id"], run["event"], run["pid"]) for run in self.runs()], [(prompt_id, "start", process.pid)])


if __name__ == "__main__":
    unittest.main()
