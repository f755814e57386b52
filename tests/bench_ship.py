#!/usr/bin/env python3
"""Shipping beside `nix copy`, on real hosts over lines of a chosen speed, in one run.

    tests/bench_ship.py [--json FILE]
"""
import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "e2e"), str(HERE / "hosts")]
from harness import BINARY, Workstation, example  # noqa: E402
from hosts import Hosts  # noqa: E402

MIB = 1 << 20
rows = []


def row(name, ours, peers, target):
    rows.append({"name": name, "ours": ours, "peers": peers, "target": target})
    beside = ", ".join(f"{peer} {seconds:.2f} s ({seconds / ours:.1f}x)" for peer, seconds in peers.items())
    print(f"{name:52} {ours:7.2f} s   {beside}   {target}", flush=True)


class Bench:
    def __init__(self, hosts, ws):
        self.hosts, self.ws, self.alpha = hosts, ws, hosts["alpha"]
        self.project = ws.root / "project"
        (self.project / "hosts").mkdir(parents=True)
        (self.project / "stillframe.toml").write_text("")
        (self.project / "hosts" / "alpha.toml").write_text(f'address = "alpha"\nssh-config = "{hosts.ssh_config}"\n')
        ws.prefix = hosts.client_command()

    def clear(self):
        """As after a deployment of something else: nothing of the closure is there, the agent is."""
        agent = self.alpha.sh("ls -d /nix/store/*-stillframe-agent-* 2>/dev/null || true").stdout.strip()
        if agent:
            self.alpha.sh(f"ln -sfn {agent} /nix/var/nix/gcroots/agent")
        self.alpha.run("nix-store", "--gc")
        self.alpha.sh("rm -f /var/lib/stillframe/incoming/*; sync")

    def ours(self, path):
        started = time.monotonic()
        done = self.ws.stillframe("host", "send", "alpha", "--snapshot", path, "--json", cwd=self.project)
        return time.monotonic() - started, done.json["hosts"][0]["sent"]

    def peer(self, url, path):
        env = {**self.ws.environment(), "NIX_SSHOPTS": f"-F {self.hosts.ssh_config}"}
        started = time.monotonic()
        subprocess.run([*map(str, self.ws.prefix), "nix", "--extra-experimental-features", "nix-command", "copy", *(["--derivation"] if path.endswith(".drv") else []), "--no-check-sigs", "--to", f"{url}://root@alpha", path],
                       env=env, check=True, capture_output=True)
        return time.monotonic() - started

    def beside(self, name, path, target):
        peers = {}
        for url in ("ssh-ng", "ssh"):
            self.clear()
            peers[f"nix copy {url}://"] = self.peer(url, path)
        self.clear()
        seconds, sent = self.ours(path)
        row(name, seconds, peers, target)
        return sent

    def small(self):
        """A .drv file is a small path with references."""
        expression = self.ws.root / "small.nix"
        expression.write_text('let d = n: deps: derivation { name = "small-${toString n}"; system = "x86_64-linux"; builder = "/bin/sh"; inherit deps; '
                              'text = builtins.concatStringsSep "" (builtins.genList (i: "${toString (i * n)} ") 300); }; '
                              'in d 0 (builtins.genList (n: d (n + 1) []) 399)')
        return self.ws.nix("nix-instantiate", expression).out.strip()

    def large(self):
        """Noise for the most part: what hardly compresses. What a library is like, the row after it has."""
        file = self.ws.root / "large"
        generator = random.Random(1)
        words = [generator.randbytes(24) for _ in range(4096)]
        with open(file, "wb") as out:
            for _ in range(200):
                out.write(b"".join(generator.choice(words) if generator.random() < 0.6 else generator.randbytes(24) for _ in range(MIB // 24)))
        return self.ws.nix("nix-store", "--add", file).out.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("test hosts need root's rights")
    subprocess.run([HERE / "lib/setup.sh"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["make", "agent"], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert BINARY.exists(), BINARY
    with Hosts(1) as hosts, Workstation() as ws:
        bench = Bench(hosts, ws)
        small, large = bench.small(), bench.large()
        bench.alpha.line(rtt_ms=50)
        seconds, _ = bench.ours(small)
        row("the same, with the agent: a host's first time", seconds, {}, "")
        bench.beside("400 small paths, 50 ms round trip", small, ">= 5x")
        seconds, sent = bench.ours(small)
        row("the same again", seconds, {}, f"< 2 s, no path (sent {sent['paths']})")
        bench.alpha.line(rtt_ms=10, rate_mbit=200)
        sent = bench.beside("one path of 200 MiB of noise, 200 Mbit/s", large, "")
        print(f"  over the network: {sent['wire_bytes'] / MIB:.0f} of {sent['nar_bytes'] / MIB:.0f} MiB")
        bench.alpha.line()
        comfy = example()
        taken = ws.stillframe("snapshot", comfy, "--json").json["snapshot"]
        bench.alpha.line(rtt_ms=10, rate_mbit=200)
        closure = ws.nix("nix-store", "--query", "--requisites", taken).out.split()
        alone = [path for path in closure if not ws.nix("nix-store", "--query", "--references", path).out.strip()]
        sizes = {path: sum(f.lstat().st_size for f in ws.real(path).rglob("*")) for path in alone}
        largest = max(sizes, key=sizes.get)
        sent = bench.beside(f"one large path ({largest.split('-', 1)[1]}), 200 Mbit/s", largest, ">= 2x")
        print(f"  over the network: {sent['wire_bytes'] / MIB:.0f} of {sent['nar_bytes'] / MIB:.0f} MiB")
        sent = bench.beside("the example's closure, 200 Mbit/s", taken, "")
        print(f"  over the network: {sent['wire_bytes'] / MIB:.0f} of {sent['nar_bytes'] / MIB:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
