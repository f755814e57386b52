#!/usr/bin/env python3
"""Jobs through the gateway that owns them beside the same instance by itself, in one run, on the same work.

    tests/bench_jobs.py [--json FILE] [--seconds S] [--scratch DIR]

The instance is the tests' own main program, whose jobs end at once. The ledger syncs each commit to the disk below --scratch
(/var/tmp). Memory is VmRSS, CPU is utime + stime, both by /proc. Nothing here asserts a time: it reports.
"""
import argparse
import asyncio
import base64
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from bench_gateway import ROOT, TICK, agent

RATE = 50
CLIENTS = 64
SOCKETS = 2000
KEPT, WAITING = 100_000, 10_000
PAGE = 64
rows = []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def row(name, unit, ours, bare=None, target=""):
    rows.append({"name": name, "unit": unit, "ours": ours, "bare": bare, "target": target})
    shown = "".join(f"{'' if value is None else f'{value:,.2f}':>12}" for value in (ours, bare))
    print(f"{name:56}{shown} {unit:8} {target}", flush=True)


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid):
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")) / 1024


class Connection:
    """HTTP/1.1 that stays open."""

    @classmethod
    async def open(cls, port):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, method, path, body=b""):
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return int(head.split()[1]), await self.reader.readexactly(length)

    def close(self):
        self.writer.close()


