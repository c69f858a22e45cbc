#!/usr/bin/env python3
"""--kv-cache-dtype: the same bytes however the work is cut, and half the memory."""
import os
import signal
import subprocess
import time
import unittest

from harness import BINARY, DEMO, ENVIRONMENT, ROOT, ProgramTest, row

DEEPSEEK = ROOT / "tests/models/tiny-deepseek-v3-halves"


class KvCache(ProgramTest):
    def bytes_of(self, model, ranks, *flags):
        run = self.generate(ranks, "--skip-tokenizer-init", "--resume=never", *flags, model=model)
        self.assertEqual(run.returncode, 0, run.stderr)
        answers = self.output.read_bytes()
        self.output.unlink()
        return answers

    def test_answers_depend_on_the_format_and_not_on_how_the_work_is_cut(self):
        self.write("".join(row(f"r{i}", prompt=[(5 + i * j) % 90 + 2 for j in range(20 + i)], max_tokens=36, ignore_eos=True,
                               stop_token_ids=[0], logprobs=1) for i in range(9)))
        for model in (DEMO, DEEPSEEK):
            with self.subTest(model=model.name):
                seen = set()
                for kv in ("auto", "fp8", "int8"):
                    flags = ("--kv-cache-dtype", kv)
                    at_once = self.bytes_of(model, 0, *flags)
                    # So little cache that rows of the demo model are preempted and prefilled again.
                    cut = self.bytes_of(model, 3, *flags, "--max-num-batched-tokens", "9", "--max-model-len", "64",
                                        "--kv-cache-memory-bytes", "400000")
                    self.assertEqual(at_once, cut, kv)
                    if model == DEMO:
                        self.assertRegex(self.run_.stderr, r"\b[1-9]\d* preemptions", f"{kv}: so little cache is no test")
                    seen.add(at_once)
                self.assertEqual(len(seen), 3, "a format changed nothing")

    def plan(self, model, *flags):
        return subprocess.run([BINARY, "plan", "--model", str(model), *flags], capture_output=True, text=True, timeout=60)

    def test_plan_counts_values_and_scales(self):
        for kv, line in (("auto", "KV cache: 4608 bytes a token over all ranks, in bfloat16\n"),
                         ("fp8", "KV cache: 2592 bytes a token over all ranks, in float8_e4m3 and its scales\n"),
                         ("int8", "KV cache: 2592 bytes a token over all ranks, in int8 and its scales\n")):
            run = self.plan(DEMO, "--dtype", "bfloat16", "--kv-cache-dtype", kv)
            self.assertIn(line, run.stdout, run.stderr)
            on_gpu = self.plan(DEMO, "--dtype", "bfloat16", "--kv-cache-dtype", kv, "--device", "cuda")
            self.assertIn(line, on_gpu.stdout, on_gpu.stderr)

    def test_another_format_is_another_job(self):
        self.write("".join(row(f"r{i}", max_tokens=150, ignore_eos=True) for i in range(96)))
        job = subprocess.Popen(self.command(0, "--max-num-seqs", "1", "--kv-cache-dtype", "int8"), env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(job.kill)
        kept = [BINARY, "results", str(self.output) + ".journal"]
        while job.poll() is None and not subprocess.run(kept, capture_output=True).stdout:
            time.sleep(0.02)
        os.kill(job.pid, signal.SIGTERM)
        self.assertEqual(job.wait(timeout=30), 75)
        run = self.generate(0)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("--kv-cache-dtype was int8 and is auto", run.stderr)
        run = self.generate(0, "--kv-cache-dtype", "int8")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(len(self.answers()), 96)


if __name__ == "__main__":
    unittest.main()
