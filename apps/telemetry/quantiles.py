"""Quantiles from the rollups' latency buckets. Pure.

Bucket b holds durations from 1.1^b to 1.1^(b+1) nanoseconds (schema/0002_red.sql). A quantile is told at
the bucket's geometric middle, so it is off by a factor of 1.1^0.5 at most: 4.9%.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

GROWTH = 1.1
RELATIVE_ERROR = GROWTH**0.5 - 1
"""0.049: the most by which a quantile told here differs from the true one."""

Counts = Iterable[tuple[int, int]]
"""(bucket, count) pairs, in any order; a bucket may come more than once."""


def milliseconds(bucket: int) -> float:
    """The middle of a bucket."""
    return float(GROWTH ** (bucket + 0.5)) / 1e6


def quantiles(counts: Counts, wanted: Sequence[float] = (0.5, 0.95, 0.99)) -> list[float | None]:
    """The wanted quantiles in milliseconds, by nearest rank; None for each when nothing was counted."""
    merged: dict[int, int] = {}
    for bucket, count in counts:
        merged[bucket] = merged.get(bucket, 0) + count
    total = sum(merged.values())
    if not total:
        return [None] * len(wanted)
    found: list[float | None] = []
    ladder = sorted(merged.items())
    for share in wanted:
        rank, below = max(1, math.ceil(share * total)), 0
        for bucket, count in ladder:
            below += count
            if below >= rank:
                found.append(milliseconds(bucket))
                break
    return found
