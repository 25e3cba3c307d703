"""Which events a decision rests on: matches, and the boundary that a publisher asks to find unchanged. Pure.

A version guards one stream. Where a rule spans several (a course has 30 places *and* a student takes five
courses) its boundary is dynamic: all events that match, wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.kit.events import patterns

MAX_MATCHES = 16
MAX_TEXTS = 32
"""Types, or tags, in one match."""


@dataclass(frozen=True, slots=True)
class Match:
    """Events of any of these types (patterns: ``course.#``) that carry all of these tags.

    An empty ``subject`` or ``stream`` is any. PatternError for a broken pattern, ValueError for a match
    without types or with more texts than anyone needs.
    """

    types: tuple[str, ...] = ("#",)
    tags: tuple[str, ...] = ()
    subject: str = ""
    stream: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.types) <= MAX_TEXTS or len(self.tags) > MAX_TEXTS:
            raise ValueError(f"A match has 1 to {MAX_TEXTS} types and at most {MAX_TEXTS} tags.")
        for pattern in self.types:
            patterns.segments(pattern)


@dataclass(frozen=True, slots=True)
class Boundary:
    """Append only if no event after position ``after`` fits one of ``matches``."""

    after: int
    matches: tuple[Match, ...]

    def __post_init__(self) -> None:
        if self.after < 0 or not 0 < len(self.matches) <= MAX_MATCHES:
            raise ValueError(f"A boundary has a position from 0 and 1 to {MAX_MATCHES} matches.")
