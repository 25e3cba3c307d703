"""A gateway worker that hangs is ended by its parent, and one that only had no chance to speak is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import serving
from tests.waiting import until
from tests.wire.gateway import Gateway, running
from tests.wire.test_gateway_report import Collector
from tests.wire.test_gateway_steady import alive


@pytest.fixture
def pair(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    """Two workers, which may not be silent for long."""
    with running(tmp_path, redis_url, workers=2, MC_GATEWAY_HANG_SECONDS="3") as found:
        until(lambda: len(found.workers_seen()) == 2, 5, what="two workers")
        yield found


def test_a_worker_that_hangs_is_killed_replaced_and_counted(pair: Gateway) -> None:
    hung, well = pair.worker_pids()
    os.kill(hung, signal.SIGSTOP)
    until(lambda: not alive(hung), 20, what="the end of the worker that hangs")
    until(lambda: set(pair.worker_pids()) - {hung, well}, 20, what="a new worker")
    assert alive(well), "who works is left alone"
    assert {pair.get("/open/x").status for _ in range(10)} == {200}
    assert pair.logs().count(f"Gateway worker {hung} has given no sign of life") == 1
    with serving(Collector(pair.otlp_port)) as collector:
        until(lambda: collector.metrics.get("mc.gateway.workers.hung") == 1, 20, what="its count")


def test_a_gateway_that_was_stopped_as_a_whole_kills_no_worker(pair: Gateway) -> None:
    """As by a debugger, or on a machine that had no time for anyone."""
    pids = pair.worker_pids()
    assert pair.process is not None
    everyone = [pair.process.pid, *pids]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: time.monotonic() - stopped > 5, 10, what="longer than a worker may hang")
    os.kill(pair.process.pid, signal.SIGCONT)
    until(lambda: _waits(pair), 5, what="the parent has looked")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    went_on = time.time()
    until(lambda: all(beat["at"] > went_on + 3 for beat in pair.workers_seen().values()), 20, what="work goes on")
    assert sorted(pair.worker_pids()) == sorted(pids)
    assert "no sign of life" not in pair.logs()


def _waits(gateway: Gateway) -> bool:
    """The parent sleeps again."""
    assert gateway.process is not None
    return Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
