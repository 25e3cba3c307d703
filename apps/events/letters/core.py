"""What a failed delivery is, when it is tried again, and which failures are one and the same. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.kit.events.retry import Backoff

MAX_ERROR: Final = 500
MAX_STACK: Final = 8192
READ: Final = 2000
"""Characters of an error that its fingerprint is made of."""
FIRST_S: Final = 1.0
MOST_S: Final = 3600.0
"""Pauses between tries double from the first to the second."""

# In this order: what is longer and surer first. Each is linear in the text's length.
_SAME: Final = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", "<n>"),
        (r"\b[a-z][a-z0-9+.-]{1,15}://[^\s'\"<>)]+", "<address>"),
        (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?", "<time>"),
        (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", "<address>"),
        (r"'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”|«[^»]*»", "<text>"),
        (r"\[[0-9a-fA-F:.]{2,45}\](?::\d+)?|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b", "<address>"),
        (r"\b(?:[0-9a-fA-F]{1,4}:){2,7}[0-9a-fA-F]{0,4}\b|(?:[0-9a-fA-F]{1,4})?::[0-9a-fA-F]{1,4}\b", "<address>"),
        (r"\b0x[0-9a-fA-F]+\b", "<n>"),
        # Letters alone may be a word such as "defaced"; with a digit among them they are not.
        (r"\b(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b", "<n>"),
    )
)
_WORD: Final = re.compile(r"[\w-]+")
_NUMBER: Final = re.compile(r"[-+]?\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one delivery failed. ``permanent``: trying again can't help."""

    reason: str
    """The class, one slug of few: ``timeout``, ``refused``, ``http_4xx``, ``handler`` …"""
    error: str = ""
    """What was said, for people."""
    stack: str = ""
    permanent: bool = False
    retry_after_s: float = 0.0
    """What the other side asked to wait, at least."""


def normalised(error: str) -> str:
    """``error`` without what differs from one event to the next: numbers, ids, addresses, times, quoted texts."""
    said = error[:READ]
    for pattern, word in _SAME:
        said = pattern.sub(word, said)
    return " ".join(_NUMBER.sub("<n>", _WORD.sub(_without_numbers, said)).split())


def _without_numbers(word: re.Match[str]) -> str:
    """A word with so many digits is a number, such as ORD-2026-0001."""
    said = word[0]
    return "<n>" if sum(map(str.isdigit, said)) > 2 and not said.lstrip("-").isdigit() else said


def fingerprint(subscription: str, reason: str, error: str) -> str:
    """Names the group of letters that failed alike: 16 hex digits."""
    said = "\x1f".join((subscription, reason, normalised(error)))
    return hashlib.sha256(said.encode(errors="replace")).hexdigest()[:16]


def again_at(
    failure: Failure,
    tries: int,
    first_at: float,
    now: float,
    chance: Callable[[], float],
    *,
    attempts: int,
    age_s: float,
) -> float | None:
    """When to try again after ``tries`` tries, the first of them at ``first_at``; None when it is given up.

    ``attempts`` and ``age_s`` (0: no bound) are the subscription's own. All times are wall-clock seconds.
    """
    if failure.permanent:
        return None
    policy = Backoff(FIRST_S, MOST_S, attempts, age_s)
    at = policy.again_at(tries, first_at, now, chance())
    if at is None or not failure.retry_after_s:
        return at
    at = max(at, now + failure.retry_after_s)
    return None if age_s and at - first_at > age_s else at


def bounded(text: str, most: int) -> str:
    """``text`` that a database can hold: no NUL, no half surrogate, at most ``most`` characters, its end kept.

    The end of a stack names the error; its beginning is the same for all.
    """
    clean = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return clean if len(clean) <= most else "…" + clean[1 - most :]
