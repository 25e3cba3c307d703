"""Which exports are under way or were stored lately, so that one that comes again is not stored again. Pure.

A client that got no answer, or 503, sends the same bytes again (OTLP: retryable). Its export is known here by the
digest of those bytes: a second coming waits for the outcome of the first, or hears it at once. Where an
export has rows for several tables and only some were stored, the next coming stores the others.
"""

from __future__ import annotations

import hashlib
from asyncio import Future
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

MOST = 50_000
"""Exports remembered: 12 MB at most. The oldest is forgotten first."""
SECONDS = 600.0
"""How long one is remembered after it was last seen; exporters give up within a minute or two."""


def digest(signal: str, body: bytes) -> bytes:
    """The name of an export: of what it says, whatever it was packed with."""
    return hashlib.sha256(body + signal.encode()).digest()[:16]


@dataclass(slots=True, eq=False)
class Export:
    """One export and what is known of it."""

    key: bytes
    seen: float
    answer: bytes = b""
    """What its client is told once everything is stored."""
    tables: frozenset[str] | None = None
    """For which it has rows; None while it has not been read."""
    stored: set[str] = field(default_factory=set)
    """Of these: those that have its rows."""
    waiting: dict[str, Future[None]] = field(default_factory=dict)
    """Of these: those for which its rows are under way."""

    @property
    def complete(self) -> bool:
        """Everything of it is stored."""
        return self.tables is not None and self.tables <= self.stored


class Exports:
    """The exports that are remembered. One per event loop."""

    def __init__(self, *, most: int = MOST, seconds: float = SECONDS) -> None:
        self.repeated = 0
        """Exports that came again, since the start."""
        self.forgotten = 0
        """Exports forgotten before their time, because there were too many."""
        self._most = most
        self._seconds = seconds
        self._known: OrderedDict[bytes, Export] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def open(self, key: bytes, now: float) -> Export:
        """The export of this name: as it is known, or a new one."""
        export = self._known.get(key)
        if export is None:
            self._forget(now)
            export = self._known[key] = Export(key, now)
        else:
            self.repeated += 1
            export.seen = now
            self._known.move_to_end(key)
        return export

    def follow(self, export: Export, outcomes: Mapping[str, Future[None]]) -> None:
        """Take note of how the rows of ``export`` fare, by table."""
        export.waiting.update(outcomes)
        for table, outcome in outcomes.items():
            outcome.add_done_callback(partial(self._settle, export, table))

    def drop(self, export: Export) -> None:
        """Unless something of it is stored or under way, it is new when it comes again."""
        if not (export.stored or export.waiting or export.complete) and self._known.get(export.key) is export:
            del self._known[export.key]

    def _settle(self, export: Export, table: str, outcome: Future[None]) -> None:
        export.waiting.pop(table, None)
        # Asking for the exception also marks it as seen: the client may have left.
        if not outcome.cancelled() and outcome.exception() is None:
            export.stored.add(table)
        self.drop(export)

    def _forget(self, now: float) -> None:
        """Make room for one. What is under way is kept whatever its age: its rows are held anyhow."""
        for _ in range(len(self._known)):
            oldest = next(iter(self._known.values()))
            old = now - oldest.seen > self._seconds
            if not old and len(self._known) < self._most:
                return
            if oldest.waiting:
                self._known.move_to_end(oldest.key)
            else:
                self.forgotten += not old
                del self._known[oldest.key]
