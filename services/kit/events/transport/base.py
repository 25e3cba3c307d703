"""What a broker must do to carry events. Every implementation passes tests/contract/test_transport.py.

The promises, for implementers and callers alike:

- **Durability.** When ``publish`` says that an event was taken, the broker holds it as durably as it was set up to
  hold anything; the caller may forget it. When it says nothing (an exception), the event may or may not be there:
  publish it again. So delivery is *at least once*, and whoever consumes must tell events apart by source and id.
- **Partitions and order.** Events of one partition key go to one of ``PARTITIONS`` partitions of their topic. A
  partition is read by one member of a group at a time, in the order in which it was published.
- **Groups.** Each group gets every event that matches. It remembers its place while nobody runs.
- **Leases.** What ``fetch`` gave is its member's until it is settled (``ack``, ``nack``, ``dead_letter``), as long as
  the member calls ``fetch`` or ``extend`` at least once within every ``lease_s``. One that is silent for longer, or
  dies, loses its partitions to the group's others; ``extend`` tells it which. What it settles of those afterwards
  changes nothing, and counts as ``late``. A lost partition comes back only after ``extend`` has told of it, or all of
  it was settled.
- **Giving back.** After ``nack`` the partition is delivered again from there on, in order. Everything of it that came
  later and is not settled is given back with it.
- **Bounds.** A subscription has at most ``most`` deliveries in hand and buffers a fixed number more. A broker that
  keeps a bounded log drops the oldest, and the transport counts what a group thereby lost.
- **Away.** While the broker is away ``fetch`` waits and comes back by itself; everything else says TransportAway,
  within seconds, and may be asked again.
- **Odd entries.** What is no CloudEvent is delivered too, as a Delivery without an event: its consumer decides where it
  goes, and it blocks nobody once it is settled.

Retrying, parking, effects once, routing and replay are above this seam, and the same for every broker.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec

from .. import patterns as types
from ..cloudevent import MAX_DATA, CloudEvent, EventError, decode

Start = Literal["earliest", "latest"] | float
"""Where a group begins: with what the broker still has, with what comes, or at a wall-clock second."""
Place = tuple[str, int]
"""A partition: its topic and number."""

PARTITIONS: Final = 8
"""Of every topic: how many members of a group can work at once."""
MAX_BYTES: Final = MAX_DATA + 64 * 1024
"""Of one event with its attributes: no broker is given more, and nothing larger is read as an event."""
ANSWER_S: Final = 5.0
"""A broker that has not answered for so long is away."""


class TransportError(Exception):
    """The root of what can go wrong with a broker."""


class TransportAway(TransportError):
    """The broker can't be reached or takes nothing now. Nothing is known of what was asked: ask again later."""


class Rejected(TransportError):
    """The broker refused this one event, and will again. The message says why."""


class Waits(TransportError):
    """This one event can't go now, while others can: it is worth another try in ``again_s`` seconds."""

    def __init__(self, why: str, again_s: float) -> None:
        super().__init__(why)
        self.again_s = again_s


class Outgoing(msgspec.Struct, frozen=True):
    """An event on its way out."""

    event: CloudEvent
    topic: str = ""
    """Where a routing rule sends it; "" is its domain."""
    key: str = ""
    """What a routing rule has choose its partition; "" is its partition key."""

    @property
    def goes_to(self) -> str:
        """Its topic."""
        return self.topic or self.event.domain

    @property
    def by(self) -> str:
        """What chooses its partition; "" when it has no order to keep."""
        return self.key or self.event.partition_key


class Delivery(msgspec.Struct, frozen=True):
    """One entry in the hands of one member."""

    topic: str
    partition: int
    position: str
    """Names the entry within its partition, for the broker and for people."""
    attempt: int
    """1 for the first delivery, more for another; a lower bound, since not every broker remembers other members'."""
    raw: bytes
    """The event's data, or all of it, as the broker has it."""
    event: CloudEvent | None
    """None for an entry that is no event of ours."""
    fault: str = ""
    """Why there is no event."""
    forged: bool = False
    """There is no event because nobody who may speak for its source is known to have said it; ``raw`` has all of it."""
    broker: str = ""
    """Which one it came from, where several are read."""

    @property
    def place(self) -> Place:
        """Its partition."""
        return (f"{self.broker}/{self.topic}" if self.broker else self.topic, self.partition)


