"""A slow collector loses no measurement of a running process, and a silent one does not hold up its stop."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from services.kit.together import SPREAD_S
from tests.waiting import patient, until

REPORTING = """
import json, sys, time
from opentelemetry import metrics, trace
from services.kit import telemetry

stop = telemetry.start("tests", endpoint=sys.argv[1], version="1")
metrics.get_meter("tests").create_counter("c").add(1)
trace.get_tracer("tests").start_span("s").end()
if sys.argv[2] == "flush":
    metrics.get_meter_provider().force_flush()
    trace.get_tracer_provider().force_flush()
began = time.monotonic()
stop()
print(json.dumps(time.monotonic() - began))
"""


TOGETHER = """
import sys, time
from services.kit import telemetry

telemetry.METRICS_EVERY_S = 3.0
time.sleep(float(sys.argv[2]))
stop = telemetry.start("tests", endpoint=sys.argv[1], version="1")
sys.stdin.read()
"""


@contextmanager
def collector(seconds: float) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """A collector that takes ``seconds`` to store; its address, and what it has answered: path → when."""
    stored: dict[str, list[float]] = {}

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            try:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                return
            stored.setdefault(self.path, []).append(time.time())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", stored
    server.shutdown()
    server.block_on_close = False
    server.server_close()


def report(url: str, how: str) -> tuple[float, str]:
    """Seconds that the stop of a process took that reports to ``url``, and what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", REPORTING, url, how], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout), done.stderr


def test_an_export_may_take_longer_than_a_stop_waits() -> None:
    with collector(2.5) as (url, stored):
        _, complaints = report(url, "flush")
    assert complaints == ""
    assert {"/v1/metrics", "/v1/traces"} <= set(stored)


def test_a_stop_waits_two_seconds_for_a_collector_that_is_silent() -> None:
    with collector(30) as (url, _):
        took, _ = report(url, "stop")
    assert took < patient(3.5)  # one export after the other, it would be four and more


def test_processes_that_began_at_different_times_report_at_one_moment() -> None:
    every = 3.0
    with collector(0) as (url, stored):
        command = [sys.executable, "-c", TOGETHER, url]
        both = [subprocess.Popen([*command, late], stdin=subprocess.PIPE) for late in ("0", "1.3")]
        try:
            until(lambda: len(stored.get("/v1/metrics", ())) >= 6, 60, what="three reports of each")
        finally:
            for process in both:
                process.communicate(timeout=20)
    moments = [at % every for at in stored["/v1/metrics"][:6]]
    assert max(moments) < SPREAD_S + patient(0.5), "on multiples of the clock, not of their starts"
