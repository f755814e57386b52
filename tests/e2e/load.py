#!/usr/bin/env python3
"""A steady mixed load on a service's public port, with nothing but the standard library: small requests on kept connections, uploads in
chunks, jobs with their results, and WebSockets that speak all the time.

    load.py URL [--requests N] [--uploads N] [--pace S] [--jobs N] [--sockets N] [--kept-may-end] [--key-file FILE]

Ends at SIGTERM and prints what it saw as JSON: how much of each went well, and every failure with its time.
"""
import argparse
import asyncio
import base64
import json
import os
import signal
import time
from urllib.parse import urlsplit


class Load:
    def __init__(self, url):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.count = {"requests": 0, "uploads": 0, "jobs": 0, "messages": 0, "sockets": 0}
        self.failures, self.cuts, self.marks = [], [], set()
        self.stopping = False
        self.kept_may_end = False
        self.key = ""
        self.pace = 0.005

    def fail(self, what, why):
        if not self.stopping:
            self.failures.append([time.time(), what, repr(why)])

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port)

    async def exchange(self, reader, writer, method, path, body=b"", chunked=False):
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{self.key}"
        if chunked:
            writer.write((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
            for at in range(0, len(body), 65536):
                part = body[at:at + 65536]
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()
                await asyncio.sleep(self.pace)
            writer.write(b"0\r\n\r\n")
        else:
            writer.write((head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        length = 0
        while (line := (await reader.readline()).strip()):
            key, _, value = line.partition(b":")
            if key.lower() == b"content-length":
                length = int(value)
        return status, await reader.readexactly(length)

    async def requests(self):
        reader = writer = None
        kept = False
        while not self.stopping:
            try:
                if writer is None:
                    reader, writer = await self.connect()
                    kept = False
                try:
                    status, body = await self.exchange(reader, writer, "GET", "/system_stats")
                except (IndexError, ConnectionError):
                    # RFC 9112 9.3.1: a kept connection may end at any time, and the client asks again on a new one.
                    if not self.kept_may_end or not kept:
                        raise
                    writer.close()
                    reader, writer = await self.connect()
                    status, body = await self.exchange(reader, writer, "GET", "/system_stats")
                kept = True
                if status != 200:
                    raise ValueError(status, body)
                self.marks.add(json.loads(body)["system"].get("mark"))
                self.count["requests"] += 1
                await asyncio.sleep(0.02)
            except Exception as e:
                self.fail("request", e)
                if writer is not None:
                    writer.close()
                writer = None

    async def uploads(self):
        body = os.urandom(1 << 20)
        while not self.stopping:
            try:
                reader, writer = await self.connect()
                status, answer = await self.exchange(reader, writer, "POST", "/upload/image", body, chunked=True)
                writer.close()
                if status != 200 or json.loads(answer)["size"] != len(body):
                    raise ValueError(status, answer)
                self.count["uploads"] += 1
                await asyncio.sleep(0.1)
            except Exception as e:
                self.fail("upload", e)

    async def jobs(self):
        prompt = {"prompt": {"1": {"class_type": "Sleep", "inputs": {"seconds": 0.1}}, "2": {"class_type": "Save", "inputs": {}}}}
        while not self.stopping:
            try:
                reader, writer = await self.connect()
                status, answer = await self.exchange(reader, writer, "POST", "/prompt", json.dumps(prompt).encode())
                if status != 200:
                    raise ValueError(status, answer)
                prompt_id = json.loads(answer)["prompt_id"]
                deadline = time.monotonic() + 20
                while True:
                    status, answer = await self.exchange(reader, writer, "GET", f"/history/{prompt_id}")
                    found = json.loads(answer)
                    if prompt_id in found:
                        break
                    if time.monotonic() > deadline:
                        raise TimeoutError("the job's result never came")
                    await asyncio.sleep(0.05)
                image = found[prompt_id]["outputs"]["2"]["images"][0]["filename"]
                status, answer = await self.exchange(reader, writer, "GET", f"/view?filename={image}")
                if status != 200 or prompt_id not in answer.decode():
                    raise ValueError("the picture", status, answer)
                writer.close()
                self.count["jobs"] += 1
                # Now and then: an old instance that has a job has time for everything else too.
                await asyncio.sleep(2)
            except Exception as e:
                self.fail("job", e)

    async def socket(self, number):
        while not self.stopping:
            opened = None
            try:
                reader, writer = await self.connect()
                key = base64.b64encode(os.urandom(16)).decode()
                writer.write(f"GET /ws?clientId=load-{number} HTTP/1.1\r\nHost: {self.host}\r\n{self.key}Connection: Upgrade\r\nUpgrade: websocket\r\n"
                             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
                if b"101" not in await reader.readline():
                    raise ValueError("no upgrade")
                while (await reader.readline()).strip():
                    pass
                opened = time.time()
                self.count["sockets"] += 1
                greeted = False
                while not self.stopping:
                    if greeted:
                        # A ping (RFC 6455, 5.5.2): whoever has the socket answers it, and only with the same bytes.
                        text = os.urandom(8).hex().encode()
                        writer.write(bytes([0x89, 0x80 | len(text), 0, 0, 0, 0]) + text)
                        await writer.drain()
                    while True:
                        first, size = await reader.readexactly(2)
                        if size == 126:
                            size = int.from_bytes(await reader.readexactly(2), "big")
                        payload = await reader.readexactly(size)
                        if not greeted or payload == text:
                            break
                    greeted = True
                    self.count["messages"] += 1
                    await asyncio.sleep(0.25)
            except (asyncio.IncompleteReadError, ConnectionError) as e:
                if opened is None:
                    self.fail("socket", e)
                elif not self.stopping:
                    self.cuts.append([time.time(), opened, number])
            except Exception as e:
                self.fail("socket", e)

    async def run(self, arguments):
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self.kept_may_end = arguments.kept_may_end
        self.pace = arguments.pace
        self.key = f"X-Api-Key: {open(arguments.key_file, encoding='utf-8').read().strip()}\r\n" if arguments.key_file else ""
        tasks = [loop.create_task(self.requests()) for _ in range(arguments.requests)]
        tasks += [loop.create_task(self.uploads()) for _ in range(arguments.uploads)]
        tasks += [loop.create_task(self.jobs()) for _ in range(arguments.jobs)]
        tasks += [loop.create_task(self.socket(n)) for n in range(arguments.sockets)]
        await stop.wait()
        self.stopping = True
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        print(json.dumps({"count": self.count, "failures": self.failures, "cuts": self.cuts, "marks": sorted(map(str, self.marks))}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--pace", type=float, default=0.005, help="seconds between two parts of an upload")
    for name, default in (("requests", 8), ("uploads", 2), ("jobs", 1), ("sockets", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--key-file", help="an API key")
    parser.add_argument("--kept-may-end", action="store_true", help="a kept connection may end before it is asked")
    options = parser.parse_args()
    asyncio.run(Load(options.url).run(options))
