"""Group commit: requests wait here until ClickHouse has their rows, and are answered then.

``add`` returns when the rows are stored, so an OTLP 200 means that no process's death loses them. One
insert per table is under way at a time and takes everything that came in meanwhile, so batches grow with
load; when the load is low a batch waits ``LINGER`` for company. Bounded in bytes, and in time by what a
client will wait: past either the rows are refused and the client sends them again (OTLP: retryable).

Knows nothing of HTTP or OTLP. The insert itself is passed in.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from apps.lib import clock
from apps.telemetry.collector.decode import Block

LINGER = 0.25
"""Seconds that the first rows of a batch wait for more."""
LINGERS = {"otel_metrics": 1.0}
"""The same for tables whose names begin so: metrics come from every process every few seconds, in no hurry, and
each insert costs the engine ten milliseconds whatever its size."""
ENOUGH_ROWS = 20_000
"""Rows that wait for nothing."""
MOST_ROWS = 200_000
MOST_BYTES = 48 * 1024 * 1024
"""Of one insert, under the engine's bound on a request."""
PATIENCE = 8.0
"""Seconds that rows wait for ClickHouse before their client is told to come back."""


class Full(Exception):
    """The buffer holds all it may: nothing was taken."""


class Away(Exception):
    """ClickHouse did not take the rows in time; they are dropped here and the client still has them."""


class Rejected(Exception):
    """ClickHouse will never take these rows; the message is its reason."""


Insert = Callable[[str, bytes], Awaitable[None]]
"""(table, blocks): returns when stored; raises Away (try again) or Rejected (never will)."""


@dataclass(slots=True, eq=False)
class _Waiting:
    block: Block
    since: float
    done: asyncio.Future[None]


@dataclass(slots=True)
class Tally:
    """What happened since the start, for the page and the metrics."""

    stored_rows: int = 0
    refused_full: int = 0
    """Rows turned away because the buffer was full."""
    refused_away: int = 0
    """Rows given up because ClickHouse was away."""
    refused_rejected: int = 0
    """Rows that ClickHouse would not have."""
    inserts: int = 0
    failed_inserts: int = 0
    insert_seconds: float = 0.0
    last_insert_seconds: float = 0.0
    last_stored_at: float | None = None
    tables: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Buffer:
    """One per process, on its event loop."""

    def __init__(self, insert: Insert, *, capacity: int = 64 * 1024 * 1024, patience: float = PATIENCE) -> None:
        self.tally = Tally()
        self.held = 0
        """Bytes waiting or being inserted."""
        self._insert = insert
        self._capacity = capacity
        self._patience = patience
        self._queues: dict[str, deque[_Waiting]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def add(self, blocks: list[Block]) -> None:
        """Wait until every block is stored. Raises Full, Away or Rejected; then a part may be stored."""
        size = sum(len(block.data) for block in blocks)
        rows = sum(block.rows for block in blocks)
        if self._closing or self.held + size > self._capacity:
            self.tally.refused_full += rows
            raise Full
        now, loop = clock.monotonic(), asyncio.get_running_loop()
        futures = [self._enqueue(_Waiting(block, now, loop.create_future())) for block in blocks]
        # Every future is awaited whatever the first says, so that no outcome goes unread.
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def close(self) -> None:
        """Take no more, store what waits, and end."""
        self._closing = True
        for wake in self._wakes.values():
            wake.set()
        await asyncio.gather(*self._tasks)

    def _enqueue(self, waiting: _Waiting) -> asyncio.Future[None]:
        table = waiting.block.table
        self.held += len(waiting.block.data)
        if table not in self._queues:
            self._queues[table] = deque()
            self._wakes[table] = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._drain(table), name=f"buffer-{table}"))
        self._queues[table].append(waiting)
        self._wakes[table].set()
        return waiting.done

    async def _drain(self, table: str) -> None:
        queue, wake = self._queues[table], self._wakes[table]
        while True:
            while not queue:
                if self._closing:
                    return
                wake.clear()
                await wake.wait()
            await self._linger(queue, wake, _patient(table))
            batch = _take(queue)
            await self._store(table, batch)

    async def _linger(self, queue: deque[_Waiting], wake: asyncio.Event, seconds: float) -> None:
        """Wait for company until the oldest has waited enough or there is enough."""
        while not self._closing:
            left = queue[0].since + seconds - clock.monotonic()
            if left <= 0 or sum(item.block.rows for item in queue) >= ENOUGH_ROWS:
                return
            wake.clear()
            try:
                async with asyncio.timeout(left):
                    await wake.wait()
            except TimeoutError:
                return

    async def _store(self, table: str, batch: list[_Waiting]) -> None:
        """Insert until it succeeds or patience ends; a batch that is refused is tried block by block."""
        data = b"".join([item.block.data for item in batch])
        pause = 0.1
        while True:
            started = clock.monotonic()
            try:
                await self._insert(table, data)
            except Rejected as error:
                self.tally.failed_inserts += 1
                if len(batch) == 1:
                    self._fail(batch, error)
                    return
                for item in batch:
                    await self._store(table, [item])
                return
            except Away as error:
                self.tally.failed_inserts += 1
                late = [item for item in batch if self._closing or started - item.since + pause > self._patience]
                if late:
                    self._fail(late, error)
                    batch = [item for item in batch if item not in late]
                    if not batch:
                        return
                    data = b"".join([item.block.data for item in batch])
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
            else:
                self._stored(table, batch, clock.monotonic() - started)
                return

    def _stored(self, table: str, batch: list[_Waiting], seconds: float) -> None:
        rows = sum(item.block.rows for item in batch)
        tally = self.tally
        tally.inserts += 1
        tally.insert_seconds += seconds
        tally.last_insert_seconds = seconds
        tally.stored_rows += rows
        tally.tables[table] += rows
        tally.last_stored_at = clock.wall()
        for item in batch:
            self.held -= len(item.block.data)
            if not item.done.done():
                item.done.set_result(None)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        rows = sum(item.block.rows for item in batch)
        if isinstance(error, Away):
            self.tally.refused_away += rows
        else:
            self.tally.refused_rejected += rows
        for item in batch:
            self.held -= len(item.block.data)
            if not item.done.done():
                item.done.set_exception(error)


def _patient(table: str) -> float:
    return next((seconds for start, seconds in LINGERS.items() if table.startswith(start)), LINGER)


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """As much as one insert may hold; at least one."""
    batch = [queue.popleft()]
    rows, size = batch[0].block.rows, len(batch[0].block.data)
    while queue:
        block = queue[0].block
        rows, size = rows + block.rows, size + len(block.data)
        if rows > MOST_ROWS or size > MOST_BYTES:
            break
        batch.append(queue.popleft())
    return batch
