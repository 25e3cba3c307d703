"""Times as the rollups keep them: whole steps, and a bound on how many. Pure."""

from __future__ import annotations

import math

GRAIN = 10
"""Seconds: the finest step of the rollups."""
MOST_POINTS = 2_000
"""Of one series."""


def floor(at: float, step: int) -> int:
    """The start of the step that ``at`` lies in."""
    return max(0, int(at // step) * step)


def steps(since: float, until: float, step_s: float) -> tuple[int, int, int]:
    """First step's start, how many, and their length: whole tens of seconds, MOST_POINTS at most."""
    step = max(GRAIN, math.ceil(step_s / GRAIN) * GRAIN)
    first = floor(since, step)
    count = max(1, math.ceil((until - first) / step))
    if count > MOST_POINTS:
        step *= math.ceil(count / MOST_POINTS)
        first = floor(since, step)
        count = math.ceil((until - first) / step)
    return first, count, step
