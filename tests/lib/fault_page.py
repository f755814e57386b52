"""docs/faults.md: the table of what came of each fault at each step, kept from one run to the next."""
import os
import re
import tempfile
from pathlib import Path

#: What a cell says.
OK, BAD, NEVER, OPEN = "ok", "BAD", "-", "?"

TEXT = """\
# Faults

`make faults` breaks stillframe at every step of what it does on a host, in every way below, on real test hosts (systemd, sshd, Nix), and asks one
oracle what came of it. It writes this page. STEPS and FAULTS choose rows and columns; cells that are here already are not run again unless
ANEW=1 is given. `make test` runs a few cells that the commit's hash chooses, and compares the steps of the program with the rows of this page.

**A step** is a place in the host's program. `deploy: before save 2` is the place before the second write of the service's state in a deployment.
An effect of an activation has its bare name (`src/host/faults.rs`); `copy/…`, `prepare/…`, `boot/…`, `retention/…` and `gateway/…` are places of the
transfer, of `host prepare`, of a start of the host, of `stillframe retention` and of the gateway's own changes. The word in front is the command:
`copy` deploys a snapshot that the host has not, `upgrade` deploys with another version of the agent, `boot` is a reboot; `recovery` and `completion` are the
boot after a deployment lost its power before its commit, and after it. Of a place in a loop, and of places with a stroke, the first pass alone has a
row. Three places are passed by none of these commands and have no row: `retention/unlink`, `retention/save` and `boot/rebuild`.

**The oracle** (`tests/e2e/oracle.py`) looks at a host with two services, while a client asks one of them without a pause: within a minute of its last restart
the host serves exactly the old or exactly the new generation; each public port answers with its own service's mark; no unit, slot, mount or link of
another generation is left; every picture made so far is served; the history says what happened, and the exit status agrees with it; no request failed
while the gateway lived; after a power loss every store path of what serves has its hash; and the same command once more completes. A host that is
prepared must be ready after the same command once more, also when its power fails right after that.

**A fault** comes while the step is held:

{faults}

The clock is that of the agent: the test hosts share the machine's own clock, which a test cannot move. Neither the kernel's clock nor timers of systemd jump.

`ok`: all of that held. `BAD`: something of it did not. `-`: the fault cannot be there, or says nothing there that it does not say at another step (an
instance is killed where an activation is under way, not while a transfer is). `?`: not run yet.

{counted}

{runs}

{table}"""


def row(cells):
    return "| " + " | ".join(cells) + " |"


class Page:
    """The cells by row and column, and on what they were run."""

    def __init__(self, path=None):
        self.path, self.cells, self.runs = path, {}, []
        rows = self._rows()
        for cells in rows:
            if cells[0].startswith("commit "):
                self.runs.append((cells[0].removeprefix("commit "), cells[1], int(cells[2])))
        self.columns = next((cells[1:] for cells in rows if cells[0] == "step"), [])
        for cells in rows:
            if re.match(r"\w+: ", cells[0]):
                self.cells[cells[0]] = dict(zip(self.columns, cells[1:]))

    def _rows(self):
        if self.path is None or not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    def arrange(self, steps, faults):
        """Rows and columns as they are now; what is known of them stays."""
        now = {}
        for step in steps:
            known = {name: cell for name, cell in self.cells.get(str(step), {}).items() if cell != NEVER}
            now[str(step)] = {f.name: known.get(f.name, OPEN) if f.can(step) else NEVER for f in faults}
        self.cells, self.columns = now, [f.name for f in faults]

    def is_open(self, step, fault):
        return self.cells[str(step)][fault.name] == OPEN

    def put(self, step, fault, good, commit, agent):
        self.cells[str(step)][fault.name] = OK if good else BAD
        if not self.runs or self.runs[-1][:2] != (commit, agent):
            self.runs.append((commit, agent, 0))
        self.runs[-1] = (commit, agent, self.runs[-1][2] + 1)

    def count(self, what):
        return sum(cell == what for cells in self.cells.values() for cell in cells.values())

    def table(self):
        rows = [["step", *self.columns], ["---"] * (len(self.columns) + 1)]
        rows += [[step, *(cells[column] for column in self.columns)] for step, cells in self.cells.items()]
        return "\n".join(map(row, rows)) + "\n"

    def text(self, faults):
        runs = [row(["run on", "agent", "cells"]), row(["---"] * 3)] + [row([f"commit {c}", a, str(n)]) for c, a, n in self.runs]
        counted = f"{len(self.cells)} steps, {len(self.columns)} faults: {self.count(OK)} cells ok, {self.count(BAD)} BAD, {self.count(OPEN)} not run yet."
        listed = "\n".join(f"- **{fault.name}**: {fault.text}" for fault in faults)
        return TEXT.format(faults=listed, counted=counted, runs="\n".join(runs), table=self.table())

    def write(self, faults):
        """Whole or not at all: runs are ended at any time."""
        if self.path is None:
            return
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".faults-")
        with os.fdopen(handle, "w") as file:
            file.write(self.text(faults))
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, self.path)
