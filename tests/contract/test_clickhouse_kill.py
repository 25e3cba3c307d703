"""``kill -9`` of the embedded ClickHouse under concurrent inserts: whatever it acknowledged is still there."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import requests

from tests.clickhouse import Engine
from tests.waiting import patient

pytestmark = pytest.mark.solo

WRITERS = 4
KILLS = 4
ROWS = 200


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path) as engine:
        yield engine


class Writers:
    """Threads that insert batches of distinct numbers and remember which were acknowledged."""

    def __init__(self, engine: Engine) -> None:
        self.acknowledged: list[int] = []
        self.sent = 0
        self._engine = engine
        self._batches = count()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _write(self) -> None:
        while not self._over.is_set():
            with self._lock:
                batch = next(self._batches)
                self.sent += 1
            rows = "\n".join(str(batch * ROWS + number) for number in range(ROWS))
            try:
                answer = requests.post(self._engine.url, f"INSERT INTO kill.t FORMAT TSV\n{rows}\n", timeout=10)
            except requests.RequestException:
                time.sleep(0.02)
                continue
            if answer.status_code == 200:
                with self._lock:
                    self.acknowledged.append(batch)


def test_no_acknowledged_row_is_lost(engine: Engine) -> None:
    engine.query("CREATE DATABASE kill")
    engine.query("CREATE TABLE kill.t (n UInt64) ENGINE = MergeTree ORDER BY n")
    engine.query("CREATE TABLE kill.total (k UInt8, n UInt64) ENGINE = SummingMergeTree ORDER BY k")
    engine.query("CREATE MATERIALIZED VIEW kill.v TO kill.total AS SELECT 0 AS k, count() AS n FROM kill.t GROUP BY k")
    with Writers(engine) as writers:
        for _ in range(KILLS):
            had = len(writers.acknowledged)
            deadline = time.monotonic() + 20
            while len(writers.acknowledged) < had + 20 and time.monotonic() < deadline:
                time.sleep(random.uniform(0.01, 0.05))
            assert len(writers.acknowledged) >= had + 20, "inserts stopped being acknowledged"
            engine.kill()
            started = time.monotonic()
            engine.start()
            assert time.monotonic() - started < patient(10)
    acknowledged = set(writers.acknowledged)
    found = engine.query(f"SELECT intDiv(n, {ROWS}) AS b, count(), uniqExact(n) FROM kill.t GROUP BY b").splitlines()
    stored = {int(batch): (int(rows), int(distinct)) for batch, rows, distinct in (line.split("\t") for line in found)}
    assert acknowledged <= set(stored), f"lost {sorted(acknowledged - set(stored))[:10]}"
    assert set(stored.values()) == {(ROWS, ROWS)}, "a batch is stored in part"
    total = int(engine.query("SELECT sum(n) FROM kill.total"))
    assert total >= len(acknowledged) * ROWS, "a view lost what its table kept"
    assert engine.stop() in {0, -signal.SIGTERM}
