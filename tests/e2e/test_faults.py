"""A sample of the matrix of faults, chosen by the commit's hash: over time all of it. `make faults` runs the whole, and writes its
table."""
import os
import subprocess
import unittest

import harness

FAULTS = harness.TARGET / "faults"
SECONDS = 240
CELLS = 8


class Faults(unittest.TestCase):
    """In a process of its own, whose programs are other ones than the other files'."""

    @classmethod
    def setUpClass(cls):
        subprocess.run(["make", "fault-points-agent"], cwd=harness.ROOT, check=True, capture_output=True)

    def test_a_sample_of_the_matrix(self):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=harness.ROOT, check=True, capture_output=True, text=True).stdout.strip()
        done = subprocess.run([harness.ROOT / "tests" / "faults.py", "--sample", str(CELLS), "--seed", commit], capture_output=True, text=True,
                              env={**os.environ, "STILLFRAME_BINARY": str(FAULTS / "bin" / "stillframe")})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, rf"\n{CELLS} cells, 0 bad\n")
