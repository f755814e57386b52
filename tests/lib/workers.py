"""End-to-end files side by side: which there are, what each says of itself, and a worker for each.

    SECONDS = 90           about how long it takes: the longest begin first
    SHARES = {"example"}   what it uses that others use too: files that share something never run at the same time
    BATCH = True           it computes, and nothing in it races a clock: it gives way to files that do, and never takes every place
    ALONE = True           it measures: it runs after all others, and nothing runs beside it

A file that says nothing shares nothing: it has processes, mounts, a TMPDIR and a network of its own, with a loopback and no way out. What is
shared:

    network    the machine's, with the package index, and with ports that others may take
    example    the example environment in the cache: tests change it for a moment, and put it back
    clock      what is done while a deployment of a few seconds is under way comes in time only where few do such things
"""
import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
E2E = ROOT / "tests" / "e2e"
# With less of it free, files are written to the disk.
MEMORY = 12 << 30


class File:
    """Read, not imported: one that cannot be imported fails in its worker."""

    def __init__(self, name, tests):
        self.name, self.tests = name, tests
        said = {"SECONDS": 0, "SHARES": set(), "BATCH": False, "ALONE": False}
        path = E2E / f"{name}.py"
        for line in path.read_text().splitlines() if path.exists() else []:
            word, equals, value = line.partition(" = ")
            if equals and word in said:
                said[word] = ast.literal_eval(value)
        self.seconds, self.shares, self.batch, self.alone = said.values()

    def may_run_beside(self, others, jobs):
        if self.batch and jobs > 1 and sum(other.batch for other in others) == jobs - 1:
            return False
        return not any(self.shares & other.shares for other in others)


def files(names=()):
    """Every file of the folder, or those of the names (file, file.Class or file.Class.test), in the order in which they begin."""
    chosen = {}
    for name in names or [path.stem for path in E2E.glob("test_*.py")]:
        chosen.setdefault(name.split(".")[0], []).append(name)
    return sorted((File(*one) for one in chosen.items()), key=lambda file: (file.alone, -file.seconds, file.name))


class Worker:
    """A process that runs one file, in namespaces of its own. Nix kills whatever it sees run as the build user that it takes; a network
    gives each port out once; and what a file leaves running ends with its worker."""

    def __init__(self, file, scratch):
        self.file, self.started = file, time.monotonic()
        self.report, self.log = (scratch / f"{file.name}.{kind}" for kind in ("json", "log"))
        # A short name: sockets below it have 107 characters.
        place = Path(tempfile.mkdtemp(prefix="", dir=scratch))
        network = [] if "network" in file.shares else ["--net"]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", *network,
                   "--fork", "--kill-child=KILL", "--", sys.executable, __file__, self.report, place, "batch" if file.batch else "timed", *file.tests]
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C is for the runner, which tells each worker once.
            self.process = subprocess.Popen([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)

    def interrupt(self):
        """Tells the first process in the namespaces: `unshare` itself only waits for it."""
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGINT)

    def end(self):
        self.process.kill()
        self.process.wait()

    def counted(self):
        """What the worker counted, and failures that it could not count: its own."""
        try:
            counted = json.loads(self.report.read_text())
        except (OSError, ValueError):
            counted = {"passed": 0, "failed": [], "skipped": [], "times": []}
        if self.process.returncode or not self.report.exists():
            counted["failed"].append(f"{self.file.name}: its worker ended with {self.process.returncode}")
        return counted


def run(chosen, jobs, done):
    """Runs the files, so many at once; `done` is told of each worker that has ended."""
    waiting, running = [*chosen], []
    with tempfile.TemporaryDirectory(prefix="sf-run-") as scratch:
        # Some tests go on as nobody.
        os.chmod(scratch, 0o711)
        try:
            while waiting or running:
                for worker in [w for w in running if w.process.poll() is not None]:
                    running.remove(worker)
                    done(worker)
                for file in [*waiting]:
                    if len(running) < jobs and file.may_run_beside([w.file for w in running], jobs):
                        waiting.remove(file)
                        running.append(Worker(file, Path(scratch)))
                time.sleep(0.1)
        except KeyboardInterrupt:
            stop(running, done)
            raise


def stop(running, done):
    """Each worker takes down what it has set up. At a second Ctrl-C, or after a minute, it is killed, with all that it started."""
    print("stopping; once more to stop at once", flush=True)
    try:
        for worker in running:
            if worker.process.poll() is None:
                worker.interrupt()
        deadline = time.monotonic() + 60
        while any(w.process.poll() is None for w in running) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        for worker in running:
            worker.end()
            done(worker)


# --- in a worker


class Interrupted(Exception):
    """Ctrl-C as an error of the test that runs: after such a one unittest cleans up, as it does not after KeyboardInterrupt."""


class Counted(unittest.TextTestResult):
    """Counts tests: one with subtests may fail several times, and a class that cannot be set up fails without a test. Takes their times,
    set-ups of classes left out."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.passed, self.times = 0, []

    def startTestRun(self):
        def interrupted(*_):
            self.stop()
            raise Interrupted
        signal.signal(signal.SIGINT, interrupted)

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.times.append((time.monotonic() - self.began, str(test)))

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.passed += 1

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        # The test ends, not only one subtest of many.
        if err is not None and self.shouldStop:
            raise Interrupted

    def report(self):
        bad = [test for test, _ in self.failures + self.errors] + self.unexpectedSuccesses
        return {"passed": self.passed, "failed": list(dict.fromkeys(str(getattr(test, "test_case", test)) for test in bad)),
                "skipped": [f"{test}: {why}" for test, why in self.skipped], "times": self.times}


def room():
    """Whether there is memory for what a few workers write: stores, environments and the disks of test hosts. Each asks when it begins."""
    words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(words["MemAvailable"].split()[0]) << 10
    limit = Path("/sys/fs/cgroup/memory.max")
    limit = limit.read_text().strip() if limit.exists() else "max"
    return free >= MEMORY and (limit == "max" or int(limit) >= MEMORY)


def enter(batch, place=None):
    """As the first process of the namespaces: goes on in a child, and waits for it and for whatever else is left to wait for."""
    if batch:
        os.nice(5)
        # A kernel that shares the machine among sessions asks the session, not the process.
        autogroup = Path("/proc/self/autogroup")
        if autogroup.exists():
            autogroup.write_text("5")
    # `ip netns` finds the names of the others' networks here, which are not mounted in this namespace.
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if place:
        # A file system in memory makes an inode in a tenth of the time of one on a disk, and a snapshot is thousands of small files.
        if room():
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,size=75%", "none", place], check=True)
        os.chmod(place, 0o1777)
        os.environ["TMPDIR"] = place
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
        while True:
            pid, status = os.wait()
            if pid == child:
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def apart(inside):
    """Goes on in namespaces of its own, as a file of end-to-end tests has them: a Nix builder's user is another's too. `inside`: a variable that
    tells the program there that it is."""
    if inside not in os.environ:
        command = ["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--net", "--fork", "--kill-child=KILL", "--",
                   sys.executable, *sys.argv]
        sys.exit(subprocess.run(command, env={**os.environ, inside: "1"}).returncode)
    enter(batch=False)


def work(report, tests):
    sys.path.insert(0, str(E2E))
    suite = unittest.defaultTestLoader.loadTestsFromNames(tests)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Counted).run(suite)
    Path(report).write_text(json.dumps(result.report()))


if __name__ == "__main__":
    enter(batch=sys.argv[3] == "batch", place=sys.argv[2])
    work(sys.argv[1], sys.argv[4:])
