#!/usr/bin/env python3
"""A rank that is killed ends the whole job within seconds, with a message that names it."""
import os
import pathlib
import signal
import subprocess
import time
import unittest

from harness import ENVIRONMENT, SLOWLY, ProgramTest, row

RANKS = 4


class Killed(ProgramTest):
    def start(self):
        self.write("".join(row(f"row-{i}", max_tokens=1500, ignore_eos=True) for i in range(64)))
        job = subprocess.Popen(self.command(RANKS, *SLOWLY), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
        self.addCleanup(job.kill)
        seen = ""
        for line in job.stdout:
            seen += line
            if "stage 3 on" in line:
                return job, seen
        self.fail(f"the job ended before it was ready:\n{seen}")

    def pid_of(self, rank):
        for pid in self.processes():
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
                return pid
        self.fail(f"no process of rank {rank}")

    def test_kill_9_of_any_rank_ends_the_job_and_names_it(self):
        for rank in range(RANKS):
            with self.subTest(rank=rank):
                job, seen = self.start()
                time.sleep(0.5)
                begin = time.monotonic()
                os.kill(self.pid_of(rank), signal.SIGKILL)
                rest, _ = job.communicate(timeout=100)
                self.assertLess(time.monotonic() - begin, 5)
                self.assertNotEqual(job.returncode, 0)
                self.assertRegex(rest, rf"rank {rank} \(.*\) died")
                self.assertFalse(self.output.exists())
                self.expect_no_process()

    def test_sigterm_to_one_rank_ends_every_rank_with_one_message(self):
        job, _ = self.start()
        os.kill(self.pid_of(2), signal.SIGTERM)
        rest, _ = job.communicate(timeout=100)
        self.assertNotEqual(job.returncode, 0)
        self.assertEqual(rest.count("stopped by SIGTERM"), 1, rest)
        self.expect_no_process()

    def test_ctrl_c_ends_every_rank(self):
        job, _ = self.start()
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=100)
        self.assertNotEqual(job.returncode, 0)
        self.expect_no_process()


if __name__ == "__main__":
    unittest.main()
