"""Quantiles from the rollups' latency buckets. Pure.

Bucket b of a ladder holds durations from growth^b to growth^(b+1) units. A quantile is told at the bucket's
geometric middle, so it is off by a factor of growth^0.5 at most: 4.9% and 4.4%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ladder:
    """How durations are cut into buckets."""

    growth: float
    unit_ms: float

    def milliseconds(self, bucket: int) -> float:
        """The middle of a bucket."""
        return float(self.growth ** (bucket + 0.5) * self.unit_ms)

    @property
    def error(self) -> float:
        """The most by which a quantile told here differs from the true one, relative to it."""
        return float(self.growth**0.5 - 1)


SPANS = Ladder(1.1, 1e-6)
"""Of the rollups over spans, in nanoseconds (schema/0002_red.sql)."""
EDGE = Ladder(2 ** (1 / 8), 1e3)
"""Of the gateway's own counts: an OTLP exponential histogram of scale 3, in seconds (schema/0004_edge.sql)."""

Counts = Iterable[tuple[int, int]]
"""(bucket, count) pairs, in any order; a bucket may come more than once."""


def quantiles(
    counts: Counts, wanted: Sequence[float] = (0.5, 0.95, 0.99), ladder: Ladder = SPANS
) -> list[float | None]:
    """The wanted quantiles in milliseconds, by nearest rank; None for each when nothing was counted."""
    merged: dict[int, int] = {}
    for bucket, count in counts:
        merged[bucket] = merged.get(bucket, 0) + count
    total = sum(merged.values())
    if not total:
        return [None] * len(wanted)
    found: list[float | None] = []
    ascending = sorted(merged.items())
    for share in wanted:
        rank, below = max(1, math.ceil(share * total)), 0
        for bucket, count in ascending:
            below += count
            if below >= rank:
                found.append(ladder.milliseconds(bucket))
                break
    return found
