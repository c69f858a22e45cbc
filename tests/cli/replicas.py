#!/usr/bin/env python3
"""Several pipelines beside each other: one input, one output, one journal, and the bytes of one pipeline."""
import os
import pathlib
import re
import signal
import subprocess
import unittest

from harness import BINARY, DEMO, ProgramTest, row


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

    def test_stages_that_run_an_mlp_in_turns_give_the_bytes_of_one(self):
        self.rows(24, max_tokens=40)
        one = self.bytes_of(0)
        self.assertEqual(self.bytes_of(4, "--pp", "2", "--layer-partition", "8.75,9.25"), one)
        self.assertIn("embedding + layers 0-7 + attention 8 + MLP 8 in turns", self.run_.stderr)
        self.assertIn("MLP 8 in turns + layers 9-17 + head", self.run_.stderr)
        self.assertEqual(self.bytes_of(3, "--layer-partition", "5.75,6,6.25"), one)

    def test_kill_9_in_another_replica_ends_the_job_by_name_and_it_goes_on(self):
        self.rows(40, max_tokens=300, ignore_eos=True)
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
        self.rows(40, max_tokens=300, ignore_eos=True)
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

    def test_a_replica_without_rows_waits_for_the_one_that_has_some(self):
        self.write(row("only", max_tokens=1500, ignore_eos=True))
        for ranks, flags in ((2, ["--dp", "2"]), (4, ["--pp", "2"])):
            run = self.generate(ranks, "--resume", "never", *flags)
            self.assertEqual(run.returncode, 0, run.stderr)
            ran = [int(r) for r in re.findall(r"^ +[01]  +0  .*?%  +(\d+)  +\d+\.\d  ", run.stderr, re.M)]
            self.assertEqual(sorted(ran), [0, 1500], run.stderr)

    def test_the_guards_step_to_full_precision_is_one_for_all_replicas(self):
        self.rows(60, max_tokens=150, ignore_eos=True, n=2)
        by_precision = []
        for dtype in ("fp8", "auto"):
            self.bytes_of(0, "--kv-cache-dtype", dtype)
            by_precision.append(self.answers())
        run = self.generate(4, "--resume", "never", "--pp", "2", "--kv-cache-dtype", "fp8", "--guard", "kv_error=0.001,for=0.1",
                            "--metrics-interval", "0.02", "--max-num-seqs", "4", "--micro-batches", "2")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("stepping back from a KV cache of float8_e4m3 to one of bfloat16", run.stderr)
        full = 0
        for answer, low, high in zip(self.answers(), *by_precision, strict=True):
            stepped = answer["response"]["body"].pop("system_fingerprint", None) is not None
            self.assertEqual(answer, high if stepped else low)
            full += stepped
        self.assertGreater(full, 0, "every row was done before the step")

    def test_plan_says_how_many_ranks_there_are(self):
        plan = subprocess.run([BINARY, "plan", "--model", DEMO, "--pp", "4", "--dp", "2"], capture_output=True, text=True)
        self.assertIn("2 replicas of 4 stages on 8 ranks", plan.stdout)


if __name__ == "__main__":
    unittest.main()
