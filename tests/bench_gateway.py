#!/usr/bin/env python3
"""The gateway beside nginx and haproxy: CPU a request and memory, in one run, on the same work.

    tests/bench_gateway.py [--json FILE] [--seconds S] [--rounds N]

Each has keep-alive both ways, an access log with a line a request, and X-Forwarded-For; one worker each. The instance
is an nginx that answers from memory, the load is wrk. CPU is utime + stime of the proxy's processes by /proc. The
rounds take turns, the median counts. Nothing here asserts a time: it reports.
"""
import argparse
import atexit
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TICK = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 50
IDLE = 2000
BIG = 64 << 20
UP, OURS, NGINX, HAPROXY, QUEUE = 18201, 18202, 18203, 18204, 18205
#: Ours twice: where the gateway owns the jobs, and where it does not.
COLUMNS = ("ours", "without jobs", "nginx", "haproxy")
rows = []


def tools():
    wanted = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk"}
    missing = [package for tool, package in wanted.items() if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *missing]):
            subprocess.run(["apt-get", *command], check=True, stdout=subprocess.DEVNULL, env=environment)


def agent():
    """Of STILLFRAME_AGENT; else the static build if there is a musl compiler, else the usual one."""
    if os.environ.get("STILLFRAME_AGENT"):
        return Path(os.environ["STILLFRAME_AGENT"])
    if shutil.which("musl-gcc"):
        subprocess.run(["make", "agent"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return TARGET / f"{platform.machine()}-unknown-linux-musl" / "release" / "stillframe-agent"
    subprocess.run(["cargo", "build", "--release", "--no-default-features", "--locked", "--bin", "stillframe-agent"],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return TARGET / "release" / "stillframe-agent"


class Proxy:
    def __init__(self, name, port, command, log):
        self.name, self.port = name, port
        self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
        atexit.register(self.stop)
        for _ in range(100):
            if self.process.poll() is not None:
                sys.exit(f"{name} ended: {self.process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/small", timeout=1).read()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit(f"{name} does not answer")

    def members(self):
        """The process and its children (nginx has a worker)."""
        found = [self.process.pid]
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                found.append(int(stat.parent.name))
        return found

    def cpu(self):
        """Seconds so far."""
        total = 0
        for pid in self.members():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory(self, what):
        """Resident MiB: VmRSS now, VmHWM at most."""
        total = 0
        for pid in self.members():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(what + ":"):
                    total += int(line.split()[1])
        return total / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()


def start(scratch):
    log = open(scratch / "err", "w")
    (scratch / "www").mkdir()
    with open(scratch / "www" / "big", "wb") as big:
        big.truncate(BIG)
    common = "daemon off; worker_processes 1; events { worker_connections 8192; }"
    (scratch / "up.conf").write_text(f"""{common} pid {scratch}/up.pid; error_log {scratch}/up.err;
http {{ access_log off; keepalive_requests 1000000000; sendfile on; client_body_buffer_size 64k; server {{ listen 127.0.0.1:{UP} backlog=4096;
  root {scratch}/www; location / {{ default_type application/json; return 200 '{{"queue_running": [], "queue_pending": []}}'; }}
  location /big {{ }} }} }}""")
    (scratch / "nginx.conf").write_text(f"""{common} pid {scratch}/nginx.pid; error_log {scratch}/nginx.err;
http {{ access_log {scratch}/nginx.log combined buffer=64k flush=1s; keepalive_requests 1000000000;
  upstream up {{ server 127.0.0.1:{UP}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{NGINX} backlog=4096; location / {{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_buffering off; proxy_request_buffering off; proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto http; }} }} }}""")
    (scratch / "haproxy.cfg").write_text(f"""global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{HAPROXY} backlog 4096
  default_backend back
backend back
  server up 127.0.0.1:{UP}
""")
    settings = {"version": 1, "service": "bench", "listen": f"127.0.0.1:{OURS}", "metrics": None, "api_keys": [],
                "control": f"{scratch}/control", "table": f"{scratch}/table.json", "limits": {"client_connections": 4096},
                "check": {"path": "/small", "interval_ms": 2000, "timeout_ms": 10000, "failures": 3}}
    (scratch / "plain.json").write_text(json.dumps(settings))
    rules = {"waiting": 1000, "waiting_per_client": 1000, "tries": 3, "drain_running": "requeue", "stuck_ms": 600_000,
             "keep": {"age_ms": 10 ** 10, "count": 1000, "bytes": 1 << 30}}
    (scratch / "jobs.json").write_text(json.dumps({**settings, "listen": f"127.0.0.1:{QUEUE}", "control": f"{scratch}/jobs-control",
                                                   "jobs": {"file": f"{scratch}/jobs.sqlite", "rules": rules}}))
    target = {"id": "s0-g1", "address": f"127.0.0.1:{UP}", "slot": 0, "generation": 1}
    (scratch / "table.json").write_text(json.dumps({"version": 1, "targets": [target]}))
    up = Proxy("instance", UP, ["/usr/sbin/nginx", "-c", scratch / "up.conf"], log)
    return up, [
        Proxy("ours", QUEUE, [agent(), "gateway", "--settings", scratch / "jobs.json"], open(scratch / "jobs.log", "w")),
        Proxy("without jobs", OURS, [agent(), "gateway", "--settings", scratch / "plain.json"], open(scratch / "plain.log", "w")),
        Proxy("nginx", NGINX, ["/usr/sbin/nginx", "-c", scratch / "nginx.conf"], log),
        Proxy("haproxy", HAPROXY, ["/usr/sbin/haproxy", "-f", scratch / "haproxy.cfg"], open(scratch / "haproxy.log", "w")),
    ]


def wrk(proxy, seconds, path, script=None):
    """(requests, CPU us a request)"""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{proxy.port}{path}"]
    if script:
        command[1:1] = ["-s", str(script)]
    before = proxy.cpu()
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = proxy.cpu() - before
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"{proxy.name}: {out}")
    count = int(next(line for line in out.splitlines() if "requests in" in line).split()[0])
    return spent / count * 1e6


def download(proxy):
    """CPU ms for 1 GiB."""
    before = proxy.cpu()
    for _ in range((1 << 30) // BIG):
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/big") as response:
            while response.read(1 << 20):
                pass
    return (proxy.cpu() - before) * 1e3


def idle(proxy):
    """MiB more with so many connections that had a request and wait for the next."""
    before = proxy.memory("VmRSS")
    open_ones = []
    for _ in range(IDLE):
        connection = socket.create_connection(("127.0.0.1", proxy.port))
        connection.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
        open_ones.append(connection)
    for connection in open_ones:
        connection.recv(4096)
    after = proxy.memory("VmRSS")
    for connection in open_ones:
        connection.close()
    return after - before


def row(name, unit, values, target=""):
    rows.append({"name": name, "unit": unit, "target": target, **values})
    shown = "".join(f"{values[who]:>13,.1f}" for who in COLUMNS)
    print(f"{name:46}{shown} {unit:6} {target}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    tools()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        scratch.chmod(0o755)
        post = scratch / "post.lua"
        post.write_text('wrk.method = "POST"\nwrk.body = "{}"\nwrk.headers["Content-Type"] = "application/json"\n')
        up, proxies = start(scratch)
        try:
            print(f"{'':46}" + "".join(f"{who:>13}" for who in COLUMNS), flush=True)
            for name, path, script, target in (
                (f"GET, {CONNECTIONS} connections", "/small", None, "<= 35"),
                (f"POST of 2 bytes, {CONNECTIONS} connections", "/small", post, ""),
            ):
                measured = {proxy.name: [] for proxy in proxies}
                for _ in range(arguments.rounds):
                    for proxy in proxies:
                        measured[proxy.name].append(wrk(proxy, arguments.seconds, path, script))
                row(name, "us", {name: statistics.median(values) for name, values in measured.items()}, target)
            row("peak memory of these", "MiB", {p.name: p.memory("VmHWM") for p in proxies}, "<= 15")
            row("an answer of 1 GiB, CPU", "ms", {p.name: download(p) for p in proxies})
            row(f"{IDLE} connections that wait, memory", "MiB", {p.name: idle(p) for p in proxies})
            row("peak memory at the end", "MiB", {p.name: p.memory("VmHWM") for p in proxies})
        finally:
            for proxy in [*proxies, up]:
                proxy.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
