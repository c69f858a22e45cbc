#!/usr/bin/env python3
"""Ranks started by srun, in a Slurm of the test's own."""
import unittest

from slurm_harness import ClusterTest

# As rank 2 alone: ends before it has met the others.
FAILS_AT_START = '[ "$SLURM_PROCID" != 2 ] || exit 7; exec "$0" "$@"'


class Srun(ClusterTest):
    def test_four_ranks_answer_as_one_process_does(self):
        run = self.srun(4)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.output.read_bytes(), self.undisturbed())

    def test_the_preflight_agrees_with_slurm(self):
        run = self.srun(4, "--preflight")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("4 ranks on 1 host, as Slurm says", run.stdout)

    def test_ranks_that_do_not_find_each_other_are_refused_with_the_remedy(self):
        run = self.srun(4, mpi="none")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertEqual(run.stderr.count("srun --mpi=pmix"), 1, run.stderr)
        self.assertFalse(self.output.exists())

    def test_a_rank_that_fails_at_start_ends_the_job_with_its_name(self):
        run = self.srun(4, before=["bash", "-c", FAILS_AT_START])
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("task 2: Exited with exit code 7", run.stderr)
        self.assertFalse(self.output.exists())
        self.expect_no_process()


if __name__ == "__main__":
    unittest.main()
