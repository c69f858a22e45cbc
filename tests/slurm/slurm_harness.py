"""What the Slurm tests share: a throw-away cluster for each test, and what a user does with one."""
import os
import pathlib
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from harness import BINARY, DEMO, ENVIRONMENT, ROOT, SLOWLY, ProgramTest, row  # noqa: E402, F401

CLUSTER = ROOT / "tests/slurm/cluster"
NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch")


def why_not():
    if os.geteuid() != 0:
        return "a cluster of one's own needs root"
    missing = [name for name in NEEDED if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") is None]
    return f"not installed: {', '.join(missing)} (launch/setup --tests)" if missing else None


@unittest.skipIf(why_not(), why_not())
class ClusterTest(ProgramTest):
    NODES = 1

    def setUp(self):
        super().setUp()
        self.cluster = self.folder / "cluster"
        self.environment = dict(ENVIRONMENT, SLURM_CONF=str(self.cluster / "slurm.conf"),
                                PATH=ENVIRONMENT["PATH"] + ":/usr/sbin", PENSTOCK=str(BINARY),
                                PENSTOCK_HOME=str(ROOT), SLURM_PMIX_FENCE="ring", SLURM_PMIX_DIRECT_CONN="false",
                                OMPI_MCA_mpi_yield_when_idle="1")
        self.addCleanup(self.run_command, [CLUSTER, "stop", self.cluster])
        self.check([CLUSTER, "start", self.cluster, str(self.NODES), "4"])
        self.started = time.monotonic()

    def run_command(self, words, timeout=100, **environment):
        return subprocess.run([str(w) for w in words], env=dict(self.environment, **environment), cwd=self.folder,
                              capture_output=True, text=True, timeout=timeout)

    def check(self, words, **environment):
        run = self.run_command(words, **environment)
        self.assertEqual(run.returncode, 0, run.stderr + run.stdout)
        return run.stdout

    def srun(self, ranks, *flags, mpi="pmix", before=(), **environment):
        generate = [BINARY, "generate", "--model", DEMO, "-i", self.folder / "in.jsonl", "-o", self.output, *flags]
        return self.run_command(["srun", "-Q", "-n", ranks, f"--mpi={mpi}", "--wait=5", *before, *generate],
                                **environment)

    def state_of(self, job):
        shown = self.check(["scontrol", "--oneliner", "show", "job", job])
        return shown.split("JobState=")[1].split()[0]

    def await_state(self, job, *states, seconds=150):
        """sbatch --wait would look every ten seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.state_of(job) in states:
                return
            time.sleep(0.05)
        self.fail(f"job {job} is {self.state_of(job)}, not {' or '.join(states)}, after {seconds} s\n{self.logs()}")

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
                         for path in sorted(self.folder.glob("*.log")))

    def undisturbed(self, *flags):
        """What one process answers."""
        alone = self.folder / "alone.jsonl"
        run = subprocess.run(self.command(0, *flags, output=alone), env=ENVIRONMENT, capture_output=True, text=True,
                             timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        return alone.read_bytes()
