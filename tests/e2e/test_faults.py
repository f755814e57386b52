"""A sample of the matrix of faults, chosen by the commit's hash: over time all of it. `make faults` runs the whole, and writes its
table, which must have a row for every step of the program and a column for every fault."""
import os
import subprocess
import sys
import unittest

import harness
import matrix
import oracle

sys.path.insert(0, str(harness.ROOT / "tests" / "lib"))
import fault_page  # noqa: E402

FAULTS = harness.TARGET / "faults"
SECONDS = 420
CELLS = 8


class Page(unittest.TestCase):
    """docs/faults.md, as `make faults` left it. Whether the listed steps are the program's own, the sample finds out."""

    def test_no_step_and_no_fault_is_without_a_cell(self):
        page = fault_page.Page(harness.ROOT / "docs" / "faults.md")
        steps = oracle.listed()
        self.assertEqual(list(page.cells), [str(step) for step in steps])
        self.assertEqual(page.columns, [fault.name for fault in matrix.FAULTS])
        for step in steps:
            for fault in matrix.FAULTS:
                with self.subTest(step=str(step), fault=fault.name):
                    may = {fault_page.OK, fault_page.OPEN} if fault.can(step) else {fault_page.NEVER}
                    self.assertIn(page.cells[str(step)].get(fault.name), may)
        self.assertGreaterEqual(sum(cells for _, _, cells in page.runs), page.count(fault_page.OK))

    def test_what_a_page_says_is_read_back(self):
        steps = [oracle.step(text) for text in ("deploy: before save 2", "boot: at boot/begin", "prepare: after prepare/unit")]
        self.assertEqual([str(step) for step in steps], ["deploy: before save 2", "boot: at boot/begin", "prepare: after prepare/unit"])
        with harness.Workstation() as ws:
            path = ws.root / "faults.md"
            page = fault_page.Page(path)
            page.arrange(steps, matrix.FAULTS)
            page.put(steps[0], matrix.FAULTS[0], True, "c1", "a1")
            page.put(steps[1], matrix.FAULTS[0], False, "c1", "a1")
            page.put(steps[2], matrix.FAULTS[0], True, "c2", "a1")
            page.write(matrix.FAULTS)
            again = fault_page.Page(path)
            self.assertEqual((again.cells, again.columns, again.runs), (page.cells, page.columns, [("c1", "a1", 2), ("c2", "a1", 1)]))
            # A step that is new has not been run, one that has gone is not there, and the rest is as it was.
            again.arrange([steps[0], oracle.step("deploy: after save 9")], matrix.FAULTS)
            self.assertEqual([cells["kill agent"] for cells in again.cells.values()], [fault_page.OK, fault_page.OPEN])
            self.assertFalse(again.is_open(steps[0], matrix.FAULTS[0]))


class Faults(unittest.TestCase):
    """In a process of its own, whose programs are other ones than the other files'."""

    @classmethod
    def setUpClass(cls):
        subprocess.run(["make", "fault-points-agent"], cwd=harness.ROOT, check=True, capture_output=True)

    def test_a_sample_of_the_matrix_and_guards_that_are_taken_out(self):
        """The steps are those that are listed; a sample of the cells is good; and without a sync before the commit, without the comparison of
        hashes and without the hand-over of the lease, one after the other, the oracle sees what comes of it."""
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=harness.ROOT, check=True, capture_output=True, text=True).stdout.strip()
        done = subprocess.run([harness.ROOT / "tests" / "faults.py", "--sample", str(CELLS), "--seed", commit, "--mutations", ",".join(oracle.GUARDS)],
                              capture_output=True, text=True, env={**os.environ, "STILLFRAME_BINARY": str(FAULTS / "bin" / "stillframe")})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, rf"\n{CELLS} cells, 0 bad\n")
        for guard in oracle.GUARDS:
            self.assertIn(f"{guard} taken out: seen: as it must be", done.stdout)
