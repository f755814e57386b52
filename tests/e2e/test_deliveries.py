"""Webhooks and uploads: a receiver that fails, hangs, sends elsewhere, is down or wants no more harms nothing else, and hears of
everything at least once, whatever dies. A gateway and an instance as processes of their own, without hosts."""
import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import harness

SECONDS = 90
AGENT = os.environ.get("STILLFRAME_AGENT") or harness.AGENT
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
UPLOAD_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
QUICK = {"at_once": 4, "tries": 60, "age_ms": 600000, "pause_ms": 100, "longest_pause_ms": 400, "timeout_ms": 1500,
         "events": ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def graph(seconds=0.05, prefix="x", kind="Save"):
    return {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds}},
            "2": {"class_type": kind, "inputs": {"filename_prefix": prefix, "images": ["1", 0]}}}


class Receiver:
    """Answers by the first part of a path: /ok, /500/3 (so often, then 200), /hang, /redirect, /gone, /limit, /put."""

    def __init__(self, port=0, tls=None):
        self.heard, self.lock = [], threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = self.path.strip("/").split("/")
                with receiver.lock:
                    before = sum(one["path"] == self.path for one in receiver.heard)
                    receiver.heard.append({"path": self.path, "method": self.command, "headers": {k.lower(): v for k, v in self.headers.items()},
                                           "body": body, "at": time.time()})
                if parts[0] == "hang":
                    time.sleep(20)
                code = {"redirect": 302, "gone": 410, "limit": 429 if before < 1 else 200}.get(parts[0], 200)
                if parts[0] == "500" and before < int(parts[1]):
                    code = 500
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/stolen")
                if code == 429:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_POST

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def of(self, path):
        with self.lock:
            return [one for one in self.heard if one["path"] == f"/{path}"]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def check_signature(one):
    """As a receiver's library does."""
    head = one["headers"]
    signed = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + one["body"]
    right = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert head["webhook-signature"] == f"v1,{right}", head
    assert abs(int(head["webhook-timestamp"]) - one["at"]) < 60
    return json.loads(one["body"])