class Socket:
    """A WebSocket that says which jobs have ended."""

    @classmethod
    async def open(cls, port, client):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        self.writer.write(f"GET /ws?clientId={client} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"101", head
        return self

    async def ends(self, heard):
        while True:
            first, size = await self.reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            payload = await self.reader.readexactly(size)
            if first & 15 == 1 and b'"executing"' in payload:
                data = json.loads(payload)["data"]
                if data["node"] is None and data.get("prompt_id") in heard:
                    heard[data["prompt_id"]].set_result(time.monotonic())


def job(number):
    """A graph of a real size: about 10 KiB."""
    text = "a photograph of a table, seed " + "x" * 180
    nodes = {str(n): {"class_type": "Sleep", "inputs": {"seconds": 0, "text": f"{text} {number} {n}", "cfg": 7.5, "sampler_name": "euler"}} for n in range(1, 30)}
    nodes["30"] = {"class_type": "Save", "inputs": {"images": ["1", 0], "filename_prefix": f"bench{number % 100}"}}
    return nodes


def body(number, client):
    ident = str(uuid.uuid4())
    return ident, json.dumps({"prompt": job(number), "prompt_id": ident, "client_id": client}).encode()


async def at_a_rate(port, seconds):
    """(ms of each POST, ms from each POST to the end that its client heard)"""
    client, heard, began = "bench-rate", {}, {}
    listener = await Socket.open(port, client)
    listening = asyncio.create_task(listener.ends(heard))
    pool = asyncio.Queue()
    for _ in range(16):
        pool.put_nowait(await Connection.open(port))
    posts, loop = [], asyncio.get_running_loop()

    async def one(number):
        ident, content = body(number, client)
        heard[ident] = loop.create_future()
        connection = await pool.get()
        began[ident] = time.monotonic()
        status, answer = await connection.ask("POST", "/prompt", content)
        posts.append((time.monotonic() - began[ident]) * 1e3)
        pool.put_nowait(connection)
        assert status == 200, answer
    start, tasks = time.monotonic(), []
    for number in range(RATE * seconds):
        await asyncio.sleep(max(0, start + number / RATE - time.monotonic()))
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    ends = [(await asyncio.wait_for(end, 60) - began[ident]) * 1e3 for ident, end in heard.items()]
    listening.cancel()
    return posts, ends


async def as_fast_as_it_goes(port, seconds):
    """Accepted jobs in a second."""
    until, count = time.monotonic() + seconds, 0

    async def client(name):
        nonlocal count
        connection = await Connection.open(port)
        number = 0
        while time.monotonic() < until:
            status, answer = await connection.ask("POST", "/prompt", body(number, name)[1])
            assert status == 200, answer
            number, count = number + 1, count + 1
        connection.close()
    await asyncio.gather(*(client(f"fast{n}") for n in range(CLIENTS)))
    return count / seconds


async def connected(port):
    return [await Socket.open(port, f"idle{n}") for n in range(SOCKETS)]


def part(values, at):
    return sorted(values)[int((len(values) - 1) * at)]


class Place:
    def __init__(self, scratch, instances=1, database=None):
        self.folder = Path(tempfile.mkdtemp(dir=scratch))
        shutil.copytree(ROOT / "tests/fixtures/service", self.folder / "program")
        (self.folder / "program/behaviour.json").write_text('{"mark": "one"}')
        self.port, self.processes = free_port(), []
        self.instances = [self.instance(slot) for slot in range(instances)]
        targets = [{"id": f"s{slot}-g1", "address": f"127.0.0.1:{port}", "slot": slot, "generation": 1} for slot, (port, _) in enumerate(self.instances)]
        (self.folder / "table.json").write_text(json.dumps({"version": 1, "targets": targets}))
        rules = {"waiting": 200_000, "waiting_per_client": 200_000, "tries": 3, "drain_running": "requeue", "stuck_ms": 600_000,
                 "keep": {"age_ms": 10 ** 15, "count": 10 ** 7, "bytes": 1 << 40}}
        (self.folder / "settings.json").write_text(json.dumps({
            "version": 1, "service": "bench", "listen": f"127.0.0.1:{self.port}", "metrics": None, "api_keys": [],
            "control": f"{self.folder}/control", "table": f"{self.folder}/table.json", "limits": {"client_connections": 8192, "connections": 8192},
            "check": {"path": "/system_stats", "interval_ms": 500, "timeout_ms": 10000, "failures": 3},
            "jobs": {"file": str(database or self.folder / "jobs.sqlite"), "rules": rules}}))
        self.started = time.monotonic()
        self.gateway = self.begin([AGENT, "gateway", "--settings", self.folder / "settings.json"], self.folder / "gateway.log")

    def instance(self, slot):
        port = free_port()
        words = [sys.executable, "main.py", "--port", port, "--base-directory", self.folder, "--user-directory", self.folder]
        for name in ("output", "temp", "input"):
            (self.folder / f"{name}{slot}").mkdir()
            words += [f"--{name}-directory", self.folder / f"{name}{slot}"]
        return port, self.begin(words, self.folder / f"instance{slot}.log", self.folder / "program")

    def begin(self, words, log, cwd=None):
        with open(log, "wb") as out:
            process = subprocess.Popen(list(map(str, words)), cwd=cwd, stdout=out, stderr=out)
        self.processes.append(process)
        return process

    def answers(self, path, port=None, limit=30):
        """Seconds until a GET is answered with 200."""
        async def ask():
            connection = await Connection.open(port or self.port)
            try:
                return (await connection.ask("GET", path))[0]
            finally:
                connection.close()
        began = time.monotonic()
        while time.monotonic() < began + limit:
            try:
                if asyncio.run(asyncio.wait_for(ask(), 5)) == 200:
                    return time.monotonic()
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, StopIteration):
                pass
            time.sleep(0.005)
        sys.exit((self.folder / "gateway.log").read_text())

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def many_jobs(scratch):
    """A ledger with that many jobs, made by the project's own fixture."""
    file = scratch / "many.db"
    subprocess.run(["cargo", "test", "--quiet", "--locked", "--lib", "jobs::bench_tests::a_file_of_many_jobs", "--", "--ignored", "--exact"], cwd=ROOT, check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "STILLFRAME_BENCH_JOBS": str(file), "STILLFRAME_BENCH_COUNTS": f"{KEPT} {WAITING}"})
    return file


def syncs(scratch):
    times = []
    with open(scratch / "sync", "wb", buffering=0) as file:
        for _ in range(300):
            file.write(b"x" * 4096)
            began = time.monotonic()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - began) * 1e3)
    return times


