"""What the command line tests share: runs the built program on any number of ranks and looks at what it leaves."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("PENSTOCK", ROOT / "build/penstock"))
DEMO = ROOT / "tests/models/gsm-llama-18"
# One sequence at a time: a job of some thousand tokens takes its time on any machine.
SLOWLY = ("--max-num-seqs", "1", "--micro-batches", "1")
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def row(custom_id, **body):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions",
                       "body": {"prompt": [2, 45, 3], "max_tokens": 4, **body}}) + "\n"


class ProgramTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="penstock-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.output = self.folder / "out.jsonl"
        self.write(row("a") + row("b"))

    def write(self, text):
        (self.folder / "in.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())

    def copy_of_demo(self):
        model = self.folder / "model"
        shutil.copytree(DEMO, model)
        return model

    def command(self, ranks, *flags, model=DEMO, output=None):
        launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []
        return [*launcher, str(BINARY), "generate", "--model", str(model), "-i", str(self.folder / "in.jsonl"),
                "-o", str(output or self.output), *flags]

    def generate(self, ranks, *flags, timeout=180, **where):
        self.run_ = subprocess.run(self.command(ranks, *flags, **where), env=ENVIRONMENT, capture_output=True,
                                   text=True, timeout=timeout)
        return self.run_

    def answers(self):
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def processes(self):
        """The ranks of this test that still live: their command line names its folder."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if state != "Z" and words[0] == str(BINARY) and any(str(self.folder) in w for w in words):
                found.append(int(entry.name))
        return sorted(found)

    def expect_refused(self, status, *parts, ranks=(0, 4), **where):
        """One message with all `parts` of it, that exit status, no result under its final name, no stray process."""
        for n in ranks:
            with self.subTest(ranks=n):
                run = self.generate(n, **where)
                self.assertEqual(run.returncode, status, run.stderr)
                for part in parts:
                    self.assertIn(part, run.stderr)
                self.assertEqual(run.stderr.count(parts[0]), 1, f"said more than once:\n{run.stderr}")
                self.assertFalse(self.output.exists())
                self.expect_no_process()

    def await_that(self, is_so, seconds=100):
        """Returns once it is; fails after a time that no machine takes."""
        deadline = time.monotonic() + seconds
        while not is_so():
            self.assertLess(time.monotonic(), deadline, "it did not come to pass")
            time.sleep(0.02)

    def kept(self, output=None):
        """What `penstock results` says of the journal."""
        return subprocess.run([BINARY, "results", f"{output or self.output}.journal"], capture_output=True, text=True, timeout=60)

    def start_slowly(self, ranks, *flags, output=None, **where):
        """A job that has finished a row more than its journal had: one at a time, so that most are still to come on any machine."""
        before = len(self.kept(output).stdout)
        job = subprocess.Popen(self.command(ranks, *SLOWLY, *flags, output=output, **where), env=ENVIRONMENT, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
        self.addCleanup(job.wait)
        self.addCleanup(job.kill)
        while job.poll() is None:
            if len(self.kept(output).stdout) > before:
                return job
            time.sleep(0.02)
        self.fail(f"the job ended before its first row was seen:\n{job.stdout.read()}")

    def expect_no_process(self):
        deadline = time.monotonic() + 60
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.processes(), [])
