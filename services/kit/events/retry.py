"""When to try again: exponential backoff with full jitter, and when to stop trying. Pure.

Full jitter (AWS, "Exponential backoff and jitter") draws the pause from the whole range, so that callers
that failed together come back apart. Chance is an argument: a number from 0 up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

_DOUBLINGS = 60
"""More would overflow and mean nothing: any bound is reached long before."""


class Permanent(Exception):
    """The work can't succeed however often it is tried; the message says why. It skips all retries."""


class Away(Exception):
    """Something that the work needs does not answer now. Nothing was changed, and it costs the work no attempt."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """A policy of retries. Pauses double from ``first_s`` up to ``most_s`` seconds."""

    first_s: float
    most_s: float
    attempts: int = 0
    """Tries after which it is given up; 0 is any number."""
    age_s: float = 0.0
    """Seconds since the first try after which it is given up; 0 is any age."""

    def longest(self, tries: int) -> float:
        """The most that a pause after this many tries can be."""
        return min(self.first_s * 2.0 ** min(max(tries, 1) - 1, _DOUBLINGS), self.most_s)

    def pause(self, tries: int, chance: float) -> float:
        """Seconds to wait after this many tries."""
        return self.longest(tries) * chance

    def again_at(self, tries: int, first_at: float, now: float, chance: float) -> float | None:
        """When to try again, on the clock of ``first_at`` and ``now``; None when it is to be given up."""
        if self.attempts and tries >= self.attempts:
            return None
        at = now + self.pause(tries, chance)
        return None if self.age_s and at - first_at > self.age_s else at