class Place:
    """An instance and a gateway that owns its jobs."""

    def __init__(self, case, deliveries, environment=None):
        self.folder = Path(tempfile.mkdtemp(prefix="deliveries-"))
        case.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        shutil.copytree(harness.ROOT / "tests/fixtures/service", self.folder / "program")
        (self.folder / "program/behaviour.json").write_text(json.dumps({"mark": "one"}))
        for name in ("output", "temp", "input"):
            (self.folder / name).mkdir()
        self.port, self.instance_port, self.metrics = free_port(), free_port(), free_port()
        self.control = self.folder / "control"
        self.case, self.processes = case, []
        case.addCleanup(self.down)
        words = [sys.executable, "main.py", "--port", self.instance_port, "--base-directory", self.folder, "--user-directory", self.folder]
        for name in ("output", "temp", "input"):
            words += [f"--{name}-directory", self.folder / name]
        self.begin(words, cwd=self.folder / "program", stdout=subprocess.DEVNULL)
        credentials = self.folder / "credentials"
        credentials.mkdir()
        (credentials / "webhook-secret").write_text(SECRET)
        (credentials / "upload-secret").write_text(UPLOAD_SECRET)
        self.environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(credentials), **(environment or {})}
        table = {"version": 1, "targets": [{"id": "s0-g1", "address": f"127.0.0.1:{self.instance_port}", "slot": 0, "generation": 1}]}
        (self.folder / "table.json").write_text(json.dumps(table))
        self.configure(deliveries)
        self.start()
        self.wait(lambda: self.ask({"op": "status"})["targets"][0]["healthy"])

    def configure(self, deliveries):
        rules = {"waiting": 1000, "waiting_per_client": 1000, "tries": 3, "drain_running": "requeue", "stuck_ms": 60000,
                 "keep": {"age_ms": 86400000, "count": 1000, "bytes": 1 << 30}, "deliveries": {**QUICK, **deliveries}}
        self.settings = self.folder / "settings.json"
        self.settings.write_text(json.dumps({
            "version": 1, "service": "demo", "listen": f"127.0.0.1:{self.port}", "metrics": f"127.0.0.1:{self.metrics}",
            "control": str(self.control), "table": str(self.folder / "table.json"), "api_keys": [],
            "limits": {"hold_ms": 5000, "connect_ms": 1000, "response_ms": 20000},
            "check": {"path": "/system_stats", "interval_ms": 200, "timeout_ms": 2000, "failures": 3},
            "jobs": {"file": str(self.folder / "jobs.sqlite"), "rules": rules}}))

    def begin(self, words, **more):
        process = subprocess.Popen(list(map(str, words)), **more)
        self.processes.append(process)
        return process

    def start(self):
        with open(self.folder / "log", "ab") as log:
            self.gateway = self.begin([AGENT, "gateway", "--settings", self.settings], env=self.environment, stderr=log, stdout=log)
        self.wait(lambda: self.ask({"op": "status"}))

    def down(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def kill(self):
        self.gateway.send_signal(signal.SIGKILL)
        self.gateway.wait()

    def wait(self, what, limit=30):
        until = time.monotonic() + limit
        while True:
            try:
                if value := what():
                    return value
            except (OSError, IndexError, KeyError, ValueError):
                pass
            if time.monotonic() > until:
                log = (self.folder / "log").read_text(errors="replace")
                raise AssertionError(f"not within {limit} s; the gateway said:\n" + "\n".join(log.splitlines()[-25:]))
            time.sleep(0.05)

    def ask(self, request):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(20)
            stream.connect(str(self.control))
            stream.sendall(json.dumps(request).encode() + b"\n")
            reply = json.loads(stream.makefile().readline())
        if reply.get("error"):
            raise ValueError(reply["error"])
        return reply

    def jobs(self, **ask):
        return self.ask({"op": "jobs", "ask": ask})["jobs"]

    def deliveries(self, **more):
        return self.jobs(ask="deliveries", limit=100, **more)

    def post(self, prompt=None, code=200, **more):
        body = json.dumps({"prompt": prompt or graph(), **more}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
        self.case.assertEqual(status, code, text)
        return json.loads(text)

    def run(self, *arguments, limit=30, **more):
        """A job to its end; how long that took."""
        began = time.monotonic()
        job = self.post(*arguments, **more)["prompt_id"]
        self.ended(job, limit)
        return job, time.monotonic() - began

    def ended(self, job, limit=30):
        return self.wait(lambda: (one := self.show(job)) and one["state"] not in ("queued", "dispatched", "running") and one, limit)

    def show(self, job):
        return self.jobs(ask="show", id=job)["job"]

    def page(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            return dict(re.findall(r"^stillframe_gateway_(deliver\w+) (\d+)$", answer.read().decode(), re.M))


class Case(unittest.TestCase):
    def setUp(self):
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)

    def place(self, path=None, environment=None, **deliveries):
        if path:
            deliveries["webhook"] = self.receiver.url(path)
        return Place(self, deliveries, environment)


class Webhooks(Case):
    def test_every_end_is_told_signed(self):
        place = self.place("ok")
        events = {}
        job, _ = place.run(client_id="me", extra_data={"extra_pnginfo": {"workflow": {"id": "flow"}}})
        events[job] = "job.succeeded"
        failed, _ = place.run(graph(kind="Fail"))
        events[failed] = "job.failed"
        running = place.post(graph(5))["prompt_id"]
        waits = [place.post(graph(5))["prompt_id"] for _ in range(2)]
        place.jobs(ask="cancel", ids=[*waits, running])
        events |= dict.fromkeys([*waits, running], "job.cancelled")
        heard = place.wait(lambda: len(got := self.receiver.of("ok")) == len(events) and got)
        told = {(body := check_signature(one))["data"]["id"]: body for one in heard}
        self.assertEqual({job: body["type"] for job, body in told.items()}, events)
        data = told[job]["data"]
        self.assertEqual((data["service"], data["client_id"], data["workflow_id"]), ("demo", "me", "flow"))
        self.assertEqual(data["outputs"], place.show(job)["history"]["outputs"])
        self.assertTrue(data["accepted"] <= data["started"] <= data["ended"])
        self.assertEqual(told[failed]["data"]["reason"]["kind"], "node-failed")
        self.assertRegex(told[job]["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(len({one["headers"]["webhook-id"] for one in heard}), len(events))
        place.wait(lambda: place.page() == {"deliveries_waiting": "0", "deliveries_failed": "0", "deliveries_total": str(len(events)),
                                            "delivery_failed_tries_total": "0"})

    def test_a_start_is_told_where_that_is_asked_for(self):
        place = self.place("ok", events=["job.started", "job.succeeded"])
        place.run()
        heard = place.wait(lambda: len(got := self.receiver.of("ok")) == 2 and got)
        self.assertEqual({check_signature(one)["type"] for one in heard}, {"job.started", "job.succeeded"})

    def test_one_that_fails_hears_the_same_message_again(self):
        place = self.place("500/3")
        job, _ = place.run()
        heard = place.wait(lambda: len(got := self.receiver.of("500/3")) == 4 and got)
        self.assertEqual(len({one["headers"]["webhook-id"] for one in heard}), 1)
        self.assertEqual(len({one["body"] for one in heard}), 1)
        for one in heard:
            check_signature(one)
        [row] = place.wait(lambda: [d for d in place.deliveries(job=job)["deliveries"] if d["state"] == "delivered"])
        self.assertEqual((row["tries"], row["what"], row["to"]), (4, "job.succeeded", self.receiver.url("500/3")))
        time.sleep(1)
        self.assertEqual(len(self.receiver.of("500/3")), 4, "what was delivered was sent again")

    def test_retry_after_is_heard(self):
        place = self.place("limit/x", longest_pause_ms=5000)
        place.run()
        first, second = place.wait(lambda: len(got := self.receiver.of("limit/x")) == 2 and got)
        self.assertGreater(second["at"] - first["at"], 0.9)

    def test_one_that_hangs_harms_nothing_else(self):
        origin = f"http://127.0.0.1:{self.receiver.port}"
        place = self.place("hang", origins=[origin])
        usual = []
        for number in range(12):
            own = {"extra_data": {"stillframe": {"webhook": self.receiver.url(f"ok/{number}")}}}
            usual.append(place.run(**own)[1])
        self.assertLess(max(usual), 5, "jobs wait for a receiver that hangs")
        for number in range(12):
            place.wait(lambda: self.receiver.of(f"ok/{number}"), 10)
        self.assertGreaterEqual(place.deliveries(states=["waiting"])["total"], 10)
        row = place.wait(lambda: [d for d in place.deliveries(states=["waiting"])["deliveries"] if d.get("why")])[0]
        self.assertEqual(row["why"], "nothing moved for 1500 ms")

    def test_a_redirect_is_not_followed(self):
        place = self.place("redirect")
        place.run()
        place.wait(lambda: len(self.receiver.of("redirect")) >= 2)
        self.assertEqual(self.receiver.of("stolen"), [])
        row = place.deliveries(states=["waiting"])["deliveries"][0]
        self.assertEqual(row["why"], "it answered 302: redirects are not followed")

    def test_one_that_is_down_for_a_while_hears_of_everything(self):
        port = free_port()
        place = self.place(webhook=f"http://127.0.0.1:{port}/late")
        jobs = {place.run()[0] for _ in range(8)}
        self.assertIn("cannot connect", place.wait(lambda: place.deliveries(states=["waiting"])["deliveries"][-1]["why"]))
        late = Receiver(port)
        self.addCleanup(late.close)
        heard = place.wait(lambda: len(got := late.of("late")) >= 8 and got)
        self.assertEqual({check_signature(one)["data"]["id"] for one in heard}, jobs)
        self.assertEqual(len(heard), 8, "told more than once without need")

    def test_410_ends_the_webhooks_of_that_job_and_of_no_other(self):
        place = self.place(events=["job.started", "job.succeeded"], origins=[f"http://127.0.0.1:{self.receiver.port}"])
        own = {"extra_data": {"stillframe": {"webhook": self.receiver.url("gone")}}}
        job = place.post(graph(2), **own)["prompt_id"]
        place.wait(lambda: place.deliveries(job=job, states=["gone"])["deliveries"])
        place.ended(job)
        time.sleep(1)
        self.assertEqual(len(self.receiver.of("gone")), 1)
        other, _ = place.run(extra_data={"stillframe": {"webhook": self.receiver.url("ok")}})
        self.assertEqual({check_signature(one)["data"]["id"] for one in place.wait(lambda: self.receiver.of("ok"))}, {other})

    def test_what_was_given_up_can_be_tried_again(self):
        place = self.place("500/3", tries=3)
        job, _ = place.run()
        [row] = place.wait(lambda: place.deliveries(states=["failed"])["deliveries"])
        self.assertEqual((row["job"], row["tries"], row["why"]), (job, 3, "it answered 500"))
        place.wait(lambda: place.page()["deliveries_failed"] == "1")
        self.assertEqual(place.jobs(ask="redeliver", ids=["msg_none"])["jobs"][0]["why"], "no such delivery")
        acted = place.jobs(ask="redeliver", failed=True)["jobs"]
        self.assertEqual([(one["id"], one["done"]) for one in acted], [(row["id"], True)])
        place.wait(lambda: place.deliveries(states=["delivered"])["deliveries"])
        self.assertEqual(len({one["headers"]["webhook-id"] for one in self.receiver.of("500/3")}), 1)
        again = place.jobs(ask="redeliver", ids=[row["id"]])["jobs"][0]
        self.assertEqual((again["done"], again["why"]), (False, "it is delivered"))

    def test_the_gateway_is_killed_in_between(self):
        port = free_port()
        place = self.place(webhook=f"http://127.0.0.1:{port}/late")
        jobs = {place.run()[0] for _ in range(4)}
        ids = {row["id"] for row in place.deliveries()["deliveries"]}
        place.kill()
        late = Receiver(port)
        self.addCleanup(late.close)
        place.start()
        heard = place.wait(lambda: len(got := late.of("late")) >= 4 and got)
        self.assertEqual({check_signature(one)["data"]["id"] for one in heard}, jobs)
        self.assertEqual({one["headers"]["webhook-id"] for one in heard}, ids)

    def test_the_gateway_is_killed_while_it_sends(self):
        place = self.place("hang", timeout_ms=20000)
        place.run()
        first = place.wait(lambda: self.receiver.of("hang"))[0]
        place.kill()
        place.start()
        second = place.wait(lambda: len(got := self.receiver.of("hang")) == 2 and got)[1]
        self.assertEqual(first["headers"]["webhook-id"], second["headers"]["webhook-id"])

    def test_a_killed_gateway_tells_of_each_end_under_load(self):
        place = self.place("ok")
        jobs = []
        for _ in range(3):
            jobs += [place.post(graph(0.02))["prompt_id"] for _ in range(10)]
            time.sleep(0.3)
            place.kill()
            place.start()
        place.wait(lambda: {check_signature(one)["data"]["id"] for one in self.receiver.of("ok")} == set(jobs), 60)
        ids = {}
        for one in self.receiver.of("ok"):
            ids.setdefault(check_signature(one)["data"]["id"], set()).add(one["headers"]["webhook-id"])
        self.assertEqual({len(of) for of in ids.values()}, {1}, "a second message, and not a second try")

    def test_at_an_upgrade_one_process_sends(self):
        place = self.place("500/6", pause_ms=300, longest_pause_ms=300)
        place.run()
        place.wait(lambda: self.receiver.of("500/6"))
        place.ask({"op": "upgrade", "program": str(AGENT), "limit_ms": 5000})
        job, _ = place.run()
        place.wait(lambda: place.deliveries(states=["delivered"])["total"] == 2)
        time.sleep(1)
        heard = self.receiver.of("500/6")
        by_id = {}
        for one in heard:
            by_id.setdefault(one["headers"]["webhook-id"], []).append(one["at"])
        self.assertEqual(len(by_id), 2)
        self.assertEqual(len(heard), 8, "sent by two")
        self.assertEqual(place.gateway.wait(20), 0)
        # Its successor is nobody's child here.
        pid = int(re.findall(r"process (\d+) took over", (place.folder / "log").read_text())[-1])
        os.kill(pid, signal.SIGKILL)

    def test_a_new_secret_comes_over_the_control_socket(self):
        place = self.place("ok")
        key = bytes(range(32, 64))
        place.ask({"op": "secrets", "secrets": {"webhook-secret": "whsec_" + base64.b64encode(key).decode()}})
        place.run()
        one = place.wait(lambda: self.receiver.of("ok"))[0]
        with self.assertRaises(AssertionError):
            check_signature(one)
        place.ask({"op": "secrets", "secrets": {}})
        place.run()
        self.assertEqual(place.wait(lambda: place.deliveries(states=["waiting"])["deliveries"][0]["why"]), "[service.jobs.webhooks] has no secret")
        place.ask({"op": "secrets", "secrets": {"webhook-secret": SECRET}})
        check_signature(place.wait(lambda: self.receiver.of("ok")[1:])[0])

    def test_the_secret_is_nowhere(self):
        place = self.place("500/2")
        place.run()
        place.wait(lambda: place.deliveries(states=["delivered"])["deliveries"])
        shown = json.dumps([place.deliveries(), place.jobs(ask="export", after=0, limit=10)])
        words = Path(f"/proc/{place.gateway.pid}/cmdline").read_bytes()
        place.kill()
        for file in ("log", "settings.json", "jobs.sqlite", "jobs.sqlite-wal"):
            self.assertNotIn(SECRET[6:].encode(), (place.folder / file).read_bytes(), file)
        self.assertNotIn(SECRET[6:], shown)
        self.assertNotIn(SECRET[6:].encode(), words)


class Addresses(Case):
    """What a job may have something sent to."""

    def test_only_what_is_allowed_and_nothing_private(self):
        port = self.receiver.port
        place = self.place(origins=[f"http://localhost:{port}"])

        def asks(address, code):
            return place.post(code=code, extra_data={"stillframe": {"webhook": address}})
        for address in (f"http://127.0.0.1:{port}/ok", "http://169.254.169.254/latest/meta-data/", f"https://localhost:{port}/ok",
                        f"http://localhost:{port + 1}/ok", f"http://localhost:{port}@evil.example/", "file:///etc/passwd", "localhost"):
            refused = asks(address, 400)["error"]
            self.assertEqual((refused["type"], refused["message"]), ("invalid_extra_data", "extra_data.stillframe.webhook is not allowed"))
        job = asks(f"http://localhost:{port}/ok?token=t0ken", 200)["prompt_id"]
        place.ended(job)
        row = place.wait(lambda: [d for d in place.deliveries(job=job)["deliveries"] if d.get("why")])[0]
        self.assertEqual(row["why"], "localhost has no public address, and jobs may reach no other")
        self.assertEqual(row["to"], f"http://localhost:{port}/ok?…")
        self.assertEqual(self.receiver.heard, [])
        # Allowed by name, it goes there.
        place.configure({"origins": [f"http://localhost:{port}"], "private_hosts": ["localhost"]})
        place.ask({"op": "reload"})
        heard = place.wait(lambda: self.receiver.of("ok?token=t0ken"))
        self.assertEqual(check_signature(heard[0])["data"]["id"], job)
        self.assertNotIn("t0ken", (place.folder / "log").read_text())

    def test_an_origin_that_is_no_longer_allowed_is_given_up(self):
        place = self.place(origins=[f"http://127.0.0.1:{self.receiver.port}"])
        job, _ = place.run(extra_data={"stillframe": {"webhook": self.receiver.url("500/99")}})
        place.wait(lambda: self.receiver.of("500/99"))
        place.kill()
        place.configure({"webhook": self.receiver.url("ok")})
        place.start()
        row = place.wait(lambda: place.deliveries(states=["failed"])["deliveries"], 75)[0]
        self.assertIn("no longer among the origins", row["why"])


class Tls(Case):
    def test_https_by_the_hosts_own_certificates(self):
        folder = Path(tempfile.mkdtemp(prefix="deliveries-tls-"))
        self.addCleanup(shutil.rmtree, folder)
        run = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=folder)  # noqa: E731
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=localhost")
        (folder / "ext").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem", "-days", "2", "-extfile", "ext")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        receiver = Receiver(tls=context)
        self.addCleanup(receiver.close)
        url = f"https://localhost:{receiver.port}/ok"
        place = Place(self, {"webhook": url}, {"SSL_CERT_FILE": str(folder / "ca.pem"), "SSL_CERT_DIR": str(folder / "none")})
        job, _ = place.run()
        self.assertEqual(check_signature(place.wait(lambda: receiver.of("ok"))[0])["data"]["id"], job)
        # By certificates that do not know it, nothing is said to it.
        other = Place(self, {"webhook": url.replace("/ok", "/other")}, {"SSL_CERT_FILE": "", "SSL_CERT_DIR": str(folder / "none")})
        other.run()
        why = other.wait(lambda: other.deliveries(states=["waiting"])["deliveries"][0]["why"])
        self.assertRegex(why, "certificate")
        self.assertEqual(receiver.of("other"), [])


class Uploads(Case):
    def test_files_are_put_to_an_address_and_the_webhook_tells_where(self):
        place = self.place("ok", upload={"to": "http", "url": self.receiver.url("put/{service}/{job}/{filename}"), "header": "authorization"})
        (place.folder / "credentials/upload-secret").write_text("Bearer t0ken")
        place.kill()
        place.start()
        job, _ = place.run(graph(prefix="a b"))
        name = place.show(job)["history"]["outputs"]["2"]["images"][0]["filename"]
        path = f"put/demo/{job}/{urllib.request.quote(name)}"
        [put] = place.wait(lambda: self.receiver.of(path))
        self.assertEqual((put["method"], put["headers"]["authorization"]), ("PUT", "Bearer t0ken"))
        self.assertEqual(put["body"], (place.folder / "output" / name).read_bytes())
        [told] = place.wait(lambda: self.receiver.of("ok"))
        [upload] = check_signature(told)["data"]["uploads"]
        self.assertEqual((upload["state"], upload["to"], upload["bytes"]), ("delivered", self.receiver.url(path), len(put["body"])))
        self.assertEqual(upload["file"], {"filename": name, "subfolder": "", "type": "output"})
        self.assertEqual(place.show(job)["uploads"], [upload])
        self.assertNotIn("t0ken", json.dumps(place.deliveries()) + (place.folder / "log").read_text())

    def s3(self, **more):
        return {"to": "s3", "bucket": "pictures", "key": "{service}/{job}/{filename}", "region": "eu-central-1",
                "endpoint": f"http://127.0.0.1:{self.receiver.port}", "path_style": True, "access_key": "AKIAIOSFODNN7EXAMPLE", **more}

    def test_s3_takes_the_signature(self):
        place = self.place(upload=self.s3())
        job, _ = place.run(graph(prefix="s3"))
        name = place.show(job)["history"]["outputs"]["2"]["images"][0]["filename"]
        path = f"pictures/demo/{job}/{urllib.request.quote(name)}"
        [put] = place.wait(lambda: self.receiver.of(path))
        self.assertEqual(put["body"], (place.folder / "output" / name).read_bytes())
        head = put["headers"]
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = "\n".join(["PUT", f"/{path}", "", *(f"{n}:{head[n]}" for n in names.split(";")), "", names, "UNSIGNED-PAYLOAD"])
        date, scope = head["x-amz-date"][:8], f"{head['x-amz-date'][:8]}/eu-central-1/s3/aws4_request"
        key = ("AWS4" + UPLOAD_SECRET).encode()
        for part in (date, "eu-central-1", "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        to_sign = "\n".join(["AWS4-HMAC-SHA256", head["x-amz-date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
        right = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        self.assertEqual(head["authorization"],
                         f"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{scope},SignedHeaders={names},Signature={right}")
        place.wait(lambda: place.show(job)["uploads"][0]["state"] == "delivered")
        self.assertEqual(place.show(job)["uploads"][0]["to"], f"s3://pictures/demo/{job}/{urllib.request.quote(name)}")

    def test_a_failing_upload_holds_no_webhook_up_for_long(self):
        place = self.place("ok", upload=self.s3(endpoint=f"http://127.0.0.1:{free_port()}"))
        job, seconds = place.run()
        self.assertLess(seconds, 5)
        [told] = place.wait(lambda: self.receiver.of("ok"), 20)
        [upload] = check_signature(told)["data"]["uploads"]
        self.assertEqual((upload["state"], upload["tries"]), ("waiting", 3))
        self.assertIn("cannot connect", upload["why"])
        self.assertEqual(place.show(job)["state"], "succeeded")

    def test_a_jobs_own_upload(self):
        place = self.place(origins=[f"http://127.0.0.1:{self.receiver.port}"])
        own = {"upload": self.receiver.url("put/{filename}")}
        job, _ = place.run(graph(prefix="own"), extra_data={"stillframe": own})
        name = place.show(job)["history"]["outputs"]["2"]["images"][0]["filename"]
        [put] = place.wait(lambda: self.receiver.of(f"put/{name}"))
        self.assertNotIn("authorization", put["headers"])
        refused = place.post(code=400, extra_data={"stillframe": {"upload": self.receiver.url("put")}})
        self.assertEqual(refused["error"]["details"], "it does not say where {filename} goes")

    def test_a_large_file_is_streamed(self):
        place = self.place(upload={"to": "http", "url": self.receiver.url("put/{job}/{filename}")}, tries=40)
        # The instance is away while its file becomes a large one.
        with sqlite3.connect(place.folder / "jobs.sqlite") as database:
            database.execute("SELECT 1")
        big = "x" * (64 << 20)
        (place.folder / "output/big.png").write_text(big)
        before = peak(place.gateway.pid)
        job, _ = place.run(graph(prefix="small"))
        place.wait(lambda: place.show(job)["uploads"][0]["state"] == "delivered")
        place.kill()
        content = json.dumps({"filename": "big.png", "subfolder": "", "type": "output", "instance": "s0-g1"})
        with sqlite3.connect(place.folder / "jobs.sqlite") as database:
            database.execute("UPDATE delivery SET state = 'waiting', content = ?, due = 0", [content])
        place.start()
        [put] = place.wait(lambda: self.receiver.of(f"put/{job}/big.png"), 60)
        self.assertEqual(len(put["body"]), len(big))
        self.assertLess(peak(place.gateway.pid) - before, 24 << 10, "KiB: a file was held in memory")


def peak(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


if __name__ == "__main__":
    unittest.main()
