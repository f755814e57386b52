#!/usr/bin/env python3
"""A crowd of clients of one service, with nothing but the standard library, each of which knows what is its own: every answer and every message that
is somebody else's is told as misrouted.

    crowd.py URL [--clients N] [--requests N] [--limit S]

A client has a WebSocket, which it opens anew now and then, and a kept connection over which it uploads pictures, asks for jobs that load them and save
one under a name that all clients ask for, cancels some, and looks at histories and pictures, also at those of earlier jobs. Prints, as JSON: `count` of
each kind of request, `misrouted`, `failures`, and `jobs`: id -> {client, process (that made its picture), status}.
"""
import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import time
import uuid
from urllib.parse import quote, urlsplit

from jobclients import read_frame

#: How long a client waits for the end of a job: seconds.
PATIENCE = 60


class Crowd:
    def __init__(self, url, options):
        parts = urlsplit(url)
        self.host, self.port, self.options = parts.hostname, parts.port, options
        self.count, self.jobs, self.misrouted, self.failures = {}, {}, [], []
        self.until = time.monotonic() + options.limit

    def asked(self):
        return sum(self.count.values())

    def is_over(self):
        return self.asked() >= self.options.requests or time.monotonic() > self.until

    async def run(self):
        await asyncio.gather(*(Client(self, number).run() for number in range(self.options.clients)))
        print(json.dumps({"count": self.count, "jobs": self.jobs, "misrouted": self.misrouted, "failures": self.failures}))


