#!/usr/bin/env python3
"""What it costs that a deployment outlives a power cut: the host's program beside one that writes nothing out and compares no path, on real
hosts in turn, in one run.

    tests/bench_durability.py [--rounds 3] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "e2e"), str(HERE / "hosts")]
import harness  # noqa: E402
import service  # noqa: E402
from harness import example  # noqa: E402

AGENTS = {"durable": harness.AGENT, "volatile": harness.TARGET / "volatile" / "stillframe-agent"}


class Bench:
    def __init__(self, place):
        self.place, self.rows = place, []
        # A host of its own for each first deployment; neighbours are of different kinds, so that neither comes first.
        names = [host.name for host in place.hosts.hosts]
        self.hosts = [(name, kind) for name, kind in zip(names, ["durable", "volatile", "volatile", "durable"] * len(names))]

    def with_agent(self, kind, *arguments):
        os.environ["STILLFRAME_AGENT"] = str(AGENTS[kind])
        started = time.monotonic()
        done = self.place.run(*arguments, timeout=600)
        return time.monotonic() - started, done

    def measure(self, name, snapshot):
        seconds = {"durable": [], "volatile": []}
        copying = {"durable": [], "volatile": []}
        for host, kind in self.hosts:
            # What earlier work left in memory is not this host's to write.
            os.sync()
            took, done = self.with_agent(kind, "--json", "deploy", "--hosts", host, "--snapshot", snapshot)
            events = service.Stream(done).events
            seconds[kind].append(took)
            copying[kind].append(next(e for e in events if e["type"] == "copied")["sent"])
        sent = copying["durable"][0]
        with_, without = (statistics.median(seconds[kind]) for kind in ("durable", "volatile"))
        row = {"name": name, "durable": with_, "volatile": without, "all": seconds, "mib": sent["nar_bytes"] / (1 << 20), "paths": sent["paths"]}
        self.rows.append(row)
        print(f"{name:30} {with_:6.2f} s   without: {without:6.2f} s   {100 * (with_ / without - 1):+5.1f} %   "
              f"{sent['paths']} paths, {row['mib']:.1f} MiB   each: "
              + "; ".join(f"{kind} {', '.join(f'{s:.2f}' for s in seconds[kind])}" for kind in seconds), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("test hosts need root's rights")
    subprocess.run([HERE / "lib/setup.sh"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["make", "volatile-agent"], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = service.Place(2 * arguments.rounds, prepare=False)
    try:
        bench = Bench(place)
        for host, kind in bench.hosts:
            bench.with_agent(kind, "host", "prepare", "--yes", host)
        place.environment = example()
        (place.project / "stillframe.toml").write_text(
            f'environment = "{place.environment}"\n[service]\nname = "studio"\nmodels = "/srv/models"\nport = 8288\ndrain = "1s"\n')
        place.run("snapshot", "--offline", "--label", "first")
        bench.measure("first deployment", "first")
        pack = place.environment / "custom_nodes" / "plain-folder" / "__init__.py"
        text = pack.read_text()
        try:
            pack.write_text(text + "# a line more\n")
            place.run("snapshot", "--offline", "--label", "changed")
        finally:
            pack.write_text(text)
        bench.measure("one pack changed", "changed")
    finally:
        place.down()
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": bench.rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
