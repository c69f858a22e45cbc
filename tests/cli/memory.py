#!/usr/bin/env python3
"""Rank 0 holds a window of rows, never the file."""
import os
import subprocess
import unittest

from harness import ENVIRONMENT, ROOT, ProgramTest

MEBIBYTE = 1 << 20


class Memory(ProgramTest):
    def peak_of_a_file(self, rows):
        """Peak resident bytes of a job over `rows` rows of a kilobyte, every one of them that row's error."""
        padding = "x" * 900
        with open(self.folder / "in.jsonl", "w") as file:
            for i in range(rows):
                file.write(f'{{"custom_id": "row-{i}", "url": "/v1/completions", "body": {{"nonsense": "{padding}"}}}}\n')
        job = subprocess.Popen(self.command(0, model=ROOT / "tests/models/tiny-qwen3"), env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(job.returncode, 0)
        with open(self.output) as answers:
            self.assertEqual(sum(1 for _ in answers), rows)
        return usage.ru_maxrss * 1024

    def test_peak_memory_does_not_grow_with_the_file(self):
        small = self.peak_of_a_file(20_000)
        large = self.peak_of_a_file(200_000)
        self.assertLess(large, small + 64 * MEBIBYTE, f"20 MB took {small >> 20} MiB, 200 MB took {large >> 20} MiB")


if __name__ == "__main__":
    unittest.main()