@dataclass(slots=True)
class Stats:
    """What the transport met since it was made."""

    trimmed: int = 0
    """Events that left the bounded log."""
    lost: int = 0
    """Events that left it before some group had read and acknowledged them, counted once per group."""
    malformed: int = 0
    """Entries that were no CloudEvents."""
    unrouted: int = 0
    """Published events that no queue took."""
    late: int = 0
    """Deliveries that were settled after their partition had been lost."""
    breaks: int = 0
    """How often reading was cut off, or the broker showed that it had forgotten something (a group, a topic, a queue,
    the end of a log): it may have lost what nobody had read."""


class Subscription(Protocol):
    """One member's reading. Calls may overlap, except that there is one ``fetch`` at a time."""

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        """What there is, in order within each partition; none after ``wait_s`` without any or with ``most`` in hand."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are dealt with: never deliver them to this group again. TransportAway leaves that open."""

    async def extend(self) -> set[Place]:
        """Renew the lease of all that is in hand; the partitions that were lost, whose deliveries are to be dropped."""

    async def nack(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        """Give them back: each one's partition is delivered again from there, in order, not before ``delay_s``."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """The last resort: put it aside with its origin in the group's dead topic, then acknowledge it."""

    async def seek(self, start: Start) -> None:
        """Where the whole group goes on reading. TransportError when this member has something in hand; no other member
        should, and a broker may ask that there be none."""

    async def close(self) -> None:
        """Let go of every partition, at once, for the others. What is in hand is delivered again."""


class Transport(Protocol):
    """A broker. Safe for one event loop; ``close`` gives back what it holds."""

    @property
    def name(self) -> str:
        """Which kind of broker (OpenTelemetry's ``messaging.system``)."""

    @property
    def whole(self) -> str:
        """What ``lag`` calls the topic where a group has one for all of them; "" where each has its own."""

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Rejected | Waits | None]:
        """Hand over ``batch`` in order; one answer per event, None for taken. TransportAway: see above."""

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> Subscription:
        """Read what matches one of ``patterns``, as ``member`` of the durable ``group``.

        Reads the topics that the patterns' domains name, and ``topics`` beside them. ``start`` says where a group that
        is new begins; what first comes later it reads from its beginning. Makes what it needs on the broker: at once,
        or when the broker is back. PatternError for a broken pattern.
        """

    def carriers(self, event_type: str) -> Collection[str]:
        """The kinds of broker that an event of this type goes to."""

    async def groups(self) -> set[str]:
        """Every group that ever subscribed here, whether somebody of it runs or not."""

    async def lag(self, group: str) -> dict[str, int]:
        """Events that the group has not yet acknowledged, by ``topic/partition``; nothing of a group that never was."""

    def stats(self) -> Stats:
        """What was met until now."""

    async def close(self) -> None:
        """Give back connections, those of subscriptions too."""


def partition_of(out: Outgoing) -> int:
    """Where Redis and RabbitMQ put an event: by its key, and one without by its id, for it has no order to keep."""
    return zlib.crc32((out.by or out.event.id).encode()) % PARTITIONS


def too_large(size: int) -> Rejected:
    """The answer for an event of ``size`` bytes."""
    return Rejected(f"The event is {size:,} bytes; the most is {MAX_BYTES:,}. Send a reference instead.")


def read(raw: bytes) -> tuple[CloudEvent | None, str]:
    """The event in structured mode, or None and why not."""
    if len(raw) > MAX_BYTES:
        return None, f"The entry is {len(raw):,} bytes; the most is {MAX_BYTES:,}."
    try:
        return decode(raw), ""
    except EventError as error:
        return None, str(error)


class Wanted:
    """What a subscription asks for; PatternError for a broken pattern."""

    def __init__(self, patterns: Sequence[str], topics: Collection[str]) -> None:
        self.patterns = list(patterns)
        domains = types.domains(self.patterns)
        self.topics: frozenset[str] | None = None if domains is None else frozenset(domains | {*topics})
        """None for every topic there is."""
        self._known: dict[str, bool] = {}

    def __contains__(self, event_type: str) -> bool:
        known = self._known.get(event_type)
        if known is None:
            if len(self._known) >= 1000:
                # Types are few; whoever invents them without end costs time here, not memory.
                self._known.clear()
            known = self._known[event_type] = any(types.matches(pattern, event_type) for pattern in self.patterns)
        return known
