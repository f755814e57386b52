#!/usr/bin/env python3
"""Runs every test, from a fresh clone: set-up, format, lints, Rust tests, the fixture's own check, end to end.

    tests/run.py [--only STEP] [NAME...]     STEP: rust, e2e; NAME: end-to-end tests (file, file.Class or file.Class.test)

The last line is "N passed, M failed"; the exit status is 0 only if nothing failed.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
E2E = ["test_layout", "test_imports", "test_flow", "test_export", "test_import", "test_interpreters", "test_proofs", "test_verify", "test_bad_input", "test_bad_files", "test_bad_site", "test_hostile", "test_bad_index", "test_bad_store", "test_run", "test_hosts", "test_ship", "test_deploy", "test_trouble", "test_fleet", "test_inside", "test_public", "test_nix", "test_init", "test_rotation"]


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.wrong = []

    def command(self, name, *command, cwd=ROOT):
        """One step; `cargo test` output is counted test by test."""
        print(f"== {name}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="backslashreplace")
        counted = 0
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed", line):
                counted += 1
                self.passed += int(found[1])
                self.failed += int(found[2])
        code = process.wait()
        if not counted:
            self.passed += code == 0
            self.failed += code != 0
        elif code and not self.failed:
            self.failed += 1
        if code:
            self.wrong.append(name)
        print(f"== {name}: {'ok' if code == 0 else f'FAILED with {code}'} in {time.monotonic() - started:.0f} s", flush=True)
        return code == 0


class Timed(unittest.TextTestResult):
    """Remembers how long each test took, its class's set-up not counted."""

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.times.append((time.monotonic() - self.began, str(test)))

    times = []


def end_to_end(tally, names):
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    suite = unittest.defaultTestLoader.loadTestsFromNames(names or E2E)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Timed).run(suite)
    print("the slowest:")
    for seconds, name in sorted(Timed.times, reverse=True)[:15]:
        print(f"{seconds:6.0f} s  {name}")
    bad = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    tally.failed += bad
    tally.passed += result.testsRun - bad - len(result.skipped)
    tally.wrong += [str(test) for test, _ in result.failures + result.errors]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["rust", "e2e"])
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    # A shell starts in the background what is to ignore Ctrl-C, children included; some tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tally = Tally()
    ready = tally.command("set-up", "tests/lib/setup.sh") and tally.command("agent", "make", "agent") and \
        tally.command("build", "cargo", "build", "--locked", "--bin", "stillframe")
    # The development build: a release takes four minutes more to build, and these tests not a minute less.
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    os.environ.setdefault("STILLFRAME_BINARY", str(target / "debug" / "stillframe"))
    compiling = None
    if ready and not arguments.only:
        # While the first end-to-end tests wait for files and processes; what times count in comes last. Nothing is run:
        # two that build with Nix at once as root would end each other's builders.
        again = "cargo clippy --all-targets --locked; cargo test --locked --no-run"
        compiling = subprocess.Popen(["nice", "-n", "10", "sh", "-c", again], cwd=ROOT, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if ready and arguments.only != "rust":
        end_to_end(tally, arguments.names)
    if compiling:
        compiling.wait()
    if ready and arguments.only != "e2e":
        tally.command("pictures", "python3", "docs/pictures/draw.py", "--check")
        tally.command("format", "cargo", "fmt", "--check")
        tally.command("lints", "cargo", "clippy", "--all-targets", "--locked", "--", "-D", "warnings")
        tally.command("Rust tests", "cargo", "test", "--locked", "--no-fail-fast")
    for name in tally.wrong:
        print(f"failed: {name}")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed or not ready else 0


if __name__ == "__main__":
    sys.exit(main())
