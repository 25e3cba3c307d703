"""The collector when ClickHouse is away or anything is killed: nothing acknowledged is lost, nothing hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clickhouse import CollectorProcess, Engine
from tests.waiting import until
from tests.wire.test_otlp import PROTOBUF, export, post

pytestmark = pytest.mark.solo


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine") as engine:
        yield engine


def test_not_ready_until_clickhouse_is_there_and_then_ready_by_itself(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "engine")
    collector = CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="0.5")
    collector.start(ready="/health")
    try:
        waiting = requests.get(f"{collector.url}/ready", timeout=5)
        assert (waiting.status_code, waiting.json()["failure"]) == (503, "telemetry_away")
        assert post(collector, export().SerializeToString()).status_code == 503
        with engine:
            until(lambda: requests.get(f"{collector.url}/ready", timeout=5).ok, 10)
            assert post(collector, export().SerializeToString()).status_code == 200
    finally:
        collector.kill()


def test_away_is_503_with_retry_after_within_the_patience(engine: Engine, tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="1") as collector:
        assert post(collector, export().SerializeToString()).status_code == 200
        engine.kill()
        started = time.monotonic()
        answer = post(collector, export().SerializeToString())
        assert time.monotonic() - started < 4
        assert (answer.status_code, answer.json()["failure"]) == (503, "telemetry_away")
        assert int(answer.headers["Retry-After"]) >= 1
        engine.start()
        until(lambda: post(collector, export().SerializeToString()).status_code == 200, 10)
        assert engine.query("SELECT count() FROM otel_traces", "mission") == "2"
        assert requests.get(f"{collector.url}/stats", timeout=5).json()["dropped"]["clickhouse_away"] == 1


def test_a_short_absence_is_waited_out(engine: Engine, tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "collector", engine.url) as collector:
        engine.kill()
        answers: list[int] = []
        sender = threading.Thread(
            target=lambda: answers.append(post(collector, export(5).SerializeToString()).status_code)
        )
        sender.start()
        engine.start()
        sender.join(15)
        assert answers == [200]
        assert engine.query("SELECT count() FROM otel_traces", "mission") == "5"


def test_no_acknowledged_span_is_lost_whichever_process_is_killed(engine: Engine, tmp_path: Path) -> None:
    collector = CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="3")
    acknowledged: set[str] = set()
    over = threading.Event()
    lock = threading.Lock()

    def send() -> None:
        while not over.is_set():
            request = export(50)
            ids = {span.span_id.hex() for span in request.resource_spans[0].scope_spans[0].spans}
            try:
                answer = requests.post(
                    f"{collector.url}/v1/traces", data=request.SerializeToString(), headers=PROTOBUF, timeout=15
                )
            except requests.RequestException:
                time.sleep(0.02)
                continue
            if answer.status_code == 200:
                with lock:
                    acknowledged.update(ids)

    with collector:
        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        for victim in (engine, collector, engine, collector):
            had = len(acknowledged)
            until(lambda had=had: len(acknowledged) >= had + 500, 20, what="500 more spans acknowledged")
            victim.kill()
            victim.start()
        over.set()
        for sender in senders:
            sender.join(20)
        stored = set(engine.query("SELECT DISTINCT SpanId FROM otel_traces", "mission").split("\n"))
        assert acknowledged <= stored, f"{len(acknowledged - stored)} acknowledged spans are lost"
        assert len(acknowledged) >= 2000


def test_a_stop_stores_what_waits(engine: Engine, tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "collector", engine.url) as collector:
        answers: list[int] = []
        sender = threading.Thread(
            target=lambda: answers.append(post(collector, export(7).SerializeToString()).status_code)
        )
        sender.start()
        until(lambda: requests.get(f"{collector.url}/stats", timeout=2).json()["requests"] == 1, 5, every=0.005)
        collector.stop()
        sender.join(10)
        assert answers == [200]
        assert engine.query("SELECT count() FROM otel_traces", "mission") == "7"
