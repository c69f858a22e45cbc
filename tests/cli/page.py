#!/usr/bin/env python3
"""The live page in a real browser: shows a running job, fits a phone, and takes nothing that a model, an input or a host
says for HTML. Skips where Chromium is not installed."""
import html
import json
import re
import shutil
import signal
import subprocess
import time
import unittest
import urllib.request

from harness import ENVIRONMENT, ROOT, ProgramTest, row

PAGE = (ROOT / "runtime/metrics/page.html").read_text()
HOSTILE = """<img src=x onerror="document.documentElement.dataset.broken='yes'">"""
LONG = "w" * 400


def hostile_state(stages=4):
    """Every text that is not ours is hostile or very long."""
    stage = {"rank": 1, "host": HOSTILE, "device": LONG, "part": HOSTILE, "age": 9.5, "activity": HOSTILE,
             "activity_seconds": 9, "recent": {"busy": .5, "wait_input": .2, "wait_plan": .2, "send": .1},
             "seconds": {}, "micro_batches": 10, "tokens": 400, "sent_bytes": 5, "sent_per_second": 3e9,
             "memory": {"weights": 1e9, "kv": 2e9, "used": 4e9, "total": 8e10}, "utilization": .7, "out_of_memory": 2, "nonfinite_tokens": 7, "kv_error": .031}
    rows = [{"custom_id": HOSTILE, "text": "</script></pre>" + HOSTILE, "reason": HOSTILE},
            {"custom_id": LONG, "text": LONG, "reason": LONG}]
    percentiles = [.01, .2, 3000]
    return {"model": HOSTILE, "numerics": LONG, "micro_batches": 5, "over": False, "seconds": 7200,
            "rows": {"done": 123456789, "failed": 1234567, "before": 23456789, "expected": 987654321}, "eta": 86400 * 3,
            "prompt_tokens": 1e12, "generated_tokens": 1e12, "running": 4096, "waiting": 99999, "preemptions": 12345,
            "kv": .995, "rates": {"rows": 12345.6, "prompt": 1234567, "generated": 1234567}, "stages": [stage] * stages,
            "latency": {k: percentiles for k in ("time_to_first_token", "inter_token", "time_per_output_token", "e2e", "queue", "journal")},
            "history": [[i, i, 2 * i, 3 * i] for i in range(100)], "errors": rows, "samples": rows,
            "guard": {"goals": [{"name": "oom", "limit": 3, "value": 4, "broken": True, "broken_seconds": 30, "steps": 1},
                                {"name": "stall_s", "limit": 3, "value": None, "broken": False, "broken_seconds": 0, "steps": 0}],
                      "settings": LONG, "steps": [HOSTILE]}}


class Page(ProgramTest):
    def browse(self, url, *flags):
        """The document as it stands after two seconds of the page's own time."""
        run = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={self.folder}/chromium",
             "--virtual-time-budget=2000", *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def with_state(self, state):
        """The page as a file whose fetch gives `state`, and which says at the end whether it is wider than its window."""
        stub = f"""<script>
            window.fetch = async () => ({{json: async () => ({json.dumps(state).replace("</", "<" + chr(92) + "/")})}});
            window.addEventListener("error", (e) => document.documentElement.dataset.fault = e.message);
            setTimeout(() => {{
                const right = [...document.querySelectorAll("main *")].filter((e) => !e.closest(".chain") && e.getBoundingClientRect().right > innerWidth);
                document.documentElement.dataset.wide = right.map((e) => e.tagName + "." + e.className + "#" + e.id).join(" ") + ";" +
                  (document.documentElement.scrollWidth - innerWidth);
            }}, 1500);
        </script>"""
        file = self.folder / "page.html"
        file.write_text(PAGE.replace("<main>", stub + "<main>", 1))
        return f"file://{file}"

    def test_it_needs_nothing_from_outside(self):
        addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)|@import|https?://[^"'\s]+""", PAGE)
        self.assertEqual([a for a in addresses if a[0] not in ("", "data:,")], [])
        self.assertEqual(set(re.findall(r"https?://[^\"'\s]+", PAGE)), {"http://www.w3.org/2000/svg"})
        self.assertNotRegex(PAGE, r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(")

    @unittest.skipUnless(shutil.which("chromium"), "chromium is not installed")
    def test_it_escapes_and_fits_whatever_is_said(self):
        url = self.with_state(hostile_state())
        for width, height in ((1280, 1000), (500, 900)):  # headless Chromium's windows are at least 500 wide
            for flags in ((), ("--force-prefers-reduced-motion", "--blink-settings=preferredColorScheme=0")):
                document = self.browse(url, f"--window-size={width},{height}", *flags)
                root = document[:document.index("<head>")]
                self.assertNotIn("data-broken", root)
                self.assertNotIn("data-fault", root)
                beyond, wide = re.search(r'data-wide="([^"]*);(-?\d+)"', root).groups()
                self.assertLessEqual(int(wide), 0, f"in a window {width} wide: {beyond}")
                self.assertNotIn("<img", document[document.index("</main>"):] + document[document.index("<main>"):document.index("</main>")])
                self.assertGreater(document.count(html.escape(HOSTILE, quote=False)), 10)
                self.assertEqual(document.count('class="stage silent"'), 4)
                self.assertIn("silent for 10 s", document)

    @unittest.skipUnless(shutil.which("chromium"), "chromium is not installed")
    def test_it_shows_a_running_job(self):
        rows = [json.loads(row(f"row-{i}", max_tokens=100, ignore_eos=True)) for i in range(10000)]
        rows[3]["custom_id"] = HOSTILE
        rows[4].update(custom_id=HOSTILE + "2", body={**rows[4]["body"], HOSTILE: 1})
        self.write("".join(json.dumps(r) + "\n" for r in rows))
        # Two rows at a time: it lives for as long as the browser takes on any machine, and some rows end meanwhile.
        job = subprocess.Popen(self.command(3, "--port", "0", "--max-num-seqs", "2", "--micro-batches", "2"), env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
        self.addCleanup(job.communicate)
        self.addCleanup(job.send_signal, signal.SIGTERM)
        for line in job.stderr:
            if found := re.search(r"(http://127\.0\.0\.1:\d+/) and", line):
                break
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(found[1] + "state", timeout=5) as answer:
                state = json.load(answer)
            if state["samples"] and all(s["age"] is not None for s in state["stages"]):
                break
            time.sleep(0.2)
        document = self.browse(found[1])
        self.assertIn('<span id="state" class="live">live</span>', document)
        self.assertEqual(document.count('class="stage"'), 3)
        self.assertRegex(document, r"<polyline[^>]* points=\"[\d., ]+\"")
        self.assertIn("rows, 1 with errors", document)
        self.assertNotIn("data-broken", document)
        self.assertNotIn("<img", document)
        self.assertIn(html.escape(HOSTILE, quote=False), document)


if __name__ == "__main__":
    unittest.main()
