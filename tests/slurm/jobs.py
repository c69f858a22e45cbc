#!/usr/bin/env python3
"""Whole jobs as slurm/ describes them: to the end, over a time limit, in parts, cancelled."""
import re
import time
import unittest

from slurm_harness import BINARY, DEMO, ROOT, SLOWLY, ClusterTest, row

# A minute is the least that Slurm takes as a time limit. It looks at limits every 30 s from its start on, and sends the
# signal when the job has 30 s more than asked: so at the first look after the job began.
SOON = ("--time=1", "--signal=USR1@30")
LOOKS_AFTER = 29


class Jobs(ClusterTest):
    def sbatch(self, script, *flags, ranks=4, generate=(), **knobs):
        """The job's number. What it says goes to NUMBER.log in the test's folder."""
        knobs = {"MODEL": DEMO, "INPUT": self.folder / "in.jsonl", "OUTPUT": self.output, "PREFLIGHT": 0, **knobs}
        return self.check(["sbatch", "--parsable", f"--ntasks={ranks}", "--output=%j.log", *flags, ROOT / "slurm" / script, *generate],
                          **{name: str(value) for name, value in knobs.items()}).strip()

    def log_of(self, job):
        return (self.folder / f"{job}.log").read_text(errors="replace")

    def await_log(self, job, pattern, seconds=150):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (self.folder / f"{job}.log").exists() and re.search(pattern, self.log_of(job)):
                return
            time.sleep(0.05)
        self.fail(f"'{pattern}' was not said within {seconds} s:\n{self.logs()}")

    def long_rows(self, rows, tokens):
        self.write("".join(row(f"row-{i}", max_tokens=tokens + i, ignore_eos=True) for i in range(rows)))

    def test_sbatch_runs_to_the_end_and_says_what_runs_where(self):
        job = self.sbatch("generate.sbatch", PREFLIGHT=1)
        self.await_state(job, "COMPLETED")
        self.assertEqual(self.output.read_bytes(), self.undisturbed())
        log = self.log_of(job)
        self.assertRegex(log, r"(?m)^ +0 .* embedding$")
        self.assertRegex(log, r"(?m)^ +3 .* layers 12-17 \+ head$")
        self.assertIn("4 ranks on 1 host, as Slurm says", log)
        for knob in ("MODEL", "DRAIN_SECONDS", "NET_DEVICES"):
            self.assertRegex(log, rf"(?m)^  {knob} ")

    def test_a_failed_preflight_starts_nothing(self):
        job = self.sbatch("generate.sbatch", PREFLIGHT=1, INPUT="no-such-file")
        self.await_state(job, "FAILED")
        self.assertIn("nothing was started", self.log_of(job))

    def test_a_job_at_its_time_limit_drains_goes_back_to_the_queue_and_finishes_with_the_same_bytes(self):
        self.long_rows(80, 420)
        expected = self.undisturbed()
        how = self.folder / "how"  # the first start takes longer than its limit on any machine, the second does not
        how.write_text("--threads 1 " + " ".join(SLOWLY))
        program = self.folder / "program"
        program.write_text(f'#!/usr/bin/env bash\nexec "{BINARY}" "$@" $(<"{how}")\n')
        program.chmod(0o755)
        time.sleep(max(0, self.started + LOOKS_AFTER - 6 - time.monotonic()))
        job = self.sbatch("generate.sbatch", *SOON, PENSTOCK=program)
        self.await_log(job, "back to the queue")
        how.write_text("")
        self.await_log(job, "start 2:")
        self.await_state(job, "COMPLETED")
        self.assertEqual(self.output.read_bytes(), expected)

    def test_an_array_of_three_parts_joins_to_the_whole(self):
        self.write("".join(row(f"row-{i}") for i in range(20)))
        job = self.sbatch("generate-array.sbatch", "--array=0-2", "--output=part-%a.log", ranks=2)
        for part in range(3):
            self.await_state(f"{job}_{part}", "COMPLETED")
        parts = sorted(self.folder.glob("out.shard-*-of-3.jsonl"), reverse=True)
        self.assertEqual(len(parts), 3, self.logs())
        self.check([BINARY, "results", "--merge", *parts, "-o", self.output])
        self.assertEqual(self.output.read_bytes(), self.undisturbed())

    def test_scancel_leaves_no_process_and_the_job_stays_cancelled(self):
        self.long_rows(200, 1500)
        job = self.sbatch("generate.sbatch", generate=SLOWLY)
        self.await_log(job, "stage 3 on")
        self.check(["scancel", job])
        self.await_state(job, "CANCELLED")
        deadline = time.monotonic() + 20
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(self.processes(), [])
        self.assertEqual(self.state_of(job), "CANCELLED")
        self.assertFalse(self.output.exists())

    def test_the_script_for_several_nodes_names_the_network(self):
        # One node: two slurmd's of one host share its address, and Open MPI would sometimes connect to the wrong one.
        job = self.sbatch("generate-multinode.sbatch", "--nodes=1", "--ntasks-per-node=4", NET_DEVICES="lo", PREFLIGHT=1)
        self.await_state(job, "COMPLETED")
        self.assertRegex(self.log_of(job), r"(?m)^  NET_DEVICES +lo$")
        self.assertEqual(self.output.read_bytes(), self.undisturbed())


if __name__ == "__main__":
    unittest.main()
