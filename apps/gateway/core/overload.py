"""How many requests to one service may be in flight: up to a set ceiling, what the service keeps up with.

Additive increase, multiplicative decrease, as TCP finds its window: requests that time out bring the limit
down, good answers under load let it grow again. What is over the limit is refused at once instead of
timing out later. Pure; ``now`` is monotonic seconds.
"""

from __future__ import annotations

FLOOR = 8
"""The limit never falls below so many: too few to hurt, enough to see that the service is back."""

BACK_OFF = 0.7
CUT_SECONDS = 1.0
"""Timeouts come in crowds: the limit falls once for all that come within so long."""


class Gate:
    """Counts the requests of one service in one worker."""

    __slots__ = ("_cut_at", "ceiling", "in_flight", "limit", "refused")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.in_flight = 0
        self.refused = 0
        """How many were, since the start."""
        self.limit = float(ceiling)
        self._cut_at = float("-inf")

    def configure(self, ceiling: int) -> None:
        """Adopt a changed ceiling."""
        if ceiling != self.ceiling:
            self.ceiling = ceiling
            self.limit = float(ceiling)

    def enter(self) -> bool:
        """Let one more in; False when it has to be refused. Say ``leave`` once for each that is in."""
        if self.in_flight >= self.limit:
            self.refused += 1
            return False
        self.in_flight += 1
        return True

    def leave(self, served: bool) -> None:
        """One is done; ``served`` when the service answered it."""
        if served and self.limit < self.ceiling and 2 * self.in_flight >= self.limit:
            self.limit = min(self.ceiling, self.limit + 1 / self.limit)
        self.in_flight -= 1

    def timed_out(self, now: float) -> None:
        """A client was told that the service did not answer in time."""
        if now - self._cut_at >= CUT_SECONDS:
            self._cut_at = now
            self.limit = max(min(FLOOR, self.ceiling), self.limit * BACK_OFF)
