#!/usr/bin/env python3
"""Clients of a service's jobs, with nothing but the standard library: each has a WebSocket that stays, posts jobs, and goes on until each of
its jobs has ended for it.

    jobclients.py URL [--clients N] [--jobs N] [--seconds S] [--ahead N] [--limit S] [--prefix TEXT] [--uploads] [--paced]

Each client has at most `--ahead` jobs open. Every job saves a file with its own prefix, or with one for all. With `--uploads` it is made of a picture
that its client has uploaded right before. With `--paced` each line of the input is a number: so many jobs may have been asked for by then, and after
the last line all. Once all have ended, every picture is fetched again. Prints, as JSON, what became of each job and every failure: `jobs` is
id -> {client, accepted, loaded (the hash of what it is made of), heard (how its end was heard: "socket" or "history"), ended, status, why (of one that
failed), files}.
"""
import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import time
import uuid
from urllib.parse import quote, urlsplit


class Clients:
    def __init__(self, url, options):
        parts = urlsplit(url)
        self.host, self.port, self.options = parts.hostname, parts.port, options
        self.jobs, self.failures, self.refused, self.cuts = {}, [], 0, []
        self.until = time.monotonic() + options.limit
        self.may_ask, self.asked, self.more = (0 if options.paced else sys.maxsize), 0, asyncio.Event()

    async def pace(self):
        """Reads how many may be asked for."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            line = await reader.readline()
            self.may_ask = int(line) if line.strip() else sys.maxsize
            self.more.set()
            if not line:
                return

    async def turn(self, open_jobs, ended):
        """Until one more may be asked for."""
        while self.asked >= self.may_ask and time.monotonic() < self.until:
            self.more.clear()
            try:
                await asyncio.wait_for(self.more.wait(), 0.5)
            except asyncio.TimeoutError:
                await self.settle(open_jobs, ended)
        self.asked += 1

    async def ask(self, method, path, body=None, kind="application/json", again=(502, 503, 504)):
        """One request on a connection of its own; a refused connection or a 503 is tried again, since a gateway restarts."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        while True:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\nContent-Type: {kind}\r\n"
                                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
                    await writer.drain()
                    answer = await asyncio.wait_for(reader.read(), 60)
                finally:
                    writer.close()
                head, _, content = answer.partition(b"\r\n\r\n")
                status = int(head.split()[1])
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                if len(content) != length:
                    raise ValueError("the answer broke off")
                if status not in again:
                    return status, content
                self.refused += 1
            except (OSError, IndexError, ValueError, StopIteration, asyncio.TimeoutError):
                self.refused += 1
            if time.monotonic() > self.until:
                raise TimeoutError(f"{method} {path}")
            await asyncio.sleep(0.1)

    async def client(self, number):
        name = f"client-{number}"
        ended = {}
        listening = asyncio.create_task(self.listen(name, ended))
        open_jobs = set()
        for turn in range(self.options.jobs):
            while len(open_jobs) >= self.options.ahead and time.monotonic() < self.until:
                await self.settle(open_jobs, ended)
            await self.turn(open_jobs, ended)
            if time.monotonic() > self.until:
                break
            # An id of the client's own: after a connection that broke it can ask again without the job running twice.
            job = str(uuid.uuid4())
            prompt = {"1": {"class_type": "Sleep", "inputs": {"seconds": self.options.seconds}},
                      "2": {"class_type": "Save", "inputs": {"filename_prefix": self.options.prefix or f"{name}-{turn}", "images": ["1", 0]}}}
            loaded = await self.upload(f"{name}-{turn}.png", prompt) if self.options.uploads else ""
            status, answer = await self.ask("POST", "/prompt", {"prompt": prompt, "client_id": name, "prompt_id": job})
            if status != 200:
                self.failures.append(["prompt", job, status, answer.decode(errors="replace")[:500]])
                continue
            self.jobs[job] = {"client": name, "accepted": time.time(), "loaded": loaded}
            open_jobs.add(job)
        while open_jobs and time.monotonic() < self.until:
            await self.settle(open_jobs, ended)
        for job in open_jobs:
            self.failures.append(["never ended", job])
        listening.cancel()

    async def upload(self, name, prompt):
        """What the job is made of; its hash."""
        content = os.urandom(5000)
        body = f'--B\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n--B--\r\n"
        # A disk that has just been taken away: nothing is promised yet.
        status, answer = await self.ask("POST", "/upload/image", body, "multipart/form-data; boundary=B", again=(500, 502, 503, 504))
        if status != 200:
            self.failures.append(["upload", name, status, answer.decode(errors="replace")[:200]])
            return ""
        prompt["0"] = {"class_type": "Load", "inputs": {"image": json.loads(answer)["name"]}}
        prompt["1"]["inputs"]["image"] = ["0", 0]
        return hashlib.sha256(content).hexdigest()

    async def settle(self, open_jobs, ended):
        """What its socket told, and, as a careful client does, the history now and then."""
        await asyncio.sleep(0.2)
        for job in list(open_jobs):
            told = ended.get(job)
            if told is None and time.time() - self.jobs[job].get("asked", self.jobs[job]["accepted"]) < 5:
                continue
            self.jobs[job]["asked"] = time.time()
            status, answer = await self.ask("GET", f"/history/{job}")
            entry = json.loads(answer).get(job) if status == 200 else None
            if entry is None:
                status, answer = await self.ask("GET", f"/api/jobs/{job}")
                if told is not None:
                    self.failures.append(["no history after its end", job, told])
                    open_jobs.discard(job)
                elif status != 200:
                    self.failures.append(["lost", job, status, answer.decode(errors="replace")[:200]])
                    open_jobs.discard(job)
                continue
            files = [image["filename"] for output in entry["outputs"].values() for image in output.get("images", [])]
            self.jobs[job].update(heard="socket" if told else "history", ended=time.time(), status=entry["status"]["status_str"], files=files,
                                  place=entry["prompt"][0], owner=entry["prompt"][3].get("client_id"))
            if entry["status"]["status_str"] != "success":
                self.jobs[job]["why"] = entry["status"]["messages"][-1]
            await self.look_at(job, "picture")
            open_jobs.discard(job)

    async def look_at(self, job, what):
        for name in self.jobs[job]["files"]:
            for pause in (1, 5, 0):
                status, picture = await self.ask("GET", f"/view?filename={quote(name)}")
                if status != 500:
                    break
                # An instance whose disk has just been taken away says so, before the rest of its host is gone.
                await asyncio.sleep(pause)
            text = picture.decode(errors="replace")
            if status != 200 or job not in text or self.jobs[job]["loaded"] not in text:
                self.failures.append([what, job, name, status, picture.decode(errors="replace")[:200]])

    async def listen(self, name, ended):
        while True:
            opened = time.time()
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
                key = base64.b64encode(os.urandom(16)).decode()
                writer.write(f"GET /ws?clientId={name} HTTP/1.1\r\nHost: {self.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
                if b" 101 " not in await reader.readline():
                    raise ConnectionError("no upgrade")
                while (await reader.readline()).strip():
                    pass
                while True:
                    message = await read_frame(reader, writer)
                    if message is None:
                        break
                    if message.get("type") == "executing" and message["data"].get("node") is None:
                        ended[message["data"].get("prompt_id")] = "executing"
                    if message.get("type") in ("execution_error", "execution_interrupted"):
                        ended.setdefault(message["data"].get("prompt_id"), message["type"])
            except (OSError, asyncio.IncompleteReadError):
                pass
            self.cuts.append([name, opened, time.time()])
            await asyncio.sleep(0.2)

    async def run(self):
        pace = asyncio.create_task(self.pace()) if self.options.paced else None
        await asyncio.gather(*(self.client(number) for number in range(self.options.clients)))
        for job in [job for job, seen in self.jobs.items() if seen.get("files")]:
            await self.look_at(job, "picture afterwards")
        if pace:
            pace.cancel()
        print(json.dumps({"jobs": self.jobs, "failures": self.failures, "refused": self.refused, "cuts": self.cuts}))


async def read_frame(reader, writer, binary=False):
    """The next text message; {} for any other, but for a binary one that is wanted; None at the end."""
    first, second = await reader.readexactly(2)
    size = second & 127
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    payload = await reader.readexactly(size)
    if first & 15 == 8:
        return None
    if first & 15 == 9:
        writer.write(bytes([0x8a, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        await writer.drain()
    if binary and first & 15 == 2:
        return payload
    return json.loads(payload) if first & 15 == 1 else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--ahead", type=int, default=5)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--prefix", help="of the names of all pictures")
    parser.add_argument("--uploads", action="store_true", help="each job is made of a picture that was uploaded for it")
    parser.add_argument("--paced", action="store_true", help="each line of the input says how many jobs may have been asked for")
    options = parser.parse_args()
    asyncio.run(Clients(options.url, options).run())


if __name__ == "__main__":
    main()
