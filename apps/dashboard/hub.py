"""Fan-out inside one web process: the same encoded delta to every browser, a snapshot to the slow ones.

Owns the subscribers, their windows and the counts of what happened. Knows nothing of Redis or of how a frame
leaves the process. A subscriber costs one window of frame numbers; there is no queue per subscriber. Everything
here runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from apps.dashboard.frames import TOPICS, Ack, Delta, History, Snapshot, Window
from apps.lib.clock import monotonic

KEEP = 300
"""Deltas kept for a reconnect: five minutes at one a second."""
WINDOW = 8
"""Frames a browser may have unacknowledged before it gets no more deltas."""
CAPACITY = 2000
"""Browsers per process."""
YIELD_EVERY = 64
"""Subscribers served before the loop may do something else."""

Send = Callable[[str], Awaitable[None]]


class Subscriber:
    """One browser: what it wants, what it has been sent, and when it last said that it had it."""

    def __init__(self, send: Send, hub: Hub, topics: frozenset[str] = TOPICS) -> None:
        self.topics = topics
        self.heard_at = monotonic()
        """When silence began: the last ack, or the first frame that waits for one."""
        self._send = send
        self._hub = hub
        self._window = Window(WINDOW)
        self._epoch = ""
        self._seq = -1
        self._behind = False
        self._begun = False

    @property
    def waiting(self) -> bool:
        """Whether frames are out that it has not acknowledged."""
        return len(self._window) > 0

    async def begin(self, epoch: str, seq: int | None) -> None:
        """The first frames, none before: the deltas missed since ``epoch`` and ``seq``, else a snapshot."""
        self._begun = True
        missed = self._hub.history.since(epoch, seq) if seq is not None else None
        if missed is None:
            await self.snapshot()
            return
        self._hub.counts["resumed"] += 1
        self._epoch, self._seq = epoch, seq if seq is not None else -1
        for delta in missed:
            await self._deliver(delta)

    async def subscribe(self, topics: frozenset[str]) -> None:
        """Other topics from now on; what the browser holds is replaced by a snapshot."""
        self.topics = topics
        await self.snapshot()

    async def delta(self, delta: Delta) -> None:
        """The next tick; a full window means that this browser is slow and gets a snapshot when it has caught up."""
        if not self._begun:
            return
        if self._behind or self._window.full:
            self._behind = True
            self._hub.counts["withheld"] += 1
        elif delta.epoch != self._epoch or delta.seq != self._seq + 1:
            await self.snapshot()
        else:
            await self._deliver(delta)

    async def snapshot(self) -> None:
        """The whole state, unless the window is full: then once it no longer is."""
        now = self._hub.history.snapshot
        if not self._begun:
            return
        if now is None or self._window.full:
            self._behind = True
            return
        self._behind = False
        self._epoch, self._seq = now.epoch, now.seq
        self._count(now.seq)
        self._hub.counts["snapshots"] += 1
        await self._send(now.text(self.topics))

    async def ack(self, ack: Ack) -> None:
        """FrameError for an ack of something that was not sent."""
        self._window.ack(ack.seq)
        self.heard_at = monotonic()
        if self._behind and not self._window.full:
            await self.snapshot()

    async def _deliver(self, delta: Delta) -> None:
        self._epoch, self._seq = delta.epoch, delta.seq
        self._count(delta.seq)
        self._hub.counts["deltas"] += 1
        await self._send(delta.text(self.topics))

    def _count(self, seq: int) -> None:
        if not self.waiting:
            self.heard_at = monotonic()
        self._window.sent([seq])


class Hub:
    """All browsers of this process, and the newest few minutes of frames."""

    def __init__(self, keep: int = KEEP, capacity: int = CAPACITY) -> None:
        self.history = History(keep)
        self.counts: Counter[str] = Counter()
        self.subscribers: set[Subscriber] = set()
        self.capacity = capacity
        self.received_at = float("-inf")
        """Monotonic second of the newest frame that came in live."""
        self._arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self.subscribers) >= self.capacity

    def age(self) -> float:
        """Seconds since the newest frame came in."""
        return monotonic() - self.received_at

    async def fresh(self, within: float, patience: float) -> bool:
        """Wait up to ``patience`` seconds for a frame no older than ``within``; whether there is one."""
        deadline = monotonic() + patience
        while self.age() > within:
            left = deadline - monotonic()
            if left <= 0:
                return False
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return False
        return True

    async def restart(self, snapshot: Snapshot, *, live: bool = True) -> None:
        """A new epoch, or a gap: everybody gets the snapshot."""
        self.history.restart(snapshot)
        if live:
            self._mark()
        for number, subscriber in enumerate(tuple(self.subscribers), 1):
            await subscriber.snapshot()
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def add(self, delta: Delta) -> bool:
        """The next tick to everybody; False when it does not follow, and then nobody got anything."""
        if not self.history.add(delta):
            return False
        self._mark()
        for number, subscriber in enumerate(tuple(self.subscribers), 1):
            if subscriber in self.subscribers:
                await subscriber.delta(delta)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return True

    def _mark(self) -> None:
        self.received_at = monotonic()
        self._arrived.set()
