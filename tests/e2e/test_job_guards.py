"""The proofs of the jobs are proofs: without the claim of a job, the record of who has it, the turn of one request for an id, the sync of the journal or
that of the files, one after the other, the same clients and the same events find something wrong."""
import os
import subprocess
import unittest

import harness
import jobguards

SECONDS = 330


class JobGuards(unittest.TestCase):
    """In a process of its own, whose programs are other ones than the other files'."""

    def test_each_guard_that_is_taken_out_is_seen(self):
        subprocess.run(["make", "fault-points-agent"], cwd=harness.ROOT, check=True, capture_output=True)
        done = subprocess.run([harness.ROOT / "tests" / "faults.py", "--mutations", "jobs-*"], capture_output=True, text=True,
                              env={**os.environ, "STILLFRAME_BINARY": str(harness.TARGET / "faults" / "bin" / "stillframe")})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for guard in jobguards.GUARDS:
            self.assertIn(f"{guard} in place: nothing wrong: as it must be", done.stdout)
            self.assertIn(f"{guard} taken out: seen: as it must be", done.stdout)
