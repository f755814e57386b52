#!/usr/bin/env python3
"""The matrix of faults on real hosts: a row a step of an activation, a column a fault, and what came of each.

    tests/faults.py [--steps PATTERN] [--faults PATTERN] [--shard I/N] [--sample N --seed TEXT] [--table FILE]

Needs an agent with the feature `fault-points` (`make faults` builds it, and names the program beside it in STILLFRAME_BINARY). A cell takes about ten seconds. The
table is written after every row; the exit status is 0 only if every cell of what was asked for is good.
"""
import argparse
import fnmatch
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "lib")]
import matrix  # noqa: E402
import oracle  # noqa: E402
import workers  # noqa: E402

INSIDE = "STILLFRAME_FAULTS_INSIDE"


def name(step):
    effect, nth, when = step
    return f"{when} {effect}{f' {nth}' if nth > 1 else ''}"


def table(rows):
    faults = [fault.name for fault in matrix.FAULTS]
    lines = ["| step | " + " | ".join(faults) + " |", "|---" * (len(faults) + 1) + "|"]
    lines += [f"| {step} | " + " | ".join(cells.get(fault, "") for fault in faults) + " |" for step, cells in rows.items()]
    return "\n".join(lines) + "\n"


def chosen(steps, arguments):
    """The cells to run, in the order of the table, or as many of them as were asked for."""
    first, shards = map(int, arguments.shard.split("/"))
    cells = [(step, fault) for step in steps[first::shards] for fault in matrix.FAULTS
             if fault.can(step) and fnmatch.fnmatch(name(step), arguments.steps) and fnmatch.fnmatch(fault.name, arguments.faults)]
    return random.Random(arguments.seed).sample(cells, arguments.sample) if arguments.sample else cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="*")
    parser.add_argument("--faults", default="*")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--shard", default="0/1", help="I/N: every Nth step from the Ith on, for several hosts at once")
    parser.add_argument("--sample", type=int, default=0, help="only so many cells")
    parser.add_argument("--seed", help="what chooses them")
    arguments = parser.parse_args()
    two = oracle.Two()
    rows, bad, began, count = {}, [], time.monotonic(), 0
    try:
        steps = two.steps()
        print("steps:", ", ".join(map(name, steps)), flush=True)
        rows = {name(step): {fault.name: "-" for fault in matrix.FAULTS if not fault.can(step)} for step in steps}
        for step, fault in chosen(steps, arguments):
            wrong = two.cell(step, fault)
            count += 1
            rows[name(step)][fault.name] = "BAD" if wrong else "ok"
            print(f"{time.monotonic() - began:6.0f} s  {name(step)} x {fault.name}: {rows[name(step)][fault.name]}", flush=True)
            for line in wrong:
                print(f"          {line}", flush=True)
            bad += wrong
            if arguments.table:
                arguments.table.write_text(table(rows))
    finally:
        two.down()
    print(table(rows))
    print(f"{count} cells, {sum(c == 'BAD' for cells in rows.values() for c in cells.values())} bad")
    return 1 if bad else 0


def apart():
    """The same in namespaces of its own, as a file of end-to-end tests has them: a Nix builder's user is another's too."""
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--net", "--fork", "--kill-child=KILL", "--",
               sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode


if __name__ == "__main__":
    if INSIDE not in os.environ:
        sys.exit(apart())
    workers.enter(batch=False)
    sys.exit(main())
