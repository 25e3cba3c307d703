"""The disk under ClickHouse is full: exports are refused in time, nothing acknowledged is lost, all comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clickhouse import CollectorProcess, Engine
from tests.disk import MIB, SmallDisk
from tests.waiting import until
from tests.wire.test_otlp import PROTOBUF, export

pytestmark = [pytest.mark.solo, pytest.mark.disk]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "disk", 64) as disk:
        yield disk


class Sender:
    """Sends exports of 200 spans and remembers which were acknowledged."""

    def __init__(self, collector: CollectorProcess) -> None:
        self.acknowledged: set[str] = set()
        self.answers: Counter[str] = Counter()
        self._collector = collector

    def send(self, times: int = 1) -> None:
        for _ in range(times):
            request = export(200)
            answer = requests.post(
                f"{self._collector.url}/v1/traces", data=request.SerializeToString(), headers=PROTOBUF, timeout=15
            )
            self.answers["" if answer.ok else answer.json()["failure"]] += 1
            if answer.status_code == 200:
                self.acknowledged |= {span.span_id.hex() for span in request.resource_spans[0].scope_spans[0].spans}

    def check(self, engine: Engine) -> None:
        stored = engine.query("SELECT SpanId FROM otel_traces", "mission").split()
        assert set(stored) >= self.acknowledged, f"{len(self.acknowledged - set(stored))} acknowledged spans are lost"
        assert len(stored) == len(set(stored))
        assert int(engine.query("SELECT sum(Count) FROM otel_red_10s", "mission")) == len(stored)


@pytest.mark.parametrize("floor", ["0", "16"], ids=["none kept free", "16 MiB kept free"])
def test_no_acknowledged_span_is_lost_on_a_full_disk(tmp_path: Path, disk: SmallDisk, floor: str) -> None:
    engine = Engine(disk.folder / "engine", MC_CLICKHOUSE_FREE_MB=floor)
    with engine, CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="1") as collector:
        sender = Sender(collector)
        sender.send(3)
        disk.fill(leave=MIB // 8)
        sender.send(6)
        disk.fill()
        sender.send(3)
        sender.check(engine)
        assert sender.answers["telemetry_away"] >= 3
        assert requests.get(f"{collector.url}/ready", timeout=5).status_code == 503
        disk.clear()
        until(lambda: sender.send() or sender.answers[""] >= 6, 20, what="exports taken when there is room")
        sender.check(engine)
        engine.kill()
        engine.start()
        sender.send(2)
        sender.check(engine)
        health = requests.get(f"{engine.address}/health", timeout=5).json()
        assert health["broken_parts"] == 0


def test_inserts_are_refused_while_there_is_still_room_for_merges(tmp_path: Path, disk: SmallDisk) -> None:
    engine = Engine(disk.folder / "engine", MC_CLICKHOUSE_FREE_MB="16")
    with engine, CollectorProcess(tmp_path / "collector", engine.url, MC_OTLP_PATIENCE="0.5") as collector:
        sender = Sender(collector)
        sender.send(2)
        disk.fill(leave=12 * MIB)
        sender.send(2)
        assert sender.answers == {"": 2, "telemetry_away": 2}
        assert disk.free > 10 * MIB
        assert engine.query("SELECT count() FROM otel_traces", "mission") == "400"
        assert "enough free space" in requests.get(f"{collector.url}/stats", timeout=5).json()["trouble"]