def jobs_in_time(scratch, seconds):
    place = Place(scratch)
    try:
        [(bare, instance)] = place.instances
        place.answers("/system_stats", bare)
        place.answers("/system_stats")
        measured = {}
        for name, port in (("bare", bare), ("ours", place.port)):
            asyncio.run(at_a_rate(port, 2))
            measured[name] = asyncio.run(at_a_rate(port, seconds))
        for what, at in (("p50", 0.5), ("p99", 0.99)):
            for index, name in enumerate((f"POST /prompt, {RATE} in a second", "from POST to the end that the client hears")):
                ours, bare_one = (part(measured[who][index], at) for who in ("ours", "bare"))
                row(f"{name}, {what}", "ms", ours, bare_one, "added p99 < 5" if (what, index) == ("p99", 0) else "")
        times = syncs(scratch)
        row("an fdatasync of 4 KiB on this disk, p50", "ms", part(times, 0.5))
        row("an fdatasync of 4 KiB on this disk, p99", "ms", part(times, 0.99))
        for name, port in (("bare", bare), ("ours", place.port)):
            before = cpu(place.gateway.pid), cpu(instance.pid), time.monotonic()
            rate = asyncio.run(as_fast_as_it_goes(port, seconds))
            spent = time.monotonic() - before[2]
            measured[name] = rate, (cpu(place.gateway.pid) - before[0]) / spent * 100, (cpu(instance.pid) - before[1]) / spent * 100
        row(f"accepted jobs in a second, {CLIENTS} clients", "jobs/s", measured["ours"][0], measured["bare"][0])
        row("  of a core that the gateway takes meanwhile", "%", measured["ours"][1])
        row("  of a core that the instance takes meanwhile", "%", measured["ours"][2], measured["bare"][2])
    finally:
        place.stop()


def sockets(scratch):
    place = Place(scratch)
    try:
        place.answers("/system_stats")
        before = memory(place.gateway.pid)

        async def measure():
            held = await connected(place.port)
            await asyncio.sleep(1)
            return len(held), memory(place.gateway.pid)
        count, after = asyncio.run(measure())
        row(f"{count} WebSockets, memory", "MiB", after - before, None, "< 100")
    finally:
        place.stop()


def kept(scratch):
    place = Place(scratch, instances=0, database=many_jobs(scratch))
    try:
        ready = place.answers("/prompt")
        row(f"{KEPT:,} kept jobs, {WAITING:,} of them waiting: time to serve", "s", ready - place.started, None, "< 1")
        row("  memory", "MiB", memory(place.gateway.pid), None, "< 150")

        async def pages(path):
            connection = await Connection.open(place.port)
            times, before = [], cpu(place.gateway.pid)
            for _ in range(100):
                began = time.monotonic()
                status, _ = await connection.ask("GET", path)
                assert status == 200, path
                times.append((time.monotonic() - began) * 1e3)
            connection.close()
            return statistics.median(times), (cpu(place.gateway.pid) - before) / 100 * 1e3
        for path in (f"/history?max_items={PAGE}", f"/history?max_items={PAGE}&offset=45000", f"/api/jobs?limit={PAGE}",
                     f"/api/jobs?limit={PAGE}&offset=45000", f"/api/jobs?limit={PAGE}&status=failed&sort_by=execution_duration"):
            wall, spent = asyncio.run(pages(path))
            row(f"  GET {path}", "ms", wall, None, "< 10")
            row("    CPU", "ms", spent)
        row("  memory after that", "MiB", memory(place.gateway.pid), None, "< 150")
    finally:
        place.stop()


def main():
    global AGENT
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"))
    arguments = parser.parse_args()
    AGENT = agent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, max(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    scratch = Path(tempfile.mkdtemp(prefix="bench-jobs-", dir=arguments.scratch))
    try:
        print(f"{'':56}{'ours':>12}{'bare':>12}", flush=True)
        jobs_in_time(scratch, arguments.seconds)
        sockets(scratch)
        kept(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
