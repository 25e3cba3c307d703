"""Ask each source on its own beat, so that a slow one delays nobody and an absent one only ages.

One question to a source at a time; an answer that comes late is taken at the next tick. The database is asked in
Django's thread, the engines in a small pool of our own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from django.db import close_old_connections

from apps.dashboard import sources
from apps.dashboard.judge.readings import Reading, Readings
from apps.lib.aio import in_thread
from apps.lib.clock import monotonic, wall

T = TypeVar("T")

EVERY = {"registry": 0.9, "plane": 0.9, "signs": 1.9, "traffic": 1.9, "changes": 1.9, "bus": 1.9, "processes": 1.9}
EVERY |= {"losses": 4.9, "reports": 4.9}
"""Seconds from one question to a source to the next."""


class Poller(Generic[T]):
    """One source: what it last said, and when to ask again."""

    def __init__(self, ask: Callable[[], Awaitable[T]], empty: T, every: float) -> None:
        self.reading: Reading[T] = Reading(empty)
        self.due_at = float("-inf")
        self._ask = ask
        self._every = every
        self._task: asyncio.Task[T] | None = None
        self._asked_at = 0.0

    def start(self) -> asyncio.Task[T] | None:
        """The question now under way, asked if it was due."""
        if self._task is None and monotonic() >= self.due_at:
            self._asked_at = wall()
            self.due_at = monotonic() + self._every
            self._task = asyncio.ensure_future(self._ask())
        return self._task

    def collect(self) -> str:
        """Take the answer if there is one; what happened, in a word, else nothing."""
        task = self._task
        if task is None or not task.done():
            return "late" if task is not None else ""
        self._task = None
        error = task.exception()
        if error is None:
            self.reading = Reading(task.result(), self._asked_at)
            return ""
        if not self.reading.error:
            sources.note(error)
        self.reading = Reading(self.reading.value, self.reading.at, sources.sentence(error))
        return "failed"

    def cancel(self) -> asyncio.Task[T] | None:
        """Give up the question under way."""
        if self._task is not None:
            self._task.cancel()
        return self._task


def _asked(call: Callable[[], T]) -> T:
    """Ask the database on a connection that works: outside a request nobody else replaces one that broke."""
    close_old_connections()
    return call()


class Pollers:
    """All sources of the state document."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        found = sources.Sources()
        # A thread each: an engine that hangs delays no other.
        self._pool = ThreadPoolExecutor(max_workers=len(found.engines), thread_name_prefix="live")
        self._pollers: dict[str, Poller[Any]] = {
            name: Poller(partial(in_thread, _asked, call), sources.nothing(name), EVERY[name])
            for name, call in found.database.items()
        }
        for name, call in found.engines.items():
            self._pollers[name] = Poller(partial(self._in_pool, call), sources.nothing(name), EVERY[name])

    async def _in_pool(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def hurry(self) -> None:
        """Something changed: what is cheap to ask is due at once."""
        for name in ("registry", "plane", "changes", "bus"):
            self._pollers[name].due_at = float("-inf")

    async def read(self, patience: float) -> Readings:
        """What every source last said, after ``patience`` seconds at most for those that are due."""
        tasks = [task for poller in self._pollers.values() if (task := poller.start()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        for name, poller in self._pollers.items():
            if what := poller.collect():
                self.counts[f"{name}_{what}"] += 1
        return Readings(**{name: poller.reading for name, poller in self._pollers.items()})

    async def close(self) -> None:
        """Give up every question under way and end the threads."""
        tasks = [task for poller in self._pollers.values() if (task := poller.cancel()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
