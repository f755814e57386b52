"""What clients and disks give the gateway's jobs that they should not: each has ComfyUI's shape of error, and nothing is lost."""
import base64
import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import unittest
import uuid

import test_v2
from test_v2 import KEYS, graph

SECONDS = 60
BATCH = True


class WebSocket:
    def __init__(self, port, client, key=None):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=10)
        given = f"Authorization: Bearer {key}\r\n" if key else ""
        self.stream.sendall(f"GET /ws?clientId={client} HTTP/1.1\r\nHost: localhost\r\n{given}Connection: Upgrade\r\nUpgrade: websocket\r\n"
                            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode())
        self.file = self.stream.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        while self.file.readline().strip():
            pass

    def heard(self, seconds):
        """The texts that come until none has come for so long."""
        self.stream.settimeout(seconds)
        found = []
        with contextlib.suppress(TimeoutError):
            while True:
                first, size = self.file.read(2)
                if size > 125:
                    size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
                payload = self.file.read(size)
                if first & 15 == 1:
                    found.append(json.loads(payload))
        return found

    def close(self):
        self.file.close()
        self.stream.close()


class Jobs(test_v2.V2):
    rules = {"waiting": 1000, "waiting_per_client": 1000}

    def post(self, body, status=200, key=None):
        got, headers, answer = self.ask("POST", "/prompt", body, key, Content_Type="application/json")
        self.assertEqual(got, status, answer)
        return (answer, headers) if status != 200 else answer["prompt_id"]

    def refused(self, body, status, kind, key=None):
        answer, headers = self.post(body, status, key)
        self.assertEqual((answer["error"]["type"], sorted(answer["error"]), answer["node_errors"]),
                         (kind, ["details", "extra_info", "message", "type"], {}))
        return answer["error"], headers

    def ended(self, job, key=None):
        return self.wait(lambda: self.get(f"/history/{job}", key=key).get(job), 60)

    def goes_on(self, key=None):
        job = self.post({"prompt": graph(0)}, key=key)
        self.assertEqual(self.ended(job, key)["status"]["status_str"], "success")
        return job


