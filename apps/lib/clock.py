"""The two clocks. Pure code takes ``now`` as an argument; only shells call these."""

from __future__ import annotations

import time


def wall() -> float:
    """Seconds since the epoch: for what people and other machines see."""
    return time.time()


def monotonic() -> float:
    """Seconds that never go back: for durations, deadlines and limits inside one process."""
    return time.monotonic()
