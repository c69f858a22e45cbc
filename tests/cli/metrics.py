#!/usr/bin/env python3
"""A running job as its operators see it: /metrics while four ranks work, against clients that behave badly, and the
same figures everywhere at the end."""
import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.request

from harness import BINARY, ENVIRONMENT, ProgramTest, row

# promtool's taste, not the format: these names are vLLM's.
EXPECTED_LINT = re.compile(r"metric names should not contain ':'$|iteration_tokens_total non-counter metrics should not")


def metrics_of(text):
    """{name: {labels: value}} of an exposition; labels as they are written."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            found.setdefault(name, {})[labels.rstrip("}")] = float(value)
    return found


class Alerts:
    """Receives what --alert-url sends."""
    def __init__(self, test):
        self.heard = heard = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        test.addCleanup(server.server_close)
        test.addCleanup(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_address[1]}/alerts"


# One sequence at a time, so that a job with enough tokens outlives every look at it on any machine.
SLOW = ("--max-num-seqs", "1", "--micro-batches", "1")
# The figures stand until the test has seen them and sends a signal.
LINGER = ("--metrics-linger", "3600")
STOPPED = 75


class Metrics(ProgramTest):
    def start(self, ranks, *flags, rows=48, max_tokens=60):
        self.write("".join(row(f"row-{i}", max_tokens=max_tokens, ignore_eos=True) for i in range(rows)))
        self.go_on(ranks, *flags)

    def go_on(self, ranks, *flags):
        self.job = subprocess.Popen(self.command(ranks, "--port", "0", *flags), env=ENVIRONMENT,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(self.job.stdout.close)
        self.addCleanup(self.job.wait)
        self.addCleanup(self.job.terminate)
        self.log = ""
        self.read_log_until(r"http://(127\.0\.0\.1:\d+)/metrics")
        self.address = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", self.log)[1]

    def read_log_until(self, pattern):
        for line in self.job.stdout:
            self.log += line
            if re.search(pattern, line):
                return
        self.fail(f"no line with {pattern}:\n{self.log}")

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return answer.read().decode()

    def end(self, status):
        """Drains the job, or ends its lingering: mpirun passes this signal on."""
        self.job.send_signal(signal.SIGUSR1)
        rest, _ = self.job.communicate(timeout=60)
        self.log += rest
        self.assertEqual(self.job.returncode, status, self.log)

    def scrape_until(self, ready, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.get("/metrics")
            if ready(metrics_of(text)):
                return text
            time.sleep(0.1)
        self.fail(f"not within {seconds} s:\n{text}")

    def test_every_stage_reports_while_the_job_runs(self):
        self.start(4, *SLOW, "--metrics-alias", "vllm", "--metrics-interval", "0.2", rows=1000, max_tokens=1500)
        text = self.scrape_until(lambda m: len(m.get("penstock:stage_microbatches_total", {})) == 4 and
                                 m["penstock:generation_tokens_total"])
        first = metrics_of(text)
        for name in ("num_requests_running", "generation_tokens_total", "time_to_first_token_seconds_count"):
            self.assertEqual(first["penstock:" + name], first["vllm:" + name])
        self.assertTrue(all(v > 0 for v in first["penstock:stage_microbatches_total"].values()), text)
        grown = self.scrape_until(lambda m: all(
            m["penstock:stage_busy_seconds_total"][k] > v for k, v in first["penstock:stage_busy_seconds_total"].items()))
        for name, samples in metrics_of(grown).items():
            if name.endswith(("_total", "_count", "_bucket")) and "iteration" not in name:
                for labels, value in samples.items():
                    self.assertGreaterEqual(value, first.get(name, {}).get(labels, 0), name)
        if shutil.which("promtool"):
            check = subprocess.run(["promtool", "check", "metrics"], input=grown, capture_output=True, text=True)
            self.assertIn(check.returncode, (0, 3), check.stderr)
            for line in (check.stderr + check.stdout).splitlines():
                self.assertRegex(line, EXPECTED_LINT)
        self.end(STOPPED)

    def test_the_closing_table_and_the_last_metrics_agree(self):
        self.start(2, *LINGER)
        self.read_log_until(r"^results: ")
        m = metrics_of(self.get("/metrics"))
        one = lambda name: next(iter(m[name].values()))
        table = re.search(r"(\d+) rows in .*\n(\d+) prompt tokens, (\d+) output tokens", self.log)
        self.assertEqual([int(n) for n in table.groups()],
                         [one("penstock:rows_done_total"), one("penstock:prompt_tokens_total"),
                          one("penstock:generation_tokens_total")])
        lines = re.findall(r"^ +(\d)  .*? ([\d.]+) % +([\d.]+) % +([\d.]+) % +([\d.]+) % +(\d+) ", self.log, re.M)
        self.assertEqual(len(lines), 2, self.log)
        for stage, *shares, micro_batches in lines:
            of = lambda name, more="": next(v for k, v in m[name].items() if f'stage="{stage}"' in k and more in k)
            seconds = [of("penstock:stage_busy_seconds_total")] + [
                of("penstock:stage_wait_seconds_total", f'for="{what}"') for what in ("input", "plan", "send")]
            for seen, part in zip(shares, seconds):
                self.assertAlmostEqual(float(seen), 100 * part / sum(seconds), delta=0.051)
            self.assertEqual(int(micro_batches), of("penstock:stage_microbatches_total"))
        self.assertEqual(sum(m["penstock:request_success_total"].values()), 48)
        self.assertEqual(one("penstock:request_generation_tokens_sum"), one("penstock:generation_tokens_total"))
        self.assertGreater(one("penstock:journal_commit_seconds_count"), 0)
        self.assertGreater(one("penstock:journal_commit_seconds_sum"), 0)
        self.end(0)

    def test_rows_of_an_earlier_job_count_for_no_speed(self):
        self.start(2, *SLOW, rows=300, max_tokens=100)
        self.scrape_until(lambda m: m.get("penstock:rows_done_total", {}).get("", 0) >= 3)
        self.end(STOPPED)
        self.go_on(2, *LINGER, "--progress-seconds", "0.1", "--metrics-interval", "0.05")
        self.read_log_until(r"^results: ")
        state, m = json.loads(self.get("/state")), metrics_of(self.get("/metrics"))
        before = int(m["penstock:rows_resumed"][""])
        done = int(m["penstock:rows_done_total"][""])
        self.assertGreaterEqual(before, 3)
        self.assertEqual(before + done, 300)
        self.assertEqual(state["rows"], {"done": 300, "failed": 0, "before": before, "expected": 300.0})
        counted = 0
        for (start, *_), (end, rate, *_) in zip([[0], *state["history"]], state["history"]):
            counted += rate * (end - start)
        self.assertLessEqual(counted, done + 1e-6)
        table = re.search(r"(\d+) rows in .* \(0 with errors\), (\d+) before \(0\): ([\d.]+) rows/s", self.log)
        self.assertEqual((int(table[1]), int(table[2])), (done, before), self.log)
        for line in re.findall(r"rows \d+ of about 300 .*", self.log):
            rows, eta = int(line.split()[1]), re.search(r"ETA (?:(\d+) m )?(\d+) s", line)
            self.assertEqual(bool(eta), rows > before, line)  # at no row's speed there is nothing to tell
        self.end(0)

    def test_the_job_does_not_notice_bad_clients(self):
        self.start(2, *SLOW, rows=1000, max_tokens=1500)
        host, port = self.address.split(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(200)]
        for i, s in enumerate(idle):
            if i % 3 == 0:
                s.sendall(b"GET /metrics HT")       # half a request
            if i % 3 == 1:
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")  # an answer that nobody reads
        with socket.create_connection((host, int(port))) as long:
            try:
                long.sendall(b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n")
            except ConnectionError:
                pass
            self.assertTrue(long.recv(100).startswith(b"HTTP/1.1 431 "))
        half_open = socket.create_connection((host, int(port)))
        half_open.shutdown(socket.SHUT_WR)
        tokens = lambda m: next(iter(m["penstock:generation_tokens_total"].values()))
        by_now = tokens(metrics_of(self.get("/metrics")))
        self.scrape_until(lambda m: tokens(m) > by_now + 50)
        self.end(STOPPED)
        for s in [*idle, half_open]:
            s.close()

    def test_the_trace_the_page_and_the_closing_table_agree(self):
        trace = self.folder / "trace.json"
        self.start(2, *LINGER, "--trace", str(trace))
        self.read_log_until(r"^results: ")
        state = json.loads(self.get("/state"))
        m = metrics_of(self.get("/metrics"))
        self.assertEqual(state["rows"], {"done": 48, "failed": 0, "before": 0, "expected": 48.0})
        self.assertEqual(state["generated_tokens"], 48 * 60)
        self.assertEqual([state["running"]], list(m["penstock:num_requests_running"].values()))
        self.assertTrue(state["over"])
        events = json.loads(trace.read_text())
        for stage, seen in enumerate(state["stages"]):
            own = [e for e in events if e["ph"] == "X" and e["pid"] == stage]
            forwards = [e for e in own if e["cat"] == "busy"]
            self.assertEqual(len(forwards), seen["micro_batches"])
            self.assertEqual(sum(e["args"]["tokens"] for e in forwards), seen["tokens"])
            for kind, seconds in seen["seconds"].items():
                traced = 1e-6 * sum(e["dur"] for e in own if e["cat"] == kind)
                self.assertAlmostEqual(traced, seconds, delta=1e-4 + 1e-3 * seconds, msg=kind)
                key = "stage_busy_seconds_total" if kind == "busy" else "stage_wait_seconds_total"
                self.assertIn(seconds, m["penstock:" + key].values())
        self.end(0)
        summary = subprocess.run([str(BINARY), "trace", "summary", str(trace)], capture_output=True, text=True)
        self.assertEqual(summary.returncode, 0, summary.stderr)
        bubble = r"bubble of the busiest stage.*: ([\d.]+) % measured, ([\d.]+) % in the schedule"
        traced, closing = re.search(bubble, summary.stdout), re.search(bubble, self.log)
        self.assertAlmostEqual(float(traced[1]), float(closing[1]), delta=0.2)
        self.assertAlmostEqual(float(traced[2]), float(closing[2]), delta=0.2)
        for stage, seen in enumerate(state["stages"]):
            self.assertRegex(summary.stdout, rf"(?m)^ +{stage} +{seen['micro_batches']} .* {seen['tokens']}$")
        self.assertEqual(len(re.findall(r"(?m)^stage \d +[.0-9]{44}   [.0-9]{44}$", summary.stdout)), 2, summary.stdout)

    def test_a_trace_that_cannot_be_written_does_not_end_the_job(self):
        run = self.generate(2, "--trace", "/dev/full", "--metrics-interval", "0.01")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stderr.count("/dev/full: cannot be written"), 1, run.stderr)
        self.assertEqual(len(self.answers()), 2)

    def test_a_trace_that_is_none_is_refused(self):
        run = subprocess.run([str(BINARY), "trace", "summary", str(self.folder / "in.jsonl")], capture_output=True,
                             text=True)
        self.assertEqual(run.returncode, 2)
        self.assertIn("in.jsonl, line 1: expected a trace", run.stderr)

    def test_the_guard_steps_back_and_no_answer_changes(self):
        rows = "".join(row(f"row-{i}", max_tokens=400, ignore_eos=True, temperature=1, seed=i, logprobs=1)
                       for i in range(48))
        self.write(rows)
        self.assertEqual(self.generate(0, "--threads", "2").returncode, 0)
        undisturbed = self.output.read_bytes()
        alerts = Alerts(self)
        run = self.generate(3, "--resume", "never", "--guard", "p99_itl_ms=0.001,errors=0.5,for=0.1", "--metrics-interval", "0.05",
                            "--alert-url", alerts.url, "--max-num-seqs", "16", "--micro-batches", "3")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("guard: p99_itl_ms is ", run.stderr)
        self.assertIn("stepping back from max_num_seqs", run.stderr)
        self.assertEqual(self.output.read_bytes(), undisturbed)
        self.assertTrue(alerts.heard)
        for alert in alerts.heard:
            self.assertEqual((alert["status"], alert["goal"], alert["limit"]), ("firing", "p99_itl_ms", 0.001))
            self.assertIn("stepping back", alert["text"])

    def test_the_guard_is_seen_in_the_metrics_and_on_the_page(self):
        self.start(2, "--guard", "p99_itl_ms=0.001,for=0.1", "--metrics-interval", "0.05", *LINGER, "--max-num-seqs", "8",
                   "--micro-batches", "2", max_tokens=400)
        self.read_log_until(r"^results: ")
        m = metrics_of(self.get("/metrics"))
        steps = m["penstock:guard_steps_total"]['goal="p99_itl_ms"']
        self.assertEqual(steps, self.log.count("stepping back"))
        self.assertGreater(steps, 0)
        guard = json.loads(self.get("/state"))["guard"]
        self.assertEqual(guard["goals"][0]["steps"], steps)
        self.assertEqual(len(guard["steps"]), min(steps, 5))
        sequences = m["penstock:guard_setting"]['name="max_num_seqs"']
        self.assertIn(f"max_num_seqs {sequences:.0f},", guard["settings"])
        self.end(0)

    def test_the_guard_goes_to_full_precision_and_no_row_is_a_mixture(self):
        rows = [row(f"row-{i}", max_tokens=10 + 15 * (i % 10), ignore_eos=True, temperature=0.7, seed=i, logprobs=1,
                    n=1 + i % 2) for i in range(60)]
        self.write("".join(rows))
        flags = ("--max-num-seqs", "8", "--micro-batches", "2")
        by_precision = []
        for dtype in ("fp8", "auto"):
            self.assertEqual(self.generate(0, "--resume", "never", "--kv-cache-dtype", dtype).returncode, 0, self.run_.stderr)
            by_precision.append(self.answers())
        self.assertNotEqual(*by_precision)
        alerts = Alerts(self)
        guard = ("--kv-cache-dtype", "fp8", "--guard", "kv_error=0.001,for=0.2", "--metrics-interval", "0.05", *flags)
        self.go_on(3, "--resume", "never", *guard, "--alert-url", alerts.url, *LINGER)
        self.read_log_until(r"^results: ")
        text = self.get("/metrics")
        m, state = metrics_of(text), json.loads(self.get("/state"))
        self.end(0)
        self.assertEqual(self.log.count("stepping back from a KV cache of float8_e4m3 to one of bfloat16"), 1, self.log)
        self.assertEqual([a["status"] for a in alerts.heard][:1], ["firing"])
        self.assertIn("one of bfloat16", alerts.heard[0]["text"])
        self.assertEqual(m["penstock:guard_steps_total"]['goal="kv_error"'], 1)
        self.assertIn('cache_dtype="bfloat16"', text)
        self.assertIn("of bfloat16", state["guard"]["settings"])
        self.assertNotIn(" KV ", state["numerics"])
        found = [0, 0]
        for answer, low, full in zip(self.answers(), *by_precision):
            fingerprint = answer["response"]["body"].pop("system_fingerprint", None)
            found[fingerprint is not None] += 1
            self.assertEqual(answer, low if fingerprint is None else full)
            self.assertIn(fingerprint, (None, state["numerics"]))
        self.assertEqual(sum(found), 60)
        self.assertGreater(found[1], 0, "every row was done before the step")
        table = re.search(r"(\d+) of these rows were computed in (.*), after", self.log)
        self.assertEqual((int(table[1]), table[2]), (found[1], state["numerics"]))

    def test_logits_that_are_no_numbers_are_counted_and_lead_to_full_precision(self):
        model = self.copy_of_demo()
        for file in model.glob("*.safetensors"):  # the final norm's weights become NaN
            data = bytearray(file.read_bytes())
            head = 8 + int.from_bytes(data[:8], "little")
            entry = json.loads(data[8:head]).get("model.norm.weight")
            if entry:
                begin, end = (head + offset for offset in entry["data_offsets"])
                data[begin:end] = b"\xff" * (end - begin)
                file.write_bytes(data)
        self.write("".join(row(f"row-{i}", max_tokens=200, ignore_eos=True) for i in range(8)))
        run = self.generate(2, "--kv-cache-dtype", "int8", "--guard", "nonfinite=1", "--metrics-interval", "0.05", model=model)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("guard: nonfinite is ", run.stderr)
        self.assertIn("stepping back from a KV cache of int8 to one of bfloat16", run.stderr)
        self.assertEqual(len(self.answers()), 8)

    def test_flags_of_the_guard_are_checked_before_anything_is_read(self):
        original = self.generate
        for flags, part in ((["--guard", "p99=3"], "--guard: expected GOAL=LIMIT"),
                            (["--alert-url", "http://x"], "--alert-url: expected --guard"),
                            (["--guard", "oom=1", "--alert-url", "https://x"], "let a relay on this host"),
                            (["--trace", "/no/such/folder/t"], "--trace /no/such/folder/t: expected a file"),
                            (["--trace", "t", "--metrics-interval", "0"], "--metrics-interval above 0")):
            self.generate = lambda n, flags=flags, **where: original(n, *flags, **where)
            self.expect_refused(2, part, ranks=(0, 2))

    def test_nothing_listens_without_a_port(self):
        run = self.generate(0)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertNotIn("http://", run.stderr)

    def test_a_port_in_use_stops_the_job_before_it_computes(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            original = self.generate
            self.generate = lambda n, **where: original(n, "--port", port, **where)
            self.expect_refused(2, f"--port {port}", "Address already in use")

    def test_the_log_is_one_json_object_a_line(self):
        run = self.generate(2, "--log-format", "json")
        self.assertEqual(run.returncode, 0, run.stderr)
        lines = [json.loads(line) for line in run.stderr.splitlines()]
        self.assertTrue(lines)
        for line in lines:
            self.assertEqual(list(line), ["time", "level", "rank", "host", "message"])
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertTrue(any("2 rows in" in line["message"] for line in lines))

    def test_one_line_now_and_then_says_how_the_job_stands(self):
        self.write("".join(row(f"row-{i}", max_tokens=300, ignore_eos=True) for i in range(48)))
        run = self.generate(2, "--progress-seconds", "0.2", "--max-num-seqs", "4", "--micro-batches", "2")
        self.assertEqual(run.returncode, 0, run.stderr)
        lines = [l for l in run.stderr.splitlines() if "throughput" in l]
        self.assertTrue(lines, run.stderr)
        for line in lines:
            self.assertRegex(line, r"^\d\d:\d\d:\d\d rank 0 \S+: rows \d+ of about 48 \(\d+ %\), [\d.]+ rows/s, .*"
                             r"Avg prompt throughput: [\d.]+ tokens/s, Avg generation throughput: [\d.]+ tokens/s, "
                             r"Running: \d+ reqs, Waiting: \d+ reqs, KV cache usage: [\d.]+ %$")
        # 48 rows of 300 tokens in hundreds of micro-batches: nothing is printed for each of them.
        self.assertLess(len(run.stderr.splitlines()) - len(lines), 25)

    def test_the_log_level_drops_what_is_below_it(self):
        run = self.generate(0, "--log-level", "warning")
        self.assertEqual((run.returncode, run.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
