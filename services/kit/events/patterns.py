"""Patterns over event types, as AMQP topics read them: ``*`` is one segment, ``#`` any number, none included.

Pure. ``matches`` decides in memory and ``to_regex`` says the same thing to a database, so a
subscription and a query never disagree about what a pattern means.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_LENGTH = 128
MAX_DEEP = 3
"""Most ``#`` in one pattern: matching costs grow by a power for each."""

SEGMENT = re.compile(r"[a-z0-9][a-z0-9_-]*")


class PatternError(ValueError):
    """The text is not a pattern; the message says why in one sentence."""


def segments(pattern: str) -> tuple[str, ...]:
    """The pattern's parts; PatternError when one is neither a word, ``*`` nor ``#``."""
    if not pattern or len(pattern) > MAX_LENGTH:
        raise PatternError(f"A pattern has 1 to {MAX_LENGTH} characters.")
    parts = tuple(pattern.split("."))
    for part in parts:
        if part not in {"*", "#"} and not SEGMENT.fullmatch(part):
            raise PatternError(f"{part!r} in pattern {pattern!r} is neither a lower-case word, '*' nor '#'.")
    if parts.count("#") > MAX_DEEP:
        raise PatternError(f"A pattern holds '#' at most {MAX_DEEP} times.")
    return parts


@lru_cache(maxsize=1024)
def to_regex(pattern: str) -> str:
    """An anchored regular expression, in the dialect that Python and PostgreSQL share."""
    parts = list(segments(pattern))
    out = "^"
    started = False
    for at, part in enumerate(parts):
        if part == "#":
            if started:
                out += r"(\.[^.]+)*"
            elif all(rest == "#" for rest in parts[at:]):
                return "^.*$"
            else:
                out += r"([^.]+\.)*"
            continue
        out += (r"\." if started else "") + ("[^.]+" if part == "*" else re.escape(part))
        started = True
    return out + "$"


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(to_regex(pattern))


def matches(pattern: str, event_type: str) -> bool:
    """Whether ``event_type`` falls under ``pattern``; PatternError for a broken pattern."""
    return _compiled(pattern).fullmatch(event_type) is not None


def literal_prefix(pattern: str) -> str:
    """The longest text that every match starts with: what an index can narrow by."""
    fixed: list[str] = []
    for part in segments(pattern):
        if part in {"*", "#"}:
            break
        fixed.append(part)
    return ".".join(fixed)


def domains(patterns: list[str]) -> set[str] | None:
    """The first segments that ``patterns`` can match; None when one of them may match any domain."""
    found: set[str] = set()
    for pattern in patterns:
        first = segments(pattern)[0]
        if first in {"*", "#"}:
            return None
        found.add(first)
    return found