class Requests(Jobs):
    def test_what_is_no_job(self):
        before = self.goes_on()
        for body, kind in ((b'{"prompt"', "invalid_json"), (b"\xff\xfe{}", "invalid_json"), (b"[]", "no_prompt"), (b"", "invalid_json"), ({}, "no_prompt"),
                           (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json"),
                           ({"prompt": graph(0), "prompt_id": "one"}, "invalid_prompt_id"), ({"prompt": graph(0), "prompt_id": str(uuid.uuid4()).upper()}, "invalid_prompt_id")):
            self.refused(body, 400, kind)
        self.assertEqual(self.get("/prompt"), {"exec_info": {"queue_remaining": 0}})
        self.assertIn(before, self.get("/history"))
        self.goes_on()

    def test_a_prompt_of_100_mb(self):
        """One that is within the limit runs to its end, and one beyond it is refused."""
        large = {"prompt": {**graph(0), "3": {"class_type": "Sleep", "inputs": {"seconds": 0, "text": "x" * (90 << 20)}}}}
        job = self.post(large)
        self.assertEqual(self.ended(job)["status"]["status_str"], "success")
        self.assertEqual(len(self.get(f"/history/{job}")[job]["prompt"][2]["3"]["inputs"]["text"]), 90 << 20)
        large["prompt"]["3"]["inputs"]["text"] = "x" * (120 << 20)
        self.refused(large, 413, "request_too_large")
        self.goes_on()

    def test_a_client_that_nobody_knows(self):
        job = self.post({"prompt": graph(0), "client_id": "nobody has connected as this one"})
        self.assertEqual(self.ended(job)["prompt"][3]["client_id"], "nobody has connected as this one")

    def test_a_thousand_sockets_of_one_client(self):
        sockets = [WebSocket(self.port, "many") for _ in range(1000)]
        try:
            self.assertEqual([one.status for one in sockets[:64]], [101] * 64)
            self.assertEqual({one.status for one in sockets[64:]}, {429})
            other = WebSocket(self.port, "another")
            self.assertEqual(other.status, 101)
            other.close()
            job = self.post({"prompt": graph(0), "client_id": "many"})
            for one in (sockets[0], sockets[63]):
                ends = [m for m in one.heard(2) if m["type"] == "executing" and m["data"]["node"] is None]
                self.assertEqual([end["data"]["prompt_id"] for end in ends], [job])
        finally:
            for one in sockets:
                one.close()

    def test_files_that_are_nowhere(self):
        self.goes_on()
        secret = self.place / "secret.png"
        secret.write_bytes(b"secret")
        for query in ("filename=../secret.png", "filename=..%2Fsecret.png", "filename=secret.png&subfolder=..", "filename=secret.png&subfolder=%2e%2e",
                      f"filename={secret}", "filename=none.png", "filename=", "", "filename=a.png&type=nonsense"):
            status, _, body = self.ask("GET", f"/view?{query}&type=output" if "type" not in query else f"/view?{query}")
            self.assertIn(status, (400, 403, 404), query)
            self.assertNotIn(b"secret", body if isinstance(body, bytes) else json.dumps(body).encode())

    def test_an_upload_that_breaks_off(self):
        body = b'--B\r\nContent-Disposition: form-data; name="image"; filename="cut.png"\r\nContent-Type: image/png\r\n\r\n' + test_v2.PICTURE
        with socket.create_connection(("127.0.0.1", self.port)) as stream:
            stream.sendall(b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: "
                           + str(len(body) + 100_000).encode() + b"\r\n\r\n" + body)
            # What was cut is not taken for a file.
        whole = body + b"\r\n--B--\r\n"
        self.wait(lambda: not (self.place / "input/cut.png").exists(), 5)
        status, _, answer = self.ask("POST", "/upload/image", whole, Content_Type="multipart/form-data; boundary=B")
        self.assertEqual((status, answer["name"]), (200, "cut.png"))
        self.assertEqual((self.place / "input/cut.png").read_bytes(), test_v2.PICTURE)


class OtherKeys(Jobs):
    keys = KEYS

    def test_a_client_id_of_another_key(self):
        first, second = KEYS
        own, other = WebSocket(self.port, "same", first), WebSocket(self.port, "same", second)
        self.addCleanup(own.close)
        self.addCleanup(other.close)
        self.assertEqual((own.status, other.status), (101, 101))
        job = self.post({"prompt": graph(0), "client_id": "same"}, key=first)
        of_job = lambda socket: {m["type"] for m in socket.heard(2) if m["data"].get("prompt_id") == job}  # noqa: E731
        self.assertIn("execution_success", of_job(own))
        self.assertEqual(of_job(other), set())


class Disks(Jobs):
    def test_a_database_of_a_newer_version(self):
        before = self.goes_on()
        waits = [self.post({"prompt": graph(3)}) for _ in range(2)]
        self.kill()
        file = self.place / "jobs/jobs.db"
        with contextlib.closing(sqlite3.connect(file)) as database:
            [version] = database.execute("PRAGMA user_version").fetchone()
            database.execute("PRAGMA user_version = 99")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.restarted()
        error, headers = self.refused({"prompt": graph(0)}, 503, "service_unavailable")
        self.assertIn("99", json.dumps(error))
        self.assertTrue(int(headers["Retry-After"]))
        # Everything else is served.
        self.assertEqual(self.ask("GET", "/system_stats")[0], 200)
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute(f"PRAGMA user_version = {version}")
        self.wait(lambda: self.ask("GET", "/history")[0] == 200, 30)
        for job in [before, *waits]:
            self.assertEqual(self.ended(job)["status"]["status_str"], "success")
        self.goes_on()

    def test_a_folder_that_cannot_be_written(self):
        before = self.goes_on()
        waits = [self.post({"prompt": graph(3)}) for _ in range(2)]
        self.kill()
        folder = self.place / "jobs"
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        mounted = True
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            self.restarted()
            self.refused({"prompt": graph(0)}, 503, "service_unavailable")
            self.assertEqual(self.ask("GET", "/system_stats")[0], 200)
            subprocess.run(["umount", folder], check=True)
            mounted = False
        finally:
            if mounted:
                subprocess.run(["umount", "-l", folder], check=False)
        self.wait(lambda: self.ask("GET", "/history")[0] == 200, 30)
        for job in [before, *waits]:
            self.assertEqual(self.ended(job)["status"]["status_str"], "success")
        self.goes_on()

    def restarted(self):
        (self.place / "control").unlink(missing_ok=True)
        type(self).gateway = self.process(test_v2.AGENT, "gateway", "--settings", self.place / "settings.json")
        self.wait((self.place / "control").exists)
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.place / "control"))
            control.sendall(json.dumps({"op": "set", "table": {"version": 1, "targets": self.instances}}).encode() + b"\n")
            control.makefile().readline()
        self.wait(lambda: self.ask("GET", "/system_stats")[0] == 200)


if __name__ == "__main__":
    unittest.main()
