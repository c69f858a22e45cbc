#!/usr/bin/env python3
"""A copy in FP8 runs, and `validate` says what it changed."""
import json
import math
import re
import subprocess
import unittest

from harness import BINARY, ENVIRONMENT, ROOT, ProgramTest, row

EXPERTS = ROOT / "tests/models/tiny-deepseek-v3-halves"


class Quantize(ProgramTest):
    def run_program(self, *arguments):
        return subprocess.run([str(BINARY), *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True,
                              timeout=120)

    def quantized(self, model):
        output = self.folder / "fp8"
        run = self.run_program("quantize", "--model", model, "--output", output)
        self.assertEqual(run.returncode, 0, run.stderr)
        return output

    SEQUENCES = ([5, 6, 7, 8, 9, 10, 11, 12], [i % 100 + 2 for i in range(150)])

    def validate(self, *arguments):
        tokens = self.folder / "ids.txt"
        tokens.write_text("".join(" ".join(map(str, sequence)) + "\n" for sequence in self.SEQUENCES))
        run = self.run_program("validate", "--tokens", tokens, *arguments)
        self.assertEqual(run.returncode, 0, run.stderr)
        figures = dict(re.findall(r"^(.*?)  +([0-9.]+)(?: %)?$", run.stdout, re.M))
        return {name.strip(): float(value) for name, value in figures.items()}

    def test_a_model_differs_in_nothing_from_itself(self):
        figures = self.validate("--model", EXPERTS, "--dtype", "float32")
        self.assertEqual(figures["tokens compared"], 7 + 149)
        self.assertEqual(figures["log-probability difference, largest"], 0)
        self.assertEqual(figures["same most likely token"], 100)
        self.assertEqual(figures["perplexity of the model"], figures["perplexity of the reference"])

    def test_the_perplexity_is_that_of_the_log_probabilities_of_a_job(self):
        self.write("".join(row(f"r{i}", prompt=sequence, max_tokens=1, prompt_logprobs=0)
                           for i, sequence in enumerate(self.SEQUENCES)))
        run = self.generate(0, "--skip-tokenizer-init", "--dtype", "float32", model=EXPERTS)
        self.assertEqual(run.returncode, 0, run.stderr)
        found = []
        for answer, sequence in zip(self.answers(), self.SEQUENCES):
            scores = answer["response"]["body"]["choices"][0]["prompt_logprobs"]
            found += [scores[i][str(sequence[i])]["logprob"] for i in range(1, len(sequence))]
        figures = self.validate("--model", EXPERTS, "--dtype", "float32")
        self.assertAlmostEqual(figures["perplexity of the model"] / math.exp(-sum(found) / len(found)), 1, delta=1e-5)

    def test_an_fp8_copy_answers_and_its_difference_is_measured(self):
        model = self.quantized(EXPERTS)
        config = json.loads((model / "config.json").read_text())
        self.assertEqual(config["quantization_config"]["weight_block_size"], [128, 128])
        figures = self.validate("--model", model, "--reference", EXPERTS)
        self.assertGreater(figures["KL(reference || model), mean"], 0)
        self.assertLess(figures["KL(reference || model), mean"], 1)
        self.write("".join(row(f"r{i}", prompt=[5, 6, 7 + i], ignore_eos=True, logprobs=1) for i in range(5)))
        answers = []
        for ranks in (0, 3):
            run = self.generate(ranks, "--skip-tokenizer-init", model=model)
            self.assertEqual(run.returncode, 0, run.stderr)
            answers.append([a["response"]["body"]["choices"] for a in self.answers()])
            self.output.unlink()
        self.assertEqual(*answers)

    def test_weights_in_fp8_are_not_quantized_again(self):
        model = self.quantized(EXPERTS)
        run = self.run_program("quantize", "--model", model, "--output", self.folder / "again")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("found one in FP8 already", run.stderr)

    def test_a_bad_token_file_is_named_with_its_line(self):
        tokens = self.folder / "ids.txt"
        tokens.write_text("1 2 3\n4 5 999\n")
        run = self.run_program("validate", "--model", EXPERTS, "--tokens", tokens)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("line 2: expected token ids below 128", run.stderr)


if __name__ == "__main__":
    unittest.main()
