#!/usr/bin/env python3
"""Several pipelines beside each other: one input, one output, one journal, and the bytes of one pipeline."""
import os
import pathlib
import re
import signal
import subprocess
import unittest

from harness import BINARY, DEMO, ENVIRONMENT, SLOWLY, ProgramTest, row


class Replicas(ProgramTest):
    def rows(self, count, **body):
        self.write("".join(row(f"row-{i}", prompt=[2, 45 + i, 3], logprobs=2, seed=i, temperature=0.8, **body)
                           for i in range(count)))

    def bytes_of(self, ranks, *flags):
        self.output.unlink(missing_ok=True)
        run = self.generate(ranks, "--resume", "never", *flags)
        self.assertEqual(run.returncode, 0, run.stderr)
        return self.output.read_bytes()

    def pid_of(self, rank):
        for pid in self.processes():
            if f"OMPI_COMM_WORLD_RANK={rank}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
        self.fail(f"no process of rank {rank}")

    def test_four_ranks_as_two_by_two_give_the_bytes_of_one(self):
        self.rows(24, max_tokens=40, n=2)
        one = self.bytes_of(0)
        self.assertEqual(self.bytes_of(4, "--pp", "2"), one)
        self.assertIn("ready: 2 replicas of 2 stages", self.run_.stderr)
        for rank in range(4):
            self.assertIn(f"replica {rank // 2}, stage {rank % 2} on", self.run_.stderr)
        ran = [int(r) for r in re.findall(r"^ +[01]  +[01]  .*?%  +(\d+)  +\d+\.\d  ", self.run_.stderr, re.M)]
        self.assertEqual(len(ran), 4, self.run_.stderr)
        self.assertTrue(all(ran), "every replica has work")
        self.assertEqual(self.bytes_of(4, "--dp", "4"), one)

    def test_kill_9_in_another_replica_ends_the_job_by_name_and_it_goes_on(self):
        self.rows(40, max_tokens=600, ignore_eos=True)
        undisturbed = self.bytes_of(4)
        self.output.unlink()
        for rank in (2, 3):
            with self.subTest(rank=rank):
                job = self.start_slowly(4, "--pp", "2")
                os.kill(self.pid_of(rank), signal.SIGKILL)
                rest, _ = job.communicate(timeout=100)
                self.assertNotEqual(job.returncode, 0)
                self.assertRegex(rest, rf"rank {rank} \(.*\) died")
                self.assertFalse(self.output.exists())
                self.expect_no_process()
        run = self.generate(4, "--pp", "2")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("rows were finished before", run.stderr)
        self.assertEqual(self.output.read_bytes(), undisturbed)

    def test_a_drain_asked_of_any_replica_saves_the_rows_of_all(self):
        self.rows(40, max_tokens=600, ignore_eos=True)
        undisturbed = self.bytes_of(0)
        self.output.unlink()
        job = self.start_slowly(4, "--pp", "2")
        os.kill(self.pid_of(3), signal.SIGUSR1)
        rest, _ = job.communicate(timeout=100)
        self.assertEqual(job.returncode, 75, rest)
        self.assertRegex(rest, r"[1-9]\d* more are saved as far as they got")
        run = self.generate(4, "--dp", "4")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(self.output.read_bytes(), undisturbed)

    def test_an_idle_replica_costs_no_processor(self):
        """One row: a replica works, the other one waits for news."""
        self.write(row("only", max_tokens=1500, ignore_eos=True))
        job = subprocess.Popen(self.command(2, "--dp", "2"), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
        self.addCleanup(job.kill)
        rest, _ = job.communicate(timeout=100)
        self.assertEqual(job.returncode, 0, rest)
        ran = re.findall(r"^ +[01]  +0  .*?%  +(\d+)  +\d+\.\d  ", rest, re.M)
        self.assertEqual(sorted(map(int, ran))[0], 0, rest)

    def test_plan_and_metrics_tell_replicas_apart(self):
        plan = subprocess.run([BINARY, "plan", "--model", DEMO, "--pp", "4", "--dp", "2"], capture_output=True, text=True)
        self.assertIn("2 replicas of 4 stages on 8 ranks", plan.stdout)


if __name__ == "__main__":
    unittest.main()
