"""Signs of life of a parent's workers, in a page of memory that they share: no message, no call, nothing to fill up.

A worker that hangs still holds its connections, and the socket gives it new ones. From outside nobody sees that: the
process is there, and takes its time.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping

from apps.lib.clock import monotonic


class Pulse:
    """A place for each of ``workers``; made before they are forked. ``limit_s``: silent for longer, a worker hangs."""

    def __init__(self, workers: int, limit_s: float) -> None:
        self.limit_s = limit_s
        self._beats = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")
        self._looked_at = monotonic()
        self._patient_until = 0.0

    @property
    def every_s(self) -> float:
        """How often a worker beats, and how often its parent looks."""
        return self.limit_s / 5

    def beat(self, place: int) -> None:
        """The worker at ``place`` works."""
        self._beats[place] = monotonic()

    def silent(self, places: Mapping[int, int]) -> dict[int, float]:
        """The workers (pid → place) that hang, and for how long they have been silent."""
        now = monotonic()
        if now - self._looked_at > 2 * self.every_s:
            # It was we who did not run, and perhaps they with us: a machine without time for anyone, a stop of the
            # whole group. They get the time to say that they are there.
            self._patient_until = now + self.limit_s
        self._looked_at = now
        if now < self._patient_until:
            return {}
        passed = {pid: now - self._beats[place] for pid, place in places.items()}
        return {pid: seconds for pid, seconds in passed.items() if seconds > self.limit_s}
