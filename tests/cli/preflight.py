#!/usr/bin/env python3
"""The preflight says what is wrong with machines and folders before a job spends hours on them."""
import re
import unittest

from harness import ENVIRONMENT, ProgramTest


class Preflight(ProgramTest):
    def checks(self):
        return dict(re.findall(r"^(\S+(?: \S+)?) +(ok|FAIL) ", self.run_.stdout, re.M))

    def test_all_is_well_and_nothing_is_written(self):
        for ranks in (0, 4):
            with self.subTest(ranks=ranks):
                self.generate(ranks, "--preflight")
                self.assertEqual(self.run_.returncode, 0, self.run_.stderr)
                self.assertEqual(set(self.checks()), {"world", "program", "job", "edges", "model", "input", "output",
                                                      "free space", "shared memory", "locked memory", "clocks"})
                self.assertEqual(set(self.checks().values()), {"ok"}, self.run_.stdout)
                self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["in.jsonl"])

    def test_it_prints_which_rank_does_what(self):
        self.generate(4, "--preflight")
        self.assertRegex(self.run_.stdout, r"(?m)^ +0 .* embedding$")
        self.assertRegex(self.run_.stdout, r"(?m)^ +3 .* layers 12-17 \+ head$")
        self.assertRegex(self.run_.stdout, r"edges +ok +0 -> 1 [0-9.]+ [GM]B/s, 1 -> 2 ")

    def test_a_missing_input_fails_the_check_with_one_message(self):
        (self.folder / "in.jsonl").unlink()
        self.generate(4, "--preflight")
        self.assertEqual(self.run_.returncode, 2, self.run_.stderr)
        self.assertEqual([name for name, result in self.checks().items() if result == "FAIL"], ["input"])
        self.assertEqual(self.run_.stderr.count("preflight: input is not as the job needs"), 1, self.run_.stderr)

    def test_an_output_folder_that_is_not_there(self):
        self.generate(2, "--preflight", output=self.folder / "nowhere" / "out.jsonl")
        self.assertEqual(self.run_.returncode, 2, self.run_.stderr)
        self.assertIn("No such file or directory", self.run_.stdout)
        self.assertEqual(self.checks()["output"], "FAIL")

    def test_more_ranks_than_slurm_knows_of(self):
        ENVIRONMENT.update(SLURM_JOB_ID="1", SLURM_NTASKS="3")
        self.addCleanup(lambda: [ENVIRONMENT.pop(name) for name in ("SLURM_JOB_ID", "SLURM_NTASKS")])
        self.generate(2, "--preflight")
        self.assertEqual(self.run_.returncode, 2, self.run_.stderr)
        self.assertIn("expected 3 ranks (SLURM_NTASKS), found 2 ranks", self.run_.stdout)


if __name__ == "__main__":
    unittest.main()
