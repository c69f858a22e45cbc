#!/usr/bin/env python3
"""A pipeline over two hosts that are network namespaces of this one: over a slow network, and when the cable is cut."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from harness import BINARY, DEMO, ENVIRONMENT, ROOT, SLOWLY, ProgramTest, row  # noqa: E402

HOSTS = ROOT / "tests/slurm/hosts"
# As slurm/generate-multinode.sbatch and README say: mpirun notices a dead host before it has anything to tell it.
NOTICES = [word for name, value in (("time", 2), ("intvl", 2), ("probes", 3))
           for word in ("--mca", f"oob_tcp_keepalive_{name}", str(value))]


def why_not():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2 (launch/setup --tests)"
    if subprocess.run(["unshare", "--net", "--uts", "--ipc", "--mount", "true"], capture_output=True).returncode != 0:
        return "this machine lets nobody make network namespaces"
    return None


@unittest.skipIf(why_not(), why_not())
class TwoHosts(ProgramTest):
    def setUp(self):
        super().setUp()
        self.name = f"ps{os.getpid()}h"
        self.addCleanup(self.hosts, "down", self.name, "2")
        up = self.hosts("up", self.name, "2")
        self.assertEqual(up.returncode, 0, up.stderr)

    def hosts(self, verb, *words):
        return subprocess.run([str(HOSTS), verb, str(self.folder / "hosts"), *words], env=ENVIRONMENT,
                              capture_output=True, text=True, timeout=60)

    def on(self, host, *words):
        run = subprocess.run(["ip", "netns", "exec", f"{self.name}{host}", *words], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)

    def lay_slow_cable(self, milliseconds):
        cable = subprocess.Popen([sys.executable, str(ROOT / "tests/slurm/slow_cable.py"), "eth2", str(milliseconds),
                                  f"{self.name}0", "10.78.1.1/24", f"{self.name}1", "10.78.1.2/24"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(cable.communicate, timeout=10)
        if cable.stdout.readline() != "up\n":
            self.skipTest("this machine has no TUN devices")

    def start(self, *flags, network="eth1"):
        """Two ranks on each host; what they say goes to one file."""
        self.said = self.folder / "said"
        with open(self.said, "w") as said:
            return subprocess.Popen(
                [str(HOSTS), "mpirun", str(self.folder / "hosts"), self.name, "2", "2", *NOTICES, "-x", f"UCX_NET_DEVICES={network}",
                 str(BINARY), "generate", "--model", str(DEMO), "-i", str(self.folder / "in.jsonl"), "-o",
                 str(self.output), "--progress-seconds", "0.2", *flags],
                env=ENVIRONMENT, stdout=said, stderr=subprocess.STDOUT)

    def expect_success(self, job):
        self.assertEqual(job.wait(timeout=100), 0, self.said.read_text()[-4000:])

    def undisturbed(self):
        alone = self.folder / "alone.jsonl"
        run = subprocess.run(self.command(0, output=alone), env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        return alone.read_bytes()

    def test_the_answers_are_those_of_one_process_over_a_slow_network(self):
        self.lay_slow_cable(milliseconds=2)
        self.expect_success(self.start("--preflight", network="eth2"))
        self.assertIn("4 ranks on 2 hosts", self.said.read_text())
        round_trip = re.search(r"each measured within ([0-9.]+) ms", self.said.read_text())
        self.assertGreater(float(round_trip[1]), 1.9, "the network is not slow")
        self.expect_success(self.start(network="eth2"))
        self.assertEqual(self.output.read_bytes(), self.undisturbed())

    def test_a_cut_cable_ends_the_job_within_seconds_and_the_same_command_goes_on(self):
        self.write("".join(row(f"row-{i}", max_tokens=100 + 10 * i, ignore_eos=True) for i in range(60)))
        expected = self.undisturbed()
        job = self.start(*SLOWLY)
        self.await_that(lambda: re.search("rows [1-9]", self.said.read_text()))
        self.on(1, "ip", "link", "set", "eth1", "down")
        begin = time.monotonic()
        self.assertNotEqual(job.wait(timeout=100), 0)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertIn(f"{self.name}1", self.said.read_text())
        self.assertFalse(self.output.exists())
        self.on(1, "ip", "link", "set", "eth1", "up")
        self.expect_no_process()
        self.expect_success(self.start())
        self.assertEqual(self.output.read_bytes(), expected)


if __name__ == "__main__":
    unittest.main()
