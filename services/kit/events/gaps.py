"""Which numbers of a key were heard, and which are missing. Pure.

A publisher numbers the events of a partition key from 1 without gaps (the ``sequence`` attribute), so whoever
gets all of a key's events knows what it did not get: lost with a broker's data, or trimmed before it was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_HOLES: Final = 100
"""Of one key. Beyond, the two oldest become one that spans both: more is then called missing than is, never less."""


MAX_JUMP: Final = 10_000_000
"""A number that is further from the last is not believed: nobody lost so many, and whoever fetches what is missing
would ask for all of them."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of one key: every number from 1 to ``last`` that is in none of ``holes`` (both ends missing)."""

    last: int = 0
    holes: tuple[tuple[int, int], ...] = ()

    @property
    def missing(self) -> int:
        """How many numbers."""
        return sum(end - start + 1 for start, end in self.holes)

    def hear(self, sequence: int) -> Heard:
        """What is known after the event of this number; 0 is an event without one. What is too far from the last
        changes nothing."""
        if sequence - self.last > MAX_JUMP:
            return self
        if sequence > self.last:
            skipped = () if sequence == self.last + 1 else ((self.last + 1, sequence - 1),)
            return Heard(sequence, _bounded(self.holes + skipped))
        if sequence < 1 or not any(start <= sequence <= end for start, end in self.holes):
            return self
        holes: list[tuple[int, int]] = []
        for start, end in self.holes:
            if start <= sequence <= end:
                parts = ((start, sequence - 1), (sequence + 1, end))
                holes += [part for part in parts if part[0] <= part[1]]
            else:
                holes.append((start, end))
        return Heard(self.last, _bounded(tuple(holes)))


def begin(sequence: int, *, from_the_first: bool) -> Heard:
    """What is known before a key's first event. Whoever asked for the whole log misses what came before it."""
    return Heard() if from_the_first and sequence <= MAX_JUMP else Heard(max(sequence - 1, 0))


def _bounded(holes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    while len(holes) > MAX_HOLES:
        holes = ((holes[0][0], holes[1][1]), *holes[2:])
    return holes
