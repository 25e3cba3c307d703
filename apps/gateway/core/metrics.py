"""Counters and histograms of one worker. Pure: adding is a dict and list index, reading makes a copy.

Knows nothing of OTLP; apps.gateway.plane.report encodes what ``Metrics`` holds.
"""

from __future__ import annotations

from bisect import bisect_left

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds: those of the HTTP semantic conventions, and finer at the start."""

MAX_SERIES = 2000
"""Most series of request durations a worker keeps; past it requests count under one overflow series."""

Labels = tuple[str, str, str, int]
"""Route, service, method, status."""

OVERFLOW: Labels = ("", "", "_OTHER", 0)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


class Histogram:
    """Durations in explicit buckets."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.count = 0
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.count += 1
        self.total += seconds


class Metrics:
    """All that a worker counts."""

    __slots__ = ("counters", "durations")

    def __init__(self) -> None:
        self.durations: dict[Labels, Histogram] = {}
        self.counters: dict[tuple[str, str], int] = {}
        """(metric, reason) → count."""

    def request(self, labels: Labels) -> Histogram:
        """The histogram of these labels, made when new."""
        found = self.durations.get(labels)
        if found is None:
            if len(self.durations) >= MAX_SERIES:
                labels = OVERFLOW
            found = self.durations.setdefault(labels, Histogram())
        return found

    def count(self, metric: str, reason: str = "", by: int = 1) -> None:
        """Add to a counter."""
        key = (metric, reason)
        self.counters[key] = self.counters.get(key, 0) + by
