"""The outbox: events that are rows first, in the transaction of the change that they tell of, and then leave in order.

Owns what becomes of a batch that was offered to a broker, and says what a store of such rows must do. Pure.
Sent rows stay until retention forgets them: they are the publisher's own log, from which a broker that
lost its data is filled again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from .cloudevent import CloudEvent
from .retry import Backoff
from .transport.base import Rejected, Waits

RETRY: Final = Backoff(first_s=1.0, most_s=300.0)
"""Of an event that the broker refuses. It is never given up: it was accepted."""
MAX_REASON: Final = 500
MAX_TYPES: Final = 1000
"""Of which is told how much waits."""


class Row(msgspec.Struct, frozen=True):
    """An event that waits, at its ``position`` in the order of commits; the broker has refused it ``tries`` times."""

    position: int
    event: CloudEvent
    tries: int = 0
    topic: str = ""
    """Where a routing rule sends it; "" is its domain."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """A row that the broker refused, or that waits for its broker: not before ``due`` (wall clock) again, and its key
    waits with it."""

    position: int
    tries: int
    due: float
    reason: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a batch."""

    sent: list[int]
    put_off: list[PutOff]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and since when (wall-clock second of the oldest)."""

    waiting: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much of one type waits, and since when."""

    type: str
    count: int
    oldest: float


class OutboxStore(Protocol):
    """Rows of an outbox. Everything raises ``Away`` while the database does not answer."""

    async def claim(self, now: float, most: int, settled: Settlement | None = None) -> Sequence[Row]:
        """The oldest rows that are due, in order, none of a key with an earlier row that is put off or that somebody
        else has in hand. They are this store's until ``settle`` or ``release``, or until a lease lapses.
        ``settled``: what became of those before them is noted in the same transaction."""

    async def settle(self, settlement: Settlement, now: float) -> None:
        """Note what became of what was claimed; what somebody else has marked as sent stays so."""

    async def release(self) -> None:
        """Nothing became of it: give it back."""

    async def backlog(self) -> Backlog:
        """What waits."""

    async def waiting(self) -> Sequence[Waiting]:
        """The same by type, those with the most first; a thousand types at most."""

    async def forget(self, before: float, most: int) -> int:
        """Delete up to ``most`` rows that were sent before then; how many went. What waits stays, however old."""


def judge(
    rows: Sequence[Row], answers: Sequence[Rejected | Waits | None], now: float, chance: Callable[[], float]
) -> Settlement:
    """What becomes of ``rows`` by the broker's ``answers``, one each."""
    sent: list[int] = []
    put_off: list[PutOff] = []
    held: set[tuple[str, str]] = set()
    for row, refused in zip(rows, answers, strict=True):
        if refused is None:
            sent.append(row.position)
            continue
        tries, due = row.tries, now
        if isinstance(refused, Waits):
            due += refused.again_s
            key = (row.event.source, row.event.partition_key)
            if key in held:
                continue  # The first of its key that waits holds it back.
            held.add(key)
        else:
            tries += 1
            due += RETRY.pause(tries, chance())
        put_off.append(PutOff(row.position, tries, due, str(refused)[:MAX_REASON]))
    return Settlement(sent, put_off)
