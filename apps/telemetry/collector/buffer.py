"""Group commit: rows wait here until ClickHouse has them, and their exports are answered then.

``submit`` gives a future that is done when the rows are stored, so an OTLP 200 means that no process's death
loses them. One insert per table is under way at a time and takes everything that came in meanwhile, so batches
grow with load; when the load is low a batch waits ``LINGER`` for company. Bounded in bytes.

A batch that may have reached ClickHouse is never taken apart or given up for want of an answer: it is inserted
again, the same bytes under the same token, until ClickHouse says that it has it, and ClickHouse stores the same
token once. A client may stop waiting long before; ``withdraw`` takes back what has not been sent.

Knows nothing of HTTP or OTLP. The insert itself is passed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from apps.lib import clock
from apps.telemetry.collector.decode import Block

log = logging.getLogger(__name__)

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
"""Seconds that rows wait to be sent before their client is told to come back."""
DOUBT_SECONDS = 300.0
"""How long a batch is tried that ClickHouse answers with an error each time, before it is given up."""
CLOSE_SECONDS = 9.0
"""How long ``close`` waits for ClickHouse."""
TROUBLE_SECONDS = 6.0
"""How long a failed insert counts as trouble when nobody has sent rows since."""
MOST_FAULTS = 3
"""Faults of ours over one batch before it is given up: the fault may lie in its bytes."""


class Full(Exception):
    """The buffer holds all it may: nothing was taken."""


class Refused(Exception):
    """An insert did not happen; the message says why."""


class Unsent(Refused):
    """Nothing of it can be stored: it never reached ClickHouse, or was turned away at the door. Try again."""


class Doubtful(Refused):
    """It may be stored, wholly or in part: no answer came, or an error half-way. Try again, under the same token."""

    def __init__(self, message: str, *, answered: bool = False, renew: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        """ClickHouse lives and said so itself."""
        self.renew = renew
        """ClickHouse may have noted the token and not kept the rows: the next try needs another token."""


class Rejected(Refused):
    """ClickHouse will never take these rows."""


Insert = Callable[[str, bytes, str], Awaitable[None]]
"""(table, blocks, token): returns when stored; raises Unsent, Doubtful or Rejected."""


@dataclass(slots=True, eq=False)
class _Item:
    block: Block
    key: bytes
    """The digest of its export."""
    since: float
    done: asyncio.Future[None]
    taken: bool = False
    """It is in a batch, and may be stored."""


@dataclass(slots=True, eq=False)
class _Batch:
    items: list[_Item]
    data: bytes
    token: str
    since: float
    doubted: float | None = None
    """When it first came to nothing after it may have reached ClickHouse."""
    renewals: int = 0
    faults: int = 0

    @classmethod
    def of(cls, items: list[_Item], now: float) -> _Batch:
        for item in items:
            item.taken = True
        name = hashlib.sha256(b"".join([item.block.table.encode(), *[item.key for item in items]]))
        return cls(items, b"".join([item.block.data for item in items]), name.hexdigest()[:32], now)

    @property
    def name(self) -> str:
        """The token of the next try."""
        return f"{self.token}-{self.renewals}" if self.renewals else self.token


@dataclass(slots=True, eq=False)
class _Lane:
    """One table's queue and the task that drains it."""

    table: str
    queue: deque[_Item] = field(default_factory=deque)
    alone: deque[_Item] = field(default_factory=deque)
    """Of a batch that was refused: each is tried by itself, to find the bad one."""
    batch: _Batch | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


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
    refused_fault: int = 0
    """Rows given up because storing them met a fault of ours."""
    inserts: int = 0
    failed_inserts: int = 0
    doubtful_inserts: int = 0
    """Of these: may have been stored, and were sent again under their token."""
    restarts: int = 0
    """Times that the task of a table died of a fault and was started again."""
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
        self._lanes: dict[str, _Lane] = {}
        self._failed: tuple[float, str] | None = None
        """When and why an insert last failed, if none has succeeded since."""
        self._closing = False

    def submit(self, blocks: Iterable[Block], key: bytes) -> dict[str, asyncio.Future[None]]:
        """Take the blocks of one export; each table's future ends when its rows are stored, or with Refused.

        Raises Full, and then none is taken. ``key`` names the export: the same key is the same rows.
        """
        wanted = list(blocks)
        if self._closing or self.held + sum(len(block.data) for block in wanted) > self._capacity:
            self.tally.refused_full += sum(block.rows for block in wanted)
            raise Full
        return {block.table: self._enqueue(block, key) for block in wanted}

    def withdraw(self, outcomes: Iterable[asyncio.Future[None]]) -> None:
        """Nobody waits for these any more: what was not sent is taken back, as Unsent."""
        wanted = set(outcomes)
        for lane in self._lanes.values():
            gone = [item for item in (*lane.queue, *lane.alone) if not item.taken and item.done in wanted]
            if gone:
                self._fail(gone, Unsent("ClickHouse does not take rows fast enough."))
                lane.queue = deque(item for item in lane.queue if not item.done.done())
                lane.alone = deque(item for item in lane.alone if not item.done.done())

    def trouble(self) -> str:
        """Why rows are not being stored; empty when they are."""
        now = clock.monotonic()
        for lane in self._lanes.values():
            if lane.task is None or lane.task.done():
                return f"What stores {lane.table} has died and is being started again."
            batch = lane.batch
            if batch is not None and now - batch.since > self._patience:
                return f"ClickHouse has not taken rows for {lane.table} for {now - batch.since:.0f} s."
        if self._failed is not None and now - self._failed[0] < TROUBLE_SECONDS:
            return f"ClickHouse did not take rows when last asked: {self._failed[1]}."
        return ""

    async def close(self) -> None:
        """Take no more, store what waits, and end; what ClickHouse does not take in time is given up."""
        self._closing = True
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for lane in self._lanes.values():
            lane.wake.set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for lane in self._lanes.values():
            left = [*(lane.batch.items if lane.batch else ()), *lane.alone, *lane.queue]
            self._fail(left, Doubtful("The collector stopped before ClickHouse answered."))

    # -- one table ------------------------------------------------------------------------------------

    def _enqueue(self, block: Block, key: bytes) -> asyncio.Future[None]:
        lane = self._lanes.get(block.table)
        if lane is None:
            lane = self._lanes[block.table] = _Lane(block.table)
            self._start(lane)
        item = _Item(block, key, clock.monotonic(), asyncio.get_running_loop().create_future())
        self.held += len(block.data)
        lane.queue.append(item)
        lane.wake.set()
        return item.done

    def _start(self, lane: _Lane) -> None:
        lane.task = asyncio.create_task(self._drain(lane), name=f"buffer-{lane.table}")
        lane.task.add_done_callback(lambda task: self._ended(lane, task))

    def _ended(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        """A drain that died of a fault is started again, with the batch it had in hand."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        self.tally.restarts += 1
        log.error("what stores %s died and is started again", lane.table, exc_info=fault)
        batch = lane.batch
        if batch is not None:
            batch.faults += 1
            if batch.faults >= MOST_FAULTS:
                lane.batch = None
                self._fail(batch.items, Refused(f"storing it met a fault: {fault!r}"))
        if not self._closing:
            self._start(lane)

    async def _drain(self, lane: _Lane) -> None:
        while True:
            if lane.batch is None:
                lane.batch = await self._next(lane)
                if lane.batch is None:
                    return
            if lane.batch.faults:
                await asyncio.sleep(0.2 * lane.batch.faults)
            await self._store(lane, lane.batch)

    async def _next(self, lane: _Lane) -> _Batch | None:
        """The next batch; None when there is none and the buffer is closing."""
        while not lane.alone:
            while not lane.queue:
                if self._closing:
                    return None
                lane.wake.clear()
                await lane.wake.wait()
            await self._linger(lane)
            if lane.queue:
                return _Batch.of(_take(lane.queue), clock.monotonic())
        return _Batch.of([lane.alone.popleft()], clock.monotonic())

    async def _linger(self, lane: _Lane) -> None:
        """Wait for company until the oldest has waited enough or there is enough."""
        while lane.queue and not self._closing:
            left = lane.queue[0].since + _patient(lane.table) - clock.monotonic()
            if left <= 0 or sum(item.block.rows for item in lane.queue) >= ENOUGH_ROWS:
                return
            lane.wake.clear()
            try:
                async with asyncio.timeout(left):
                    await lane.wake.wait()
            except TimeoutError:
                return

    async def _store(self, lane: _Lane, batch: _Batch) -> None:
        """Insert until it is known what became of the batch."""
        pause = 0.1
        while lane.batch is batch:
            started = clock.monotonic()
            try:
                await self._insert(lane.table, batch.data, batch.name)
            except Refused as error:
                self.tally.failed_inserts += 1
                if not isinstance(error, Rejected):
                    self._failed = (started, str(error))
                self._refused(lane, batch, error, started + pause)
            else:
                lane.batch = None
                self._stored(lane.table, batch.items, clock.monotonic() - started)
                return
            if lane.batch is batch:
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)

    def _refused(self, lane: _Lane, batch: _Batch, error: Refused, again_at: float) -> None:
        """What a failed insert means for its batch."""
        if isinstance(error, Doubtful):
            self.tally.doubtful_inserts += 1
            batch.doubted = batch.doubted or again_at
            batch.renewals += error.renew
            if self._closing or (error.answered and again_at - batch.doubted > DOUBT_SECONDS):
                lane.batch = None
                self._fail(batch.items, error)
        elif isinstance(error, Rejected):
            lane.batch = None
            if len(batch.items) == 1:
                self._fail(batch.items, error)
            else:
                for item in batch.items:
                    item.taken = False
                lane.alone.extend(batch.items)
        elif batch.doubted is None:
            late = [item for item in batch.items if self._closing or again_at - item.since > self._patience]
            if late:
                self._fail(late, error)
                left = [item for item in batch.items if not item.done.done()]
                lane.batch = _Batch.of(left, batch.since) if left else None

    def _stored(self, table: str, items: list[_Item], seconds: float) -> None:
        rows = sum(item.block.rows for item in items)
        tally = self.tally
        tally.inserts += 1
        tally.insert_seconds += seconds
        tally.last_insert_seconds = seconds
        tally.stored_rows += rows
        tally.tables[table] += rows
        tally.last_stored_at = clock.wall()
        self._failed = None
        for item in items:
            self.held -= len(item.block.data)
            if not item.done.done():
                item.done.set_result(None)

    def _fail(self, items: list[_Item], error: Refused) -> None:
        rows = sum(item.block.rows for item in items)
        if isinstance(error, Rejected):
            self.tally.refused_rejected += rows
        elif isinstance(error, Unsent | Doubtful):
            self.tally.refused_away += rows
        else:
            self.tally.refused_fault += rows
        for item in items:
            self.held -= len(item.block.data)
            if not item.done.done():
                item.done.set_exception(error)


def _patient(table: str) -> float:
    return next((seconds for start, seconds in LINGERS.items() if table.startswith(start)), LINGER)


def _take(queue: deque[_Item]) -> list[_Item]:
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
