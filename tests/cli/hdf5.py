#!/usr/bin/env python3
"""Prompts that h5py wrote give the answers that the same prompts give as lines."""
import json
import shutil
import subprocess
import sys
import unittest

from harness import BINARY, ProgramTest, row

PROMPTS = [[2, 45, 3], [7, 8, 9, 10, 11], [2]]
BODY = {"max_tokens": 4, "temperature": 0, "return_token_ids": True}


def python_with_h5py():
    """Debian's package belongs to Debian's Python, which need not be the first on the path."""
    for python in (sys.executable, "/usr/bin/python3"):
        if shutil.which(python) and subprocess.run([python, "-c", "import h5py"], capture_output=True).returncode == 0:
            return python
    return None


PYTHON = python_with_h5py()


@unittest.skipIf(PYTHON is None, "no Python with h5py (launch/setup --tests)")
class Hdf5Files(ProgramTest):
    def h5py(self, script, *arguments):
        run = subprocess.run([PYTHON, "-c", "import sys, json, h5py, numpy as np\n" + script, *map(str, arguments)],
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def write_ids(self):
        self.h5py("""
with h5py.File(sys.argv[1], "w") as f:
    prompts = json.loads(sys.argv[2])
    group = f.create_group("prompts")
    group["ids"] = np.concatenate([np.array(p, "i4") for p in prompts])
    group["offsets"] = np.cumsum([0] + [len(p) for p in prompts])
    group["custom_id"] = [f"row-{i}" for i in range(len(prompts))]
""", self.folder / "in.h5", json.dumps(PROMPTS))

    def answers_to_lines(self, prompts):
        self.write("".join(row(f"row-{i}", prompt=prompt, **BODY) for i, prompt in enumerate(prompts)))
        self.assertEqual(self.generate(0).returncode, 0, self.run_.stderr)
        return self.output.read_bytes()

    def generate_from(self, name, *flags, ranks=0):
        (self.folder / "in.jsonl").unlink()
        command = self.command(ranks, "--input-body", json.dumps(BODY), *flags)
        command[command.index(str(self.folder / "in.jsonl"))] = str(self.folder / name)
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)
        return self.output.read_bytes()

    def test_token_ids_from_h5py(self):
        expected = self.answers_to_lines(PROMPTS)
        self.write_ids()
        self.assertEqual(self.generate_from("in.h5"), expected)

    def test_strings_from_h5py(self):
        texts = ["What is 2 + 3?", "Ein Satz mit \u00e4 \"quotes\"\nand a line", ""]
        expected = self.answers_to_lines(texts)
        self.h5py('h5py.File(sys.argv[1], "w").create_group("questions")["text"] = json.loads(sys.argv[2])',
                  self.folder / "in.h5", json.dumps(texts))
        self.assertEqual(self.generate_from("in.h5", "--input-dataset", "questions/text"), expected)

    def test_shards_of_either_kind_join_to_the_whole(self):
        expected = self.answers_to_lines(PROMPTS)
        self.write_ids()
        for name in ("in.jsonl", "in.h5"):
            with self.subTest(input=name):
                parts = []
                for i in range(2):
                    parts.insert(0, self.folder / f"{name}.shard-{i}-of-2.jsonl")
                    flags = ["--shard", f"{i}/2"] + (["--input-body", json.dumps(BODY)] if name == "in.h5" else [])
                    command = self.command(0, *flags, output=parts[0])
                    command[command.index(str(self.folder / "in.jsonl"))] = str(self.folder / name)
                    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
                    self.assertEqual(run.returncode, 0, run.stderr)
                run = subprocess.run([BINARY, "results", "--merge", *parts, "-o", self.output], capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertEqual(self.output.read_bytes(), expected)


if __name__ == "__main__":
    unittest.main()
