#!/usr/bin/env python3
"""Interrupted in every way, typed again: the output is the one an undisturbed run writes, byte for byte."""
import os
import pathlib
import signal
import subprocess
import time
import unittest

from harness import ENVIRONMENT, SLOWLY, ProgramTest, row

STOPPED = 75


class Resumed(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("".join(row(f"row-{i}", max_tokens=150 + i, ignore_eos=True, temperature=0.8, seed=i, logprobs=1)
                           for i in range(96)))

    def pid_of(self, rank):
        for pid in self.processes():
            if f"OMPI_COMM_WORLD_RANK={rank}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
        self.fail(f"no process of rank {rank}")

    def expect_undisturbed_bytes(self):
        run = self.generate(2)
        self.assertEqual(run.returncode, 0, run.stderr)
        disturbed = self.output.read_bytes()
        run = self.generate(0, output=self.folder / "undisturbed.jsonl")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(disturbed, (self.folder / "undisturbed.jsonl").read_bytes())

    def test_each_signal_on_any_rank_drains_and_the_same_command_goes_on(self):
        for rank, number in ((0, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGUSR1)):
            with self.subTest(signal=number):
                job = self.start_slowly(3)
                os.kill(self.pid_of(rank), number)
                text, _ = job.communicate(timeout=100)
                self.assertEqual(job.returncode, STOPPED, text)
                self.assertEqual(text.count(f"stopped by {number.name} on rank {rank}:"), 1, text)
                self.assertFalse(self.output.exists())
                self.expect_no_process()
        self.expect_undisturbed_bytes()

    def test_a_second_signal_stops_at_once_and_keeps_every_finished_row(self):
        job = self.start_slowly(0, "--drain-seconds", "30")
        pid = self.processes()[0]
        os.kill(pid, signal.SIGSTOP)  # so that both signals of one kind are there before either is looked at
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGCONT)
        text, _ = job.communicate(timeout=100)
        self.assertEqual(job.returncode, STOPPED, text)
        self.expect_undisturbed_bytes()

    def test_a_drain_does_not_wait_for_an_input_that_stays_open(self):
        command = self.command(0, "--drain-seconds", "86400")
        command[command.index(str(self.folder / "in.jsonl"))] = "-"
        with open(self.folder / "said", "w") as said:
            job = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=said, text=True)
        self.addCleanup(job.stdin.close)
        self.addCleanup(job.kill)
        job.stdin.write(row("a"))
        job.stdin.flush()
        written = self.folder / "out.jsonl.partial"
        self.await_that(lambda: job.poll() is not None or written.exists() and written.stat().st_size > 0)
        job.send_signal(signal.SIGTERM)
        self.assertEqual(job.wait(timeout=100), STOPPED, (self.folder / "said").read_text())

    def test_max_seconds_ends_in_time(self):
        self.write("".join(row(f"row-{i}", max_tokens=1500, ignore_eos=True) for i in range(400)))
        begin = time.monotonic()
        run = self.generate(0, "--max-seconds", "8", *SLOWLY)
        self.assertEqual(run.returncode, STOPPED, run.stderr)
        self.assertLess(time.monotonic() - begin, 8 + 2)
        self.assertIn("stopped by --max-seconds", run.stderr)
        self.assertRegex(run.stderr, "[1-9][0-9]* more are saved as far as they got")

    def test_killed_it_goes_on_and_results_shows_what_is_there(self):
        job = self.start_slowly(0)
        os.kill(self.processes()[0], signal.SIGKILL)
        job.communicate(timeout=100)
        shown = self.kept()
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("of 96 rows are finished", shown.stderr)
        kept = len(shown.stdout.splitlines())
        run = self.generate(0)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn(f"{kept} rows were finished before", run.stderr)
        self.assertTrue(set(shown.stdout.splitlines()) <= set(self.output.read_text().splitlines()))
        again = self.generate(0)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("nothing is left to do", again.stderr)
        self.expect_undisturbed_bytes()

    def test_another_job_is_refused_with_the_difference_named(self):
        job = self.start_slowly(0)
        os.kill(self.processes()[0], signal.SIGTERM)
        job.communicate(timeout=100)
        run = self.generate(2, "--seed", "5")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("--seed was 0 and is 5", run.stderr)
        self.expect_undisturbed_bytes()

    def test_a_weight_file_that_was_changed_is_refused_be_it_in_its_last_byte(self):
        model = self.copy_of_demo()
        job = self.start_slowly(0, model=model)
        job.terminate()
        job.communicate(timeout=100)
        weights = model / "model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        run = self.generate(2, model=model)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("the weights was ", run.stderr)

    def test_two_jobs_on_one_output_the_second_is_refused(self):
        job = self.start_slowly(0)
        run = self.generate(0)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn(f"pid {job.pid}", run.stderr)
        job.kill()
        job.communicate(timeout=100)
        self.expect_undisturbed_bytes()

    def test_a_full_disk_ends_the_job_and_room_lets_it_go_on(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting a small tmpfs takes root")
        self.addCleanup(subprocess.run, ["umount", str(disk)], capture_output=True)
        self.output = disk / "out.jsonl"
        run = self.generate(2)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("No space left on device", run.stderr)
        self.assertFalse(self.output.exists())
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        self.expect_undisturbed_bytes()

    def test_a_folder_that_may_not_be_written_is_refused_at_once(self):
        self.output = pathlib.Path("/proc/out.jsonl")
        run = self.generate(0)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("its journal /proc/out.jsonl.journal cannot be written", run.stderr)


if __name__ == "__main__":
    unittest.main()
