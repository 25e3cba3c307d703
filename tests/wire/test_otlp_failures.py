"""The collector when ClickHouse is away or anything is killed: nothing acknowledged is lost, nothing hangs."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clickhouse import CollectorProcess, Engine
from tests.waiting import patient, until
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
        assert time.monotonic() - started < patient(4)
        assert (answer.status_code, answer.json()["failure"]) == (503, "telemetry_away")
        assert int(answer.headers["Retry-After"]) >= 1
        engine.start()
        until(lambda: post(collector, export().SerializeToString()).status_code == 200, 10)
        assert engine.query("SELECT count() FROM otel_traces", "mission") == "2"
        assert requests.get(f"{collector.url}/stats", timeout=5).json()["dropped"]["clickhouse_away"] == 1


def test_a_hanging_clickhouse_is_503_in_time_and_what_is_sent_again_counts_once(engine: Engine, tmp_path: Path) -> None:
    with CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="1") as collector:
        assert post(collector, export(1).SerializeToString()).status_code == 200
        bodies = [export(50).SerializeToString() for _ in range(6)]
        os.killpg(engine.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                for body in bodies:
                    started = time.monotonic()
                    answer = post(collector, body)
                    assert time.monotonic() - started < patient(3)
                    assert (answer.status_code, answer.json()["failure"]) == (503, "telemetry_away")
                    assert int(answer.headers["Retry-After"]) >= 1
            hurried = threading.Thread(target=hang_up_early, args=(collector, bodies[0]))
            hurried.start()
            hurried.join(10)
            until(lambda: requests.get(f"{collector.url}/ready", timeout=5).status_code == 503, 5)
        finally:
            os.killpg(engine.pid, signal.SIGCONT)
        for body in bodies:
            until(lambda body=body: post(collector, body).status_code == 200, 20, what="200 after a repetition")
            assert post(collector, body).status_code == 200
        assert counted(engine) == (301, 301, 301)
        assert requests.get(f"{collector.url}/ready", timeout=5).ok
        figures = requests.get(f"{collector.url}/stats", timeout=5).json()
        assert figures["repeated_exports"] >= len(bodies) and figures["buffered_bytes"] == 0


def test_what_clients_send_until_it_is_taken_counts_once_while_clickhouse_is_killed(
    engine: Engine, tmp_path: Path
) -> None:
    with CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="1") as collector:
        senders = [Stubborn(collector) for _ in range(6)]
        for sender in senders:
            sender.start()
        for _ in range(4):
            had = sum(sender.taken for sender in senders)
            until(lambda had=had: sum(sender.taken for sender in senders) >= had + 12, 40, what="12 more exports")
            engine.kill()
            engine.start()
        for sender in senders:
            sender.finish()
        spans = 20 * sum(sender.taken for sender in senders)
        assert counted(engine) == (spans, spans, spans)


def test_what_one_client_sends_until_it_is_taken_counts_once_while_the_collector_is_killed(
    engine: Engine, tmp_path: Path
) -> None:
    """Nobody else's rows are in its inserts, so their tokens follow from its bytes alone."""
    with CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="2") as collector:
        sender = Stubborn(collector)
        sender.start()
        for _ in range(4):
            had = sender.taken
            until(lambda had=had: sender.taken >= had + 3, 30, what="3 more exports")
            collector.kill()
            collector.start()
        sender.finish()
        spans = 20 * sender.taken
        assert counted(engine) == (spans, spans, spans)


def test_an_insert_killed_between_its_note_and_its_rows_is_stored_when_it_comes_again(
    engine: Engine, tmp_path: Path
) -> None:
    """ClickHouse notes a token before the rows are in place: a kill can leave the one without the other."""
    with CollectorProcess(tmp_path / "collector", engine.url) as collector:
        assert post(collector, export(3).SerializeToString()).status_code == 200
        body = export(7).SerializeToString()
        assert post(collector, body).status_code == 200
        (path,) = engine.query("SELECT path FROM system.parts WHERE table = 'otel_traces' AND rows = 7").split()
        engine.kill()
        shutil.rmtree(path)
        engine.start()
        assert counted(engine)[0] == 3
        collector.kill()
        collector.start()
        assert post(collector, body).status_code == 200
        assert counted(engine) == (10, 10, 10)
        assert requests.get(f"{engine.address}/health", timeout=5).json()["lost_blocks"] == 1


class Stubborn(threading.Thread):
    """A client as OTLP wants it: sends an export until it is taken, hanging up now and then; then the next."""

    def __init__(self, collector: CollectorProcess) -> None:
        super().__init__(daemon=True)
        self.taken = 0
        self._collector = collector
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            body = export(20).SerializeToString()
            while not self._try(body):
                self._over.wait(0.05)
            self.taken += 1

    def _try(self, body: bytes) -> bool:
        try:
            patience = random.choice([0.3, 5, 15])
            url = f"{self._collector.url}/v1/traces"
            return requests.post(url, data=body, headers=PROTOBUF, timeout=patience).status_code == 200
        except requests.RequestException:
            return False

    def finish(self) -> None:
        """The export under way is still sent until it is taken."""
        self._over.set()
        self.join(40)
        assert not self.is_alive(), "its last export was never taken"


def hang_up_early(collector: CollectorProcess, body: bytes) -> None:
    with contextlib.suppress(requests.RequestException):
        requests.post(f"{collector.url}/v1/traces", data=body, headers=PROTOBUF, timeout=0.2)


def counted(engine: Engine) -> tuple[int, int, int]:
    """Spans stored, different ones among them, and spans in the RED rollup."""
    stored, different = engine.query("SELECT count(), uniqExact(SpanId) FROM otel_traces", "mission").split()
    return int(stored), int(different), int(engine.query("SELECT sum(Count) FROM otel_red_10s", "mission"))


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