class Client:
    def __init__(self, crowd, number):
        self.crowd, self.name, self.random = crowd, f"crowd-{number}", random.Random(number)
        self.reader = self.writer = self.listening = None
        self.own, self.ended, self.uploads, self.begun = {}, {}, {}, set()
        self.change = asyncio.Event()

    async def run(self):
        try:
            await self.listen_anew()
            await self.upload()
            kinds = [self.job] * 5 + [self.upload, self.again, self.again, self.listen_anew, self.cancelled]
            while not self.crowd.is_over():
                await self.random.choice(kinds)()
        except Exception as e:
            self.fail("client", repr(e))
        finally:
            self.listening.cancel()
            if self.writer:
                self.writer.close()

    def fail(self, what, *why):
        self.crowd.failures.append([self.name, what, *map(str, why)])

    def mine(self, right, what, *why):
        """Whether an answer is this client's own."""
        if not right:
            self.crowd.misrouted.append([self.name, what, *(str(each)[:300] for each in why)])
        return right

    # --- HTTP

    async def ask(self, kind, method, path, body=b"", content_type="application/json"):
        self.crowd.count[kind] = self.crowd.count.get(kind, 0) + 1
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.crowd.host, self.crowd.port)
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self.crowd.host}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                          + body)
        status = int((await self.reader.readline()).split()[1])
        length = 0
        while line := (await self.reader.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answer = await self.reader.readexactly(length)
        if status != 200:
            self.fail(kind, path, status, answer[:300])
        return status, answer

    async def json(self, kind, method, path, value=None):
        status, answer = await self.ask(kind, method, path, b"" if value is None else json.dumps(value).encode())
        return json.loads(answer) if status == 200 and answer else None

    # --- what a client does

    async def upload(self):
        """A picture of its own, which it has back, whichever instance is asked."""
        name, content = f"{self.name}-{len(self.uploads)}.png", os.urandom(2000)
        body = f'--B\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n--B--\r\n"
        _, answer = await self.ask("upload", "POST", "/upload/image", body, "multipart/form-data; boundary=B")
        self.mine(json.loads(answer).get("name") == name, "upload", name, answer)
        self.uploads[name] = content
        await self.look_at_upload(name)

    async def look_at_upload(self, name):
        _, answer = await self.ask("view", "GET", f"/view?type=input&filename={name}")
        self.mine(answer == self.uploads[name], "view of an upload", name, answer)

    async def post(self, seconds):
        job, image = str(uuid.uuid4()), self.random.choice(list(self.uploads))
        prompt = {"1": {"class_type": "Load", "inputs": {"image": image}}, "2": {"class_type": "Sleep", "inputs": {"seconds": seconds, "image": ["1", 0]}},
                  "3": {"class_type": "Preview", "inputs": {"count": 1, "image": ["2", 0]}},
                  "4": {"class_type": "Save", "inputs": {"filename_prefix": "of all", "images": ["3", 0]}}}
        self.own[job] = {"image": image, "files": []}
        self.crowd.jobs[job] = {"client": self.name, "process": None, "status": None}
        made = await self.json("job", "POST", "/prompt", {"prompt": prompt, "client_id": self.name, "prompt_id": job})
        self.mine(made is None or made["prompt_id"] == job, "job", job, made)
        return job

    async def job(self):
        job = await self.post(self.random.choice([0.02, 0.1, 0.2]))
        await self.look_at_record(job)
        await self.until_over(job)
        await self.look_at_history(job)

    async def cancelled(self):
        """One that it no longer wants: that one ends, and nobody else's."""
        job = await self.post(2)
        self.own[job]["unwanted"] = True
        await asyncio.sleep(self.random.choice([0, 0.1, 0.5]))
        path, value = self.random.choice([(f"/api/jobs/{job}/cancel", {}), ("/queue", {"delete": [job]}), ("/interrupt", {"prompt_id": job})])
        await self.json("cancel", "POST", path, value)
        record = await self.look_at_record(job)
        if record and record["status"] in ("pending", "in_progress") and path in ("/queue", "/interrupt"):
            # Those two know only what waits, or only what runs.
            await self.json("cancel", "POST", f"/api/jobs/{job}/cancel", {})
        await self.until_over(job)
        await self.look_at_history(job)

    async def again(self):
        """Something of its own that it has seen before."""
        over = [job for job, known in self.own.items() if known.get("status")]
        if not over:
            return await self.look_at_upload(self.random.choice(list(self.uploads)))
        job = self.random.choice(over)
        await self.random.choice([self.look_at_history, self.look_at_record])(job)

    async def until_over(self, job):
        """Heard over the WebSocket, or seen in the history after a moment without a word."""
        deadline = time.monotonic() + PATIENCE
        while job not in self.ended:
            self.change.clear()
            try:
                await asyncio.wait_for(self.change.wait(), 3)
            except asyncio.TimeoutError:
                if await self.json("history", "GET", f"/history/{job}"):
                    return
                if time.monotonic() > deadline:
                    return self.fail("never ended", job)

    async def look_at_record(self, job):
        record = await self.json("record", "GET", f"/api/jobs/{job}")
        if record is not None:
            self.mine(record["id"] == job, "record", job, record)
        return record

    async def look_at_history(self, job):
        history, known = await self.json("history", "GET", f"/history/{job}"), self.own[job]
        if not history:
            # One that was cancelled before it began is in no history of ComfyUI's.
            return None if known.get("unwanted") else self.fail("history", job, "is not there")
        entry = history.get(job)
        if not self.mine(list(history) == [job] and entry["prompt"][1] == job and entry["prompt"][3].get("client_id") == self.name, "history", job, history):
            return None
        status = known["status"] = self.crowd.jobs[job]["status"] = entry["status"]["status_str"]
        if status != "success" and not known.get("unwanted"):
            self.fail("job", job, status, entry["status"]["messages"][-1])
        for image in [image for output in entry["outputs"].values() for image in output.get("images", [])]:
            _, answer = await self.ask("view", "GET", f"/view?filename={quote(image['filename'])}&subfolder={quote(image['subfolder'])}&type={image['type']}")
            words = answer.decode(errors="replace").split()
            loaded = hashlib.sha256(self.uploads[known["image"]]).hexdigest()
            if self.mine(len(words) == 4 and words[1] == job and words[3] == loaded, "view", job, image, answer):
                before = self.crowd.jobs[job]["process"]
                self.mine(before in (None, words[2]), "view: another process made it than before", job, before, answer)
                self.crowd.jobs[job]["process"] = words[2]
        return entry

    # --- the WebSocket

    async def listen_anew(self):
        if self.listening:
            self.listening.cancel()
        self.crowd.count["socket"] = self.crowd.count.get("socket", 0) + 1
        reader, writer = await asyncio.open_connection(self.crowd.host, self.crowd.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(f"GET /ws?clientId={self.name} HTTP/1.1\r\nHost: {self.crowd.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        first = await reader.readline()
        if b" 101 " not in first:
            return self.fail("socket", first)
        while (await reader.readline()).strip():
            pass
        self.listening = asyncio.create_task(self.listen(reader, writer))

    async def listen(self, reader, writer):
        try:
            while True:
                message = await read_frame(reader, writer, binary=True)
                if message is None:
                    return self.fail("socket", "it ended")
                if isinstance(message, bytes):
                    # A preview: its job is in it.
                    self.mine(any(job.encode() in message for job in self.own), "preview", message[:100])
                    continue
                job = message.get("data", {}).get("prompt_id")
                if job is None:
                    sid = message.get("data", {}).get("sid")
                    self.mine(sid in (None, self.name), "status", message)
                    continue
                self.mine(job in self.own, "message", message)
                if message["type"] == "executing" and message["data"].get("node") is None:
                    self.ended[job] = True
                    self.change.set()
        except (OSError, asyncio.IncompleteReadError) as e:
            self.fail("socket", repr(e))
        finally:
            writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=300)
    options = parser.parse_args()
    asyncio.run(Crowd(options.url, options).run())


if __name__ == "__main__":
    main()
