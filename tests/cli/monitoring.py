#!/usr/bin/env python3
"""What launch/monitoring/ gives operators: rules that fire when they should, and a dashboard whose every query has an
answer when a real Prometheus scrapes a running job."""
import json
import shutil
import signal
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from harness import ENVIRONMENT, ROOT, ProgramTest, row

MONITORING = ROOT / "launch/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def needs(program):
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed (launch/setup --tests)")


class Monitoring(ProgramTest):
    @needs("promtool")
    def test_rules_fire_when_a_goal_is_broken_for_long(self):
        for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
            run = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_panels_do_not_lie_on_one_another(self):
        taken = {}
        for panel in DASHBOARD["panels"]:
            g = panel["gridPos"]
            self.assertLessEqual(g["x"] + g["w"], 24)
            for x in range(g["x"], g["x"] + g["w"]):
                for y in range(g["y"], g["y"] + g["h"]):
                    self.assertIsNone(taken.get((x, y)), f"{panel['title']} and {taken.get((x, y))}")
                    taken[x, y] = panel["title"]
        self.assertEqual(len({p["id"] for p in DASHBOARD["panels"]}), len(DASHBOARD["panels"]))

    def provision(self, *targets, **environment):
        return subprocess.run([str(MONITORING / "provision"), str(self.folder / "watch"), *targets],
                              env=dict(ENVIRONMENT, **environment), capture_output=True, text=True)

    def test_provision_refuses_what_is_no_address(self):
        self.assertEqual(self.provision().returncode, 2)
        for bad in ("http://a:1", "a", 'a":1', "a b:1"):
            self.assertEqual(self.provision(bad).returncode, 2, bad)
        self.assertFalse((self.folder / "watch/prometheus.yml").exists())

    @needs("promtool")
    def test_provision_writes_what_prometheus_accepts(self):
        self.assertEqual(self.provision("127.0.0.1:9400", "node7:9400").returncode, 0)
        check = subprocess.run(["promtool", "check", "config", str(self.folder / "watch/prometheus.yml")],
                               capture_output=True, text=True)
        self.assertEqual(check.returncode, 0, check.stdout + check.stderr)
        board = self.folder / "watch/grafana/dashboards/penstock.json"
        self.assertEqual(json.loads(board.read_text())["title"], "Penstock")

    @needs("prometheus")
    def test_every_panel_has_data_when_prometheus_scrapes_a_running_job(self):
        job_port, prometheus_port = free_port(), free_port()
        run = self.provision(f"127.0.0.1:{job_port}", INTERVAL="1s")
        self.assertEqual(run.returncode, 0, run.stderr)
        # A few short rows at a time: some end in every window, and there are more than any machine runs in the test's time.
        rows = [row(f"row-{i}", max_tokens=20 + i % 20, ignore_eos=True) for i in range(100000)]
        self.write("".join([row("bad", max_tokens=-1), *rows]))
        watch = self.folder / "watch"
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={watch}/prometheus.yml", f"--storage.tsdb.path={watch}/data",
             f"--web.listen-address=127.0.0.1:{prometheus_port}", "--log.level=error"])
        self.addCleanup(prometheus.wait)
        self.addCleanup(prometheus.terminate)
        job = subprocess.Popen(self.command(4, "--port", str(job_port), "--guard", "oom=1", "--max-num-seqs", "4"),
                               env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(job.communicate)
        self.addCleanup(job.send_signal, signal.SIGTERM)

        def query(expression):
            text = urllib.parse.urlencode({"query": expression})
            url = f"http://127.0.0.1:{prometheus_port}/api/v1/query?{text}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]["result"]

        missing = {(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p["targets"]}
        self.assertGreater(len(missing), 20)
        deadline = time.monotonic() + 150
        while missing and time.monotonic() < deadline:
            time.sleep(0.5)
            self.assertIsNone(job.poll(), "the job ended before every panel had data")
            for title, expression in sorted(missing):
                asked = expression.replace("$__rate_interval", "10s").replace("$instance", ".*")
                self.assertNotIn("$", asked)
                try:
                    found = query(asked)
                except (urllib.error.URLError, ConnectionError):
                    break  # Prometheus is still starting
                if found and all(sample["value"][1] != "NaN" for sample in found):
                    missing.discard((title, expression))
        self.assertEqual(missing, set())
        stages = query("penstock:stage_busy_seconds_total")
        self.assertEqual(sorted(s["metric"]["stage"] for s in stages), ["0", "1", "2", "3"])


if __name__ == "__main__":
    unittest.main()
