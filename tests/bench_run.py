#!/usr/bin/env python3
"""Running on a host: what a change costs on the line beside `nix copy`, how long the traffic takes to move, how long a rollback takes, and
how much memory agent and gateway have.

    tests/bench_run.py [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "e2e"), str(HERE / "hosts")]
import service  # noqa: E402
from harness import example  # noqa: E402

rows = []


def row(name, ours, target, **more):
    rows.append({"name": name, "ours": ours, "target": target, **more})
    beside = "   ".join(f"{key.replace('_', ' ')} {value}" for key, value in more.items())
    print(f"{name:56} {ours:>14}   {target:24} {beside}", flush=True)


class Memory(threading.Thread):
    """The most that all processes of the agent's program on the host had resident together, and the gateway alone."""

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host, self.all, self.gateway, self.stopping = host, 0, 0, False
        self.start()

    def run(self):
        while not self.stopping:
            total = gateway = 0
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if not os.readlink(process / "exe").endswith("/bin/stillframe-agent"):
                        continue
                    rss = next(int(l.split()[1]) for l in (process / "status").read_text().splitlines() if l.startswith("VmRSS"))
                    total += rss
                    if b"\0gateway\0" in (process / "cmdline").read_bytes():
                        gateway += rss
                except (OSError, StopIteration):
                    continue
            self.all, self.gateway = max(self.all, total), max(self.gateway, gateway)
            time.sleep(0.02)

    def stop(self):
        self.stopping = True
        self.join()
        return self


def received(host):
    """Bytes that came over the host's line so far."""
    return int(host.run("cat", "/sys/class/net/eth0/statistics/rx_bytes").stdout)


def times(done):
    """When what happened, in milliseconds: the start of the instances, healthy, switched."""
    at = {}
    for event in (e["event"] for e in done.events if e["type"] == "event"):
        if event["text"].startswith("starting "):
            at["starting"] = event["at"]
        elif event["status"] == "rotating":
            at["healthy"] = event["at"]
        elif event["status"] == "draining" and event["text"].endswith("finishes what it has"):
            at["switched"] = event["at"]
    return at


def one_pack(place):
    """The example's closure, one line changed in one pack."""
    alpha = place.hosts["alpha"]
    place.environment = example()
    (place.project / "stillframe.toml").write_text(
        f'environment = "{place.environment}"\n[service]\nname = "studio"\nmodels = "/srv/models"\nport = 8288\ndrain = "1s"\n')
    first = place.run("--json", "deploy", "--label", "before", "--offline")
    closure = next(e for e in service.Stream(first).events if e["type"] == "snapshot")["snapshot"]["closure_bytes"]
    pack = place.environment / "custom_nodes" / "plain-folder" / "__init__.py"
    text = pack.read_text()
    try:
        pack.write_text(text + "# a line more\n")
        memory = Memory(alpha)
        before = received(alpha)
        done = service.Stream(place.run("--json", "deploy", "--label", "after", "--offline"))
        line = received(alpha) - before
        memory.stop()
    finally:
        pack.write_text(text)
    copied = next(e for e in done.events if e["type"] == "copied")["sent"]["wire_bytes"]
    # The peer gets the same change on a host that has the rest.
    new = place.run("snapshots", "show", "after", "--json").json["record"]["snapshot"]
    gone = alpha.sh(f"nix-store --query --requisites {new} | grep -e comfyui-snapshot -e pack-plain-folder || true").stdout.split()
    place.run("rollback")
    place.run("retention", "--dry-run")
    alpha.sh("cd /nix/var/nix/profiles && rm -f stillframe-studio-2-link; rm -f /nix/var/nix/gcroots/stillframe/studio-2*")
    alpha.sh(f"nix-store --delete --ignore-liveness {' '.join(gone)} >/dev/null 2>&1 || true")
    env = {**place.ws.environment(), "NIX_SSHOPTS": f"-F {place.hosts.ssh_config}"}
    before = received(alpha)
    subprocess.run([*map(str, place.ws.prefix), "nix", "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to", "ssh-ng://root@alpha", new],
                   env=env, check=True, capture_output=True)
    peer = received(alpha) - before
    row("one pack changed: paths on the wire", f"{copied / 1024:.1f} KiB", "< 1 % of the closure", of_the_closure=f"{100 * copied / closure:.4f} %")
    row("  all that came over the line for that deployment", f"{line / 1024:.1f} KiB", "", nix_copy=f"{peer / 1024:.1f} KiB")
    row("  agent's processes together, at most", f"{memory.all / 1024:.1f} MiB", "", gateway=f"{memory.gateway / 1024:.1f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("test hosts need root's rights")
    subprocess.run([HERE / "lib/setup.sh"], check=True, stdout=subprocess.DEVNULL)
    place = service.Place(1)
    try:
        alpha = place.hosts["alpha"]
        for label in ("red", "blue"):
            place.snapshot(label, mark=label)
        place.deploy("--snapshot", "red")
        swaps, whole = [], []
        for number in range(10):
            started = time.monotonic()
            at = times(place.deploy("--snapshot", ("blue", "red")[number % 2]))
            whole.append(time.monotonic() - started)
            swaps.append(at["switched"] - at["healthy"])
        row("from healthy to switched, median of 10", f"{statistics.median(swaps):.0f} ms", "< 100 ms", longest=f"{max(swaps)} ms")
        row("a whole deployment of a small change", f"{statistics.median(whole):.2f} s", "")
        backs = []
        for _ in range(5):
            started = time.monotonic()
            at = times(service.Stream(place.run("--json", "rollback")))
            backs.append(time.monotonic() - started - (at["healthy"] - at["starting"]) / 1000)
        row("rollback to a kept generation, besides start-up", f"{statistics.median(backs):.2f} s", "< 2 s")
        latest = place.status()["serving"]
        started = time.monotonic()
        place.deploy("--snapshot", next(l for l in ("red", "blue") if l == place.mark()))
        row("the same again", f"{time.monotonic() - started:.2f} s", "< 2 s", generation=latest)
        load = subprocess.Popen(["ip", "netns", "exec", alpha.netns, sys.executable, str(HERE / "e2e/load.py"), "http://127.0.0.1:8188"], stdout=subprocess.PIPE, text=True)
        memory = Memory(alpha)
        time.sleep(5)
        place.deploy("--snapshot", "red", "--again")
        memory.stop()
        load.terminate()
        seen = json.loads(load.communicate()[0])
        row("agent and gateway together, a deployment under load", f"{memory.all / 1024:.1f} MiB", "< 30 MB", gateway=f"{memory.gateway / 1024:.1f} MiB",
            failed=len(seen["failures"]))
        one_pack(place)
    finally:
        place.down()
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
