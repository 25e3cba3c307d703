"""What a broker must do to carry events. Every implementation passes tests/contract/test_transport.py.

The promises, for implementers and callers alike:

- **Durability.** When ``publish`` says that an event was taken, the broker holds it as durably as it
  was set up to hold anything; the caller may forget it. When it says nothing (an exception), the
  event may or may not be there: publish it again. So delivery is *at least once*, and whoever
  consumes must tell events apart by their id.
- **Order.** Events of one partition key are delivered to a group in the order in which they were
  published, as long as none of them had to be delivered again.
- **Groups.** Each group gets every event that matches; within a group each event goes to one
  consumer at a time. A group remembers its place while nobody runs.
- **Ownership.** A delivery belongs to the consumer that got it until it calls ``ack`` or ``nack`` or
  goes away. After ``ack`` it is never seen again by that group. After ``nack``, or when its consumer
  has been silent for the claim time, it is delivered again, perhaps to another consumer.
- **Bounds.** A transport buffers no more than one batch in memory. A broker that keeps a bounded log
  drops the oldest, and the transport counts what a group thereby lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from services.kit.events.cloudevent import CloudEvent

Start = Literal["earliest", "latest"]


class TransportError(Exception):
    """The root of what can go wrong with a broker."""


class TransportAway(TransportError):
    """The broker can't be reached or takes nothing now. Nothing is known of the batch: publish it again later."""


class Rejected(TransportError):
    """The broker refused this one event, and will again. The message says why."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the transport had to leave behind since it was made."""

    trimmed: int = 0
    """Events that left the bounded log."""
    lost: int = 0
    """Events that left it before some group had read them, counted once per group."""
    malformed: int = 0
    """Entries that were no CloudEvents; they are acknowledged, so that they block nothing."""


class Delivery(Protocol):
    """One event in the hands of one consumer."""

    @property
    def event(self) -> CloudEvent:
        """What was published."""

    @property
    def attempt(self) -> int:
        """1 for the first delivery to this group, more when it is delivered again."""

    async def ack(self) -> None:
        """It is dealt with: never deliver it to this group again. TransportAway leaves that open."""

    async def nack(self) -> None:
        """It is not dealt with: deliver it again soon."""


class Transport(Protocol):
    """A broker. Safe for one event loop; ``close`` gives back what it holds."""

    async def publish(self, batch: Sequence[CloudEvent]) -> list[Rejected | None]:
        """Hand over ``batch`` in order; one answer per event, None for taken. TransportAway: see above."""

    def subscribe(
        self, patterns: Sequence[str], group: str, consumer: str, *, start: Start = "earliest"
    ) -> AsyncIterator[Delivery]:
        """Events whose type matches one of ``patterns``, for as long as it is iterated.

        ``group`` is durable and ``consumer`` unique within it. ``start`` says where a group that is
        new to a stream begins. Waits and reconnects while the broker is away; PatternError for a
        broken pattern.
        """

    def stats(self) -> Stats:
        """What was left behind."""

    async def close(self) -> None:
        """Give back connections. Iterations under way end."""
