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
                             capture_output=True, text=True, timeout=100)
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
        run = subprocess.run(command, capture_output=True, text=True, timeout=100)
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
                    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
                    self.assertEqual(run.returncode, 0, run.stderr)
                run = subprocess.run([BINARY, "results", "--merge", *parts, "-o", self.output], capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertEqual(self.output.read_bytes(), expected)

    # ---- answers ----

    def answers_in_hdf5(self, name="out.h5", *flags, ranks=0):
        output = self.folder / name
        run = self.generate(ranks, *flags, output=output)
        self.assertEqual(run.returncode, 0, run.stderr)
        return output

    def test_h5py_finds_in_the_file_what_the_lines_say(self):
        self.write(row("a", logprobs=2, return_token_ids=True) + row("bad", best_of=3) +
                   row("b", n=2, temperature=0.5, return_token_ids=True) + row("c", logprobs=0, return_token_ids=True))
        self.assertEqual(self.generate(0).returncode, 0, self.run_.stderr)
        self.answers_in_hdf5()
        found = json.loads(self.h5py(READ_BACK, self.folder / "out.h5"))
        self.assertEqual([r["custom_id"] for r in found["rows"]], [a["custom_id"] for a in self.answers()])
        for stored, line in zip(found["rows"], self.answers()):
            if line["error"]:
                self.assertEqual(stored["error"], line["error"]["message"])
                continue
            body = line["response"]["body"]
            self.assertEqual(stored["prompt_tokens"], body["usage"]["prompt_tokens"])
            self.assertEqual(len(stored["choices"]), len(body["choices"]))
            for choice, said in zip(stored["choices"], body["choices"]):
                self.assertEqual(choice["text"], said["text"])
                self.assertEqual(choice["finish_reason"], said["finish_reason"])
                self.assertEqual(choice["ids"], said["token_ids"])
                self.assertEqual(choice["prompt"], said["prompt_token_ids"])
                if said["logprobs"] is None:
                    self.assertEqual(choice["logprobs"], [None] * len(choice["ids"]))
                    continue
                self.assertEqual(choice["logprobs"], said["logprobs"]["token_logprobs"])
                for top, tops in zip(choice["top"], said["logprobs"]["top_logprobs"]):
                    self.assertLessEqual(set(top), set(tops.values()))
        self.assertEqual([len(t) for t in found["rows"][0]["choices"][0]["top"]], [2] * 4)
        self.assertEqual(found["attributes"]["--seed"], "0")

    @unittest.skipIf(shutil.which("h5dump") is None, "no h5dump (launch/setup --tests)")
    def test_h5dump_reads_the_file(self):
        self.answers_in_hdf5()
        dump = subprocess.run(["h5dump", self.folder / "out.h5"], capture_output=True, text=True, timeout=100)
        self.assertEqual(dump.returncode, 0, dump.stderr)
        self.assertIn('"penstock_results"', dump.stdout)

    def test_the_bytes_do_not_depend_on_ranks_or_on_when(self):
        one = self.answers_in_hdf5("one.h5").read_bytes()
        self.assertEqual(self.answers_in_hdf5("four.h5", ranks=4).read_bytes(), one)

    def test_results_prints_a_completed_file_as_lines(self):
        self.write(row("a", logprobs=2, return_token_ids=True) + row("b", n=2, temperature=0.5) + row("bad", best_of=3))
        self.assertEqual(self.generate(0, "--skip-tokenizer-init").returncode, 0, self.run_.stderr)
        output = self.answers_in_hdf5("out.h5", "--skip-tokenizer-init")
        for named in (output, str(output) + ".journal"):
            shown = subprocess.run([BINARY, "results", named], capture_output=True, text=True, timeout=100)
            self.assertEqual(shown.returncode, 0, shown.stderr)
            self.assertIn("made from the HDF5 output", shown.stderr)
            self.assertIn("3 of 3 rows are finished", shown.stderr)
            expected = self.output.read_text().replace('"param":"best_of"', '"param":null')
            self.assertEqual(shown.stdout, expected)

    def test_parts_in_hdf5_join_to_the_whole(self):
        self.write("".join(row(f"row-{i}", logprobs=1) for i in range(9)))
        whole = self.answers_in_hdf5()
        parts = [self.answers_in_hdf5(f"p.shard-{i}-of-3.h5", "--shard", f"{i}/3") for i in range(3)]
        run = subprocess.run([BINARY, "results", "--merge", *parts, "-o", self.folder / "joined.h5"], capture_output=True,
                             text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((self.folder / "joined.h5").read_bytes(), whole.read_bytes())

    def test_a_killed_job_leaves_no_broken_file_and_the_next_one_makes_it_whole(self):
        self.write("".join(row(f"row-{i}", max_tokens=300, ignore_eos=True) for i in range(64)))
        undisturbed = self.answers_in_hdf5("undisturbed.h5").read_bytes()
        output = self.folder / "out.h5"
        job = self.start_slowly(0, output=output)
        job.kill()
        job.communicate(timeout=100)
        self.assertFalse(output.exists())
        self.assertEqual(self.answers_in_hdf5().read_bytes(), undisturbed)


# Prints what the file holds, as JSON.
READ_BACK = """
def number(x):
    return None if np.isnan(x) else float(repr(np.float32(x)).removeprefix("np.float32(").removesuffix(")"))

with h5py.File(sys.argv[1]) as f:
    rows, tops = [], "top_id" in f["tokens"]
    text = lambda name, i: f[name].asstr()[i]
    for r in range(len(f["rows/custom_id"])):
        choices = []
        for c in range(*f["rows/choice_offsets"][r:r + 2]):
            begin, end = f["choices/token_offsets"][c:c + 2]
            first, last = f["prompts/offsets"][c:c + 2]
            choices.append({
                "text": text("choices/text", c), "finish_reason": f["choices/finish_reason"][c].decode(),
                "ids": f["tokens/id"][begin:end].tolist(), "prompt": f["prompts/ids"][first:last].tolist(),
                "logprobs": [number(x) for x in f["tokens/logprob"][begin:end]],
                "top": [[number(x) for i, x in zip(*pair) if i >= 0] for pair in
                        zip(f["tokens/top_id"][begin:end], f["tokens/top_logprob"][begin:end])] if tops else []})
        rows.append({"custom_id": text("rows/custom_id", r), "error": text("rows/error", r),
                     "prompt_tokens": int(f["rows/prompt_tokens"][r]), "choices": choices})
    print(json.dumps({"rows": rows, "attributes": {k: v.decode() if isinstance(v, bytes) else str(v) for k, v in f.attrs.items()}}))
"""

if __name__ == "__main__":
    unittest.main()
