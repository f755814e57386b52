#!/usr/bin/env python3
"""Runs every test, from a fresh clone: set-up, format, lints, Rust tests, the fixture's own check, end to end.

    tests/run.py [--only STEP] [--jobs N] [--list] [NAME...]

STEP: rust, e2e; NAME: end-to-end tests (file, file.Class or file.Class.test). Every tests/e2e/test_*.py is run, several at a time;
tests/lib/workers.py says what a file may say of itself. --list names them in the order in which they begin.
The last line is "N passed, M failed"; the exit status is 0 only if nothing failed.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "lib"))
import workers  # noqa: E402


class Tally:
    def __init__(self):
        self.passed = self.failed = 0
        self.wrong, self.skipped, self.times = [], [], []

    def command(self, name, *command, cwd=ROOT):
        """One step; `cargo test` output is counted test by test."""
        print(f"== {name}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="backslashreplace")
        passed = failed = 0
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed", line):
                passed += int(found[1])
                failed += int(found[2])
        code = process.wait()
        self.passed += passed or code == 0
        self.failed += failed or code != 0
        if code:
            self.wrong.append(name)
        print(f"== {name}: {'ok' if code == 0 else f'FAILED with {code}'} in {time.monotonic() - started:.0f} s", flush=True)
        return code == 0

    def file(self, worker):
        """A file of end-to-end tests that has ended, its output in one piece."""
        counted = worker.counted()
        said = worker.log.read_text(errors="backslashreplace")
        print(f"== {worker.file.name}\n{said}", end="" if said.endswith("\n") else "\n")
        self.passed += counted["passed"]
        self.failed += len(counted["failed"])
        self.wrong += counted["failed"]
        self.skipped += counted["skipped"]
        self.times += counted["times"]
        print(f"== {worker.file.name}: {'FAILED' if counted['failed'] else 'ok'} in {time.monotonic() - worker.started:.0f} s", flush=True)


def prepare(tally, only):
    """Programs, and what files without a way out of their network need from outside, which waits for servers while others compile."""
    if not tally.command("set-up", "tests/lib/setup.sh"):
        return False
    roots = [] if only == "rust" else [("root of the hosts", [sys.executable, "tests/hosts/image.py"]), ("root of Nix 2.26", ["tests/hosts/nix26.sh", "build"])]
    making = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _, command in roots]
    # The development build: a release takes four minutes more to build, and these tests not a minute less.
    ready = tally.command("agent", "make", "agent") and tally.command("build", "cargo", "build", "--locked", "--bin", "stillframe")
    for process in making:
        process.wait()
    # Again where it is there: quick, and one that failed says why.
    return ready and all([tally.command(name, *command) for name, command in roots])


def install(target):
    """A copy as packages lay it out: while tests run it, cargo puts others in the place of those it has built."""
    place = target / "tests"
    for program, to in ((target / "debug" / "stillframe", place / "bin"),
                        (target / f"{os.uname().machine}-unknown-linux-musl/release/stillframe-agent", place / "libexec" / "stillframe")):
        subprocess.run(["install", "-D", "-t", to, program], check=True)
    return place / "bin" / "stillframe"


def compile_rest():
    """While the first end-to-end tests wait for files and processes; it gives way to them, by process and by session."""
    again = "echo 10 2>/dev/null >/proc/self/autogroup; cargo clippy --all-targets --locked; cargo test --locked --no-run"
    return subprocess.Popen(["nice", "-n", "10", "sh", "-c", again], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def end_to_end(tally, names, jobs, compiling):
    chosen = workers.files(names)
    workers.run([file for file in chosen if not file.alone], jobs, tally.file)
    if compiling:
        compiling.wait()
    workers.run([file for file in chosen if file.alone], 1, tally.file)
    print("the slowest:")
    for seconds, name in sorted(tally.times, reverse=True)[:15]:
        print(f"{seconds:6.0f} s  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["rust", "e2e"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() + 1, help="end-to-end files at a time; they wait more than they compute")
    parser.add_argument("--list", action="store_true", help="only name the end-to-end files")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(file.name for file in workers.files(arguments.names)))
        return 0
    # A shell starts in the background what is to ignore Ctrl-C, children included; some tests press it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    tally, code, compiling = Tally(), 1, None
    try:
        ready = prepare(tally, arguments.only)
        if ready and "STILLFRAME_BINARY" not in os.environ:
            target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
            os.environ["STILLFRAME_BINARY"] = str(install(target))
        if ready and not arguments.only:
            compiling = compile_rest()
        if ready and arguments.only != "rust":
            end_to_end(tally, arguments.names, arguments.jobs, compiling)
        if ready and arguments.only != "e2e":
            tally.command("pictures", "python3", "docs/pictures/draw.py", "--check")
            tally.command("format", "cargo", "fmt", "--check")
            tally.command("lints", "cargo", "clippy", "--all-targets", "--locked", "--", "-D", "warnings")
            tally.command("Rust tests", "cargo", "test", "--locked", "--no-fail-fast")
        code = 1 if tally.failed or not ready else 0
    except KeyboardInterrupt:
        code = 130
    finally:
        if compiling and compiling.poll() is None:
            os.killpg(compiling.pid, signal.SIGTERM)
    for name in tally.skipped:
        print(f"skipped: {name}")
    for name in tally.wrong:
        print(f"failed: {name}")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return code


if __name__ == "__main__":
    sys.exit(main())
