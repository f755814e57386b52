#!/usr/bin/env python3
"""The matrix of faults on real hosts: a row a step of a command, a column a fault, and what came of each.

    tests/faults.py [--steps PATTERN] [--faults PATTERN] [--shard I/N] [--sample N --seed TEXT] [--limit SECONDS] [--table FILE [--anew]] [--as-listed]
    tests/faults.py --list [FILE]
    tests/faults.py --mutations [PATTERNS]

Needs an agent with the feature `fault-points`: `make fault-points-agent` builds it. STILLFRAME_BINARY names a program beside another one. A cell takes
about ten seconds. With --table the cells that FILE has are not run again, unless --anew, and FILE is written after each cell. The exit status is 0
only if every cell that was run is good. --list prints the steps, or writes them to FILE. --mutations takes guards out of the agent, one by one, and is
good only if the oracle sees each.
"""
import argparse
import difflib
import fnmatch
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# No other agent can do it.
os.environ.setdefault("STILLFRAME_BINARY", str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "faults" / "bin" / "stillframe"))
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "lib")]
import fault_page  # noqa: E402
import jobguards  # noqa: E402
import matrix  # noqa: E402
import oracle  # noqa: E402
import workers  # noqa: E402


def chosen(steps, page, arguments):
    """The cells to run, in the order of the table, or as many of them as were asked for."""
    first, shards = map(int, arguments.shard.split("/"))
    cells = [(step, fault) for step in steps[first::shards] for fault in matrix.FAULTS
             if fault.can(step) and fnmatch.fnmatch(str(step), arguments.steps) and fnmatch.fnmatch(fault.name, arguments.faults)
             and (arguments.anew or page.is_open(step, fault))]
    return random.Random(arguments.seed).sample(cells, min(arguments.sample, len(cells))) if arguments.sample else cells


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def cells(two, steps, arguments):
    """Runs what was asked for; whether all of it was good."""
    page = fault_page.Page(arguments.table)
    page.arrange(steps, matrix.FAULTS)
    commit = git("rev-parse", "--short=12", "HEAD") + (" with changes" if git("status", "--porcelain", "src", "tests") else "")
    agent = two.alpha.run("readlink", "/var/lib/stillframe/agent").stdout.strip().rsplit("/", 1)[-1]
    count, bad, began = 0, 0, time.monotonic()
    for step, fault in chosen(steps, page, arguments):
        if arguments.limit and time.monotonic() - began > arguments.limit:
            print("the time is over", flush=True)
            break
        wrong = two.cell(step, fault)
        count, bad = count + 1, bad + bool(wrong)
        page.put(step, fault, not wrong, commit, agent)
        page.write(matrix.FAULTS)
        print(f"{time.monotonic() - began:6.0f} s  {step} x {fault.name}: {'BAD' if wrong else 'ok'}", flush=True)
        for line in wrong:
            print(f"          {line}", flush=True)
    if not arguments.table:
        print(page.table(), end="")
    print(f"{count} cells, {bad} bad", flush=True)
    return not bad


def chosen_by(patterns, name):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split(","))


def mutations(guards, only):
    """Each guard taken out must be seen, and with none taken out nothing is wrong."""
    good = True
    for guard, look in guards.items():
        if not chosen_by(only, guard):
            continue
        for taken_out in (False, True):
            # What is not synced may have reached the disk all the same, where the machine was busy for half a minute.
            for _ in range(3 if taken_out else 1):
                wrong = look(guard if taken_out else "")
                if bool(wrong) == taken_out:
                    break
            expected = bool(wrong) == taken_out
            good &= expected
            print(f"{guard} {'taken out' if taken_out else 'in place'}: {'seen' if wrong else 'nothing wrong'}: "
                  f"{'as it must be' if expected else 'NOT as it must be'}", flush=True)
            for line in wrong:
                print(f"          {line}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="*")
    parser.add_argument("--faults", default="*")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--anew", action="store_true", help="also cells that the table has")
    parser.add_argument("--shard", default="0/1", help="I/N: every Nth step from the Ith on, for several hosts at once")
    parser.add_argument("--sample", type=int, default=0, help="only so many cells")
    parser.add_argument("--seed", help="what chooses them")
    parser.add_argument("--limit", type=float, help="no cell begins after so many seconds")
    parser.add_argument("--list", nargs="?", const="-", help="the steps, as the agent tells them")
    parser.add_argument("--mutations", nargs="?", const="*", help="patterns with commas between: only those guards")
    parser.add_argument("--as-listed", action="store_true", help="takes the steps from tests/golden/fault-steps.txt, which is a minute sooner")
    arguments = parser.parse_args()
    runs = arguments.sample or not (arguments.list or arguments.mutations)
    good = True
    if arguments.list or runs or arguments.mutations and any(chosen_by(arguments.mutations, guard) for guard in oracle.GUARDS):
        good = of_hosts(arguments, runs)
    if arguments.mutations and any(chosen_by(arguments.mutations, guard) for guard in jobguards.GUARDS):
        guards = jobguards.Guards()
        try:
            good &= mutations(guards.guards(), arguments.mutations)
        finally:
            guards.down()
    return 0 if good else 1


def of_hosts(arguments, runs):
    two, good = oracle.Two(), True
    try:
        if arguments.list or runs:
            steps = oracle.listed() if arguments.as_listed else two.steps()
            text, listed = "".join(f"{step}\n" for step in steps), oracle.LISTED.read_text()
            if not arguments.list and text != listed:
                print(*difflib.unified_diff(listed.splitlines(), text.splitlines(), str(oracle.LISTED), "the agent's steps", lineterm=""), sep="\n")
                print(f"the steps are others: tests/faults.py --list {oracle.LISTED.relative_to(ROOT)}, then make faults", flush=True)
                return False
            if arguments.list and arguments.list != "-":
                Path(arguments.list).write_text(text)
            else:
                print(text, flush=True)
        if runs:
            good = cells(two, steps, arguments)
        if arguments.mutations:
            good &= mutations(two.guards(), arguments.mutations)
    finally:
        two.down()
    return good


if __name__ == "__main__":
    workers.apart("STILLFRAME_FAULTS_INSIDE")
    sys.exit(main())
