#!/usr/bin/env python3
"""Experts that are read when a row is first routed to them; what `plan` says of models with experts."""
import json
import os
import re
import shutil
import subprocess
import time
import unittest

from harness import BINARY, ENVIRONMENT, ROOT, ProgramTest, row

MODELS = ROOT / "tests/models"
EXPERTS = MODELS / "tiny-deepseek-v3-halves"
TOUCHED = re.compile(r"experts touched: (\d+) of (\d+) \((.*)\), ([0-9.]+) MiB of ([0-9.]+) MiB in memory")


class Experts(ProgramTest):
    def job(self, ranks, *flags, model=EXPERTS):
        run = self.generate(ranks, "--skip-tokenizer-init", *flags, model=model)
        self.assertEqual(run.returncode, 0, run.stderr)
        answers = [a["response"]["body"]["choices"] for a in self.answers()]
        self.output.unlink()
        return answers, TOUCHED.search(run.stderr)

    def test_a_narrow_job_touches_few_experts_and_has_the_answers_of_an_eager_one(self):
        self.write(row("a", logprobs=2, max_tokens=2) + row("b", prompt=[2, 45], logprobs=2, max_tokens=1))
        eager, said = self.job(0)
        self.assertIsNone(said)
        for ranks in (0, 3):
            lazy, said = self.job(ranks, "--expert-loading", "lazy")
            self.assertEqual(lazy, eager)
            touched, all_of_them = int(said[1]), int(said[2])
            self.assertEqual(all_of_them, 24)
            self.assertLess(0, touched)
            self.assertLess(touched, all_of_them)
            stages = [tuple(map(int, s)) for s in re.findall(r"stage \d: (\d+) of (\d+)", said[3])]
            self.assertEqual([sum(n) for n in zip(*stages)], [touched, all_of_them])

    def test_weights_in_fp8_come_lazily_too(self):
        model = self.folder / "fp8"
        subprocess.run([str(BINARY), "quantize", "--model", str(EXPERTS), "--output", str(model)], check=True,
                       capture_output=True)
        eager, _ = self.job(0, model=model)
        lazy, said = self.job(2, "--expert-loading", "lazy", model=model)
        self.assertEqual(lazy, eager)
        self.assertLess(int(said[1]), int(said[2]))

    def test_memory_is_that_of_the_experts_touched(self):
        config = json.loads((EXPERTS / "config.json").read_text())
        config.update(hidden_size=256, moe_intermediate_size=256, n_routed_experts=96, torch_dtype="bfloat16")
        model = self.folder / "made-up"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(config))
        self.write(row("a", prompt=[2], max_tokens=1))
        eager, _ = self.job(0, "--load-format", "dummy", model=model)
        lazy, said = self.job(0, "--load-format", "dummy", "--expert-loading", "lazy", model=model)
        self.assertEqual(lazy, eager)
        self.assertEqual((said[1], said[2]), ("8", "192"), "one token, four experts in each of two layers")
        self.assertEqual((said[4], said[5]), ("3.0", "72.0"))

    def test_a_truncated_file_is_refused_before_the_job_runs(self):
        model = self.folder / "model"
        shutil.copytree(EXPERTS, model)
        os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size - 100)
        run = self.generate(0, "--skip-tokenizer-init", "--expert-loading", "lazy", model=model)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("truncated file", run.stderr)

    def test_a_file_that_becomes_shorter_stops_the_job_with_one_message(self):
        model = self.folder / "model"
        shutil.copytree(EXPERTS, model)
        for ranks in (0, 3):
            with self.subTest(ranks=ranks):
                shutil.copy(EXPERTS / "model.safetensors", model)
                pipe = self.folder / f"rows-{ranks}"
                os.mkfifo(pipe)
                command = self.command(ranks, "--skip-tokenizer-init", "--expert-loading", "lazy", model=model)
                command[command.index("-i") + 1] = str(pipe)
                job = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
                self.addCleanup(job.kill)
                with open(pipe, "w") as rows:
                    said = []
                    while not said or " ready: " not in said[-1]:
                        said.append(job.stderr.readline())
                        self.assertNotEqual(said[-1], "", said)
                    os.truncate(model / "model.safetensors", 20000)
                    rows.write(row("a"))
                said = "".join(said) + job.communicate(timeout=60)[1]
                self.assertEqual(job.returncode, 1, said)
                self.assertEqual(said.count("the file has become shorter"), 1, said)
                self.expect_no_process()

    def test_lazy_experts_are_refused_on_a_gpu(self):
        run = subprocess.run([str(BINARY), "plan", "--model", str(MODELS / "tiny-qwen3"), "--device", "cuda",
                              "--expert-loading", "lazy"], env=ENVIRONMENT, capture_output=True, text=True)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("--expert-loading lazy: expected --device cpu", run.stderr)

    def planned(self, model, *flags):
        run = subprocess.run([str(BINARY), "plan", "--model", str(MODELS / model), *flags], env=ENVIRONMENT,
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_plan_knows_what_published_models_take(self):
        for model, layers, gigabytes, experts in (("deepseek-v2-lite-shape", 27, 31.4, 27456.0),
                                                  ("deepseek-v3-shape", 61, 690, 643104.0)):
            with self.subTest(model=model):
                text = self.planned(model, "--pp", "4")
                self.assertIn(f"KV cache: {layers * 576 * 2} bytes a token", text)
                weights = sum(float(w) for w in re.findall(r"^ +\d  (?:emb|lay).*?  +([0-9.]+)  ", text, re.M))
                self.assertAlmostEqual(weights * 2**20 / 1e9, gigabytes, delta=0.01 * gigabytes)
                self.assertIn(f"routed experts: {experts} MiB", text)
        self.assertIn("routed experts: 1247232.0 MiB",
                      self.planned("deepseek-v3-shape", "--load-format", "dummy", "--pp", "4"))

    def test_layers_with_experts_weigh_more_in_an_automatic_cut_than_dense_ones(self):
        plan = self.planned("deepseek-v3-shape", "--pp", "8", "--layer-partition", "auto")
        counts = []  # of half layers: a cut may lie between a layer's attention and its MLP
        for part in re.findall(r"^ +\d+  (.*?)  ", plan, re.M):
            whole = [int(last or first) - int(first) + 1 for first, last in re.findall(r"layers? (\d+)(?:-(\d+))?", part)]
            counts.append(2 * sum(whole) + len(re.findall(r"(?:attention|MLP) \d+", part)))
        self.assertEqual(sum(counts), 2 * 61, plan)
        self.assertGreater(counts[0], counts[1], "the first stage has the three dense layers")


if __name__ == "__main__":
    unittest.main()
