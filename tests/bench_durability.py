#!/usr/bin/env python3
"""What it costs that a deployment outlives a power cut: the host's program beside the same one that does not write out the store (syncfs) and
compares no path, on real hosts in turn, in one run.

    tests/bench_durability.py [--rounds 3] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "e2e"), str(HERE / "hosts")]
import harness  # noqa: E402
import oracle  # noqa: E402
import service  # noqa: E402
from harness import example  # noqa: E402

AGENT = harness.TARGET / "guarded" / "stillframe-agent"


class Bench:
    def __init__(self, place):
        self.place, self.rows = place, []
        # A host of its own for each first deployment; neighbours are of different kinds, so that neither comes first.
        names = [host.name for host in place.hosts.hosts]
        self.hosts = [(name, kind) for name, kind in zip(names, ["durable", "volatile", "volatile", "durable"] * len(names))]

    def run(self, *arguments):
        return self.place.run(*arguments, timeout=600, STILLFRAME_AGENT=str(AGENT))

    def prepare(self):
        for host, kind in self.hosts:
            if kind == "volatile":
                self.place.hosts[host].sh(f"mkdir -p {oracle.FOLDER} && echo syncfs hash >{oracle.FOLDER}/mutations")
            self.run("host", "prepare", "--yes", host)

    def measure(self, name, snapshot):
        seconds = {"durable": [], "volatile": []}
        for host, kind in self.hosts:
            # What earlier work left in memory is not this host's to write.
            os.sync()
            done = self.run("--json", "deploy", "--hosts", host, "--snapshot", snapshot)
            seconds[kind].append(done.seconds)
            sent = next(e for e in service.Stream(done).events if e["type"] == "copied")["sent"]
            # Only what compares paths marks them: the guards are out where they must be, and nowhere else.
            marked = self.place.hosts[host].run("test", "-e", "/var/lib/stillframe/verified.json", check=False).returncode == 0
            assert marked == (kind == "durable"), f"{host} is {kind}"
        with_, without = (statistics.median(seconds[kind]) for kind in ("durable", "volatile"))
        row = {"name": name, "durable": with_, "volatile": without, "all": seconds, "mib": sent["nar_bytes"] / (1 << 20), "paths": sent["paths"]}
        self.rows.append(row)
        print(f"{name:30} {with_:6.2f} s   without: {without:6.2f} s   {100 * (with_ / without - 1):+5.1f} %   "
              f"{sent['paths']} paths, {row['mib']:.1f} MiB   each: "
              + "; ".join(f"{kind} {', '.join(f'{s:.2f}' for s in seconds[kind])}" for kind in seconds), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 5))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("test hosts need root's rights")
    subprocess.run([HERE / "lib/setup.sh"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["make", "guarded-agent"], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = service.Place(2 * arguments.rounds, prepare=False)
    try:
        bench = Bench(place)
        bench.prepare()
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
