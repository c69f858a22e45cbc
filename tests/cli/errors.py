#!/usr/bin/env python3
"""Bad jobs stop at once on every rank with one message and a status; bad rows are those rows' errors."""
import json
import struct
import unittest

from harness import ROOT, ProgramTest, row


def edit_header(file, change):
    """Rewrites a safetensors header in place of the old one; the data stay where they are."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])


class Errors(ProgramTest):
    def test_missing_model_folder(self):
        self.expect_refused(2, "no-such-model", model=self.folder / "no-such-model")

    def test_truncated_safetensors(self):
        model = self.copy_of_demo()
        file = model / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        self.expect_refused(2, "model.safetensors", "expected", model=model)

    def test_wrong_tensor_shape(self):
        model = self.copy_of_demo()

        def narrow(header):
            header["model.layers.7.self_attn.q_proj.weight"]["shape"] = [96, 384]

        edit_header(model / "model.safetensors", narrow)
        self.expect_refused(2, "layers.7.self_attn.q_proj.weight: expected [192, 192], found [96, 384]", model=model)

    def test_missing_tensor(self):
        model = self.copy_of_demo()
        edit_header(model / "model.safetensors", lambda header: header.pop("model.layers.3.mlp.up_proj.weight"))
        self.expect_refused(2, "layers.3.mlp.up_proj.weight", model=model)

    def test_unknown_architecture(self):
        model = self.copy_of_demo()
        config = json.loads((model / "config.json").read_text())
        config.update(architectures=["MambaForCausalLM"], model_type="mamba")
        (model / "config.json").write_text(json.dumps(config))
        self.expect_refused(2, "MambaForCausalLM", model=model)

    def test_config_that_is_no_json(self):
        model = self.copy_of_demo()
        (model / "config.json").write_text("{")
        self.expect_refused(2, "config.json", model=model)

    def test_missing_input(self):
        (self.folder / "in.jsonl").unlink()
        self.expect_refused(2, "in.jsonl: cannot be opened")

    def test_unwritable_output(self):
        self.expect_refused(2, "cannot be written", output=self.folder / "no-such-folder" / "out.jsonl")

    def test_output_that_is_the_input(self):
        requests = (self.folder / "in.jsonl").read_bytes()
        run = self.generate(0, output=self.folder / "." / "in.jsonl")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("expected another file than --input-file", run.stderr)
        self.assertEqual((self.folder / "in.jsonl").read_bytes(), requests)

    def test_full_disk(self):
        self.expect_refused(1, "/dev/full", "No space left on device", output="/dev/full")

    def test_more_ranks_than_layers_and_two(self):
        self.expect_refused(2, "cannot cut 3 layers into 6 stages: expected 1 to 5", ranks=(6,),
                            model=ROOT / "tests/models/tiny-qwen3")

    def test_wrong_flags(self):
        for flags, part in ((["--no-such-flag"], "no-such-flag"), (["--dtype", "int3"], "int3"),
                            (["--layer-partition", "1,2"], "--layer-partition"),
                            (["--layer-partition", "8.25,9.75"], "lies within the attention of layer 8"), (["--pp", "3"], "--pipeline-parallel-size"),
                            (["--dp", "3"], "--data-parallel-size: expected a divisor of the number of ranks, 2, found 3"),
                            (["--pp", "2", "--dp", "2"], "expected the number of ranks, 2, found 2 times 2"),
                            (["--max-model-len", "1000000"], "--max-model-len")):
            with self.subTest(flags=flags):
                run = self.generate(2, *flags)
                self.assertEqual(run.returncode, 2, run.stderr)
                self.assertIn(part, run.stderr)
                self.assertFalse(self.output.exists())

    def test_cache_too_small_for_one_sequence(self):
        run = self.generate(4, "--kv-cache-memory-bytes", "1000")
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("--max-model-len", run.stderr)

    def test_bad_rows_are_those_rows_errors(self):
        good = row("good")
        lines = [good, '{"custom_id": "broken\n', row("good"), row("long", prompt=[5] * 3000),
                 row("unknown", best_of=3), row("chat").replace("/v1/completions", "/v1/nothing"),
                 row("after")]
        data = "".join(lines).encode() + b'{"custom_id": "latin", "url": "/v1/completions", "body": {"prompt": "\xff"}}\n'
        self.write(data)
        run = self.generate(4)
        self.assertEqual(run.returncode, 0, run.stderr)
        answers = self.answers()
        self.assertEqual(len(answers), 8)
        errors = [a["error"] and a["error"]["message"] for a in answers]
        self.assertIsNone(errors[0])
        self.assertIn("not valid JSON", errors[1])
        self.assertIn("'good' was used by an earlier line", errors[2])
        self.assertIn("expected at most 2047 tokens", errors[3])
        self.assertIn("best_of", errors[4])
        self.assertIn("/v1/nothing", errors[5])
        self.assertIsNone(errors[6])
        self.assertIn("UTF-8", errors[7])
        self.assertIn("6 with errors", run.stderr)
        self.assertEqual(run.stderr.count("has an error: "), 1, run.stderr)
        self.assertRegex(run.stderr, r"row 2 has an error: .*not valid JSON")


if __name__ == "__main__":
    unittest.main()
