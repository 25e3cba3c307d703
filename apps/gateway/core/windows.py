"""Sliding windows of call outcomes, constant in time per call: the last N calls, or the last N seconds.

The semantics are resilience4j's FixedSizeSlidingWindowMetrics and SlidingTimeWindowMetrics. Pure.
"""

from __future__ import annotations

from typing import Protocol

FAILED, SLOW = 1, 2


class Window(Protocol):
    """Counts over a window."""

    calls: int
    failures: int
    slow: int

    def add(self, outcome: int, now: float) -> None:
        """Count one call; ``outcome`` is FAILED and SLOW or-ed together, 0 for a good one."""

    def retract(self, now: float) -> None:
        """The newest good call has failed after all. Which of the good ones it was matters to no rate."""

    def settle(self, now: float) -> None:
        """Forget what has left the window by ``now``."""


class CountWindow:
    """The last ``size`` calls."""

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slow")

    def __init__(self, size: int) -> None:
        self.size = size
        self._ring = bytearray(size)
        self._at = 0
        self.calls = self.failures = self.slow = 0

    def add(self, outcome: int, now: float) -> None:
        at = self._at
        if self.calls < self.size:
            self.calls += 1
        else:
            old = self._ring[at]
            self.failures -= old & FAILED
            self.slow -= old >> 1
        self._ring[at] = outcome
        self.failures += outcome & FAILED
        self.slow += outcome >> 1
        self._at = at + 1 if at + 1 < self.size else 0

    def retract(self, now: float) -> None:
        for back in range(1, self.calls + 1):
            if not self._ring[self._at - back] & FAILED:
                self._ring[self._at - back] |= FAILED
                self.failures += 1
                return

    def settle(self, now: float) -> None:
        return


class TimeWindow:
    """The last ``size`` seconds, in buckets of one second each."""

    __slots__ = ("_buckets", "_second", "calls", "failures", "size", "slow")

    def __init__(self, size: int) -> None:
        self.size = size
        self._buckets = [[0, 0, 0] for _ in range(size)]
        self._second: int | None = None
        self.calls = self.failures = self.slow = 0

    def add(self, outcome: int, now: float) -> None:
        self.settle(now)
        bucket = self._buckets[int(now) % self.size]
        bucket[0] += 1
        bucket[1] += outcome & FAILED
        bucket[2] += outcome >> 1
        self.calls += 1
        self.failures += outcome & FAILED
        self.slow += outcome >> 1

    def retract(self, now: float) -> None:
        self.settle(now)
        for back in range(self.size):
            bucket = self._buckets[(int(now) - back) % self.size]
            if bucket[1] < bucket[0]:
                bucket[1] += 1
                self.failures += 1
                return

    def settle(self, now: float) -> None:
        second = int(now)
        if self._second is None:
            self._second = second
        for passed in range(min(second - self._second, self.size)):
            bucket = self._buckets[(self._second + passed + 1) % self.size]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._second = max(self._second, second)
