#!/usr/bin/env python3
"""What README and docs tell is true: their commands run, and every path they name exists."""
import pathlib
import re
import subprocess
import unittest

from harness import BINARY, ENVIRONMENT, ROOT, ProgramTest

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# .ci/run itself runs these.
RUN_ELSEWHERE = {"launch/quickstart", "tests/run", "tests/bench/ranks"}


class Docs(ProgramTest):
    def test_commands_run(self):
        ran = 0
        for document in DOCUMENTS:
            for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.S):
                for line in filter(None, (l.split(" #")[0].strip() for l in block.splitlines())):
                    if line.split()[0] in RUN_ELSEWHERE:
                        continue
                    # Results go to this test's folder, and the binary may be that of another preset.
                    command = line.replace("results.jsonl", str(self.output)).replace("build/penstock", str(BINARY))
                    command = command.replace("--port 9400", "--port 0")  # others may be at it
                    with self.subTest(document=document.name, command=line):
                        run = subprocess.run(["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True,
                                             text=True, timeout=200)
                        self.assertEqual(run.returncode, 0, run.stderr[-2000:])
                        ran += 1
        self.assertGreater(ran, 2)

    def test_paths_exist(self):
        for document in DOCUMENTS:
            text = document.read_text()
            links = re.findall(r"\]\(([^)#:]+)\)", text)
            quoted = re.findall(r"`((?:launch|runtime|stages|kernels|proto|tests|docs|slurm|\.ci)/[A-Za-z0-9_./-]*)`", text)
            for path in links:
                self.assertTrue((document.parent / path).exists(), f"{document.name}: {path}")
            for path in quoted:
                self.assertTrue((ROOT / path).exists(), f"{document.name}: {path}")


if __name__ == "__main__":
    unittest.main()
