"""The archive's inbox: takes what others published from the bus into the log, each event once.

Knows Django's tables and the kit's Inbox protocol, and nothing of brokers. A batch is one transaction in one hop to the
database's thread. What the log can't take is put aside as a row; nothing is tried again by itself, for nothing of it
gets better by that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from django.db import DatabaseError, DataError, close_old_connections, connection, transaction
from django.db.models import F, JSONField, Sum, Value
from opentelemetry import metrics

from apps.events.archive import core
from apps.events.archive.core import Head, Refused
from apps.events.archive.models import Aside
from apps.events.models import Event, EventType, Stream, foreign_stream
from apps.events.nudges import nudge
from apps.events.storing import numbers_itself, take_positions
from apps.lib import clock
from apps.lib.aio import in_thread
from services.kit.events import signing
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.inbox import Kept
from services.kit.events.lanes import Outcome, Park
from services.kit.events.retry import Away
from services.kit.events.transport.base import Delivery

meter = metrics.get_meter(__name__)
archived = meter.create_counter("mc.archive.events", description="Events of others that came from the bus, by outcome")
untold = meter.create_counter("mc.archive.unknown", description="Events of others whose type has no schema")

OURS: Final = signing.CONTROL
MAX_ASIDE: Final = 1000
"""Rows; what comes beyond them is counted, and is with its publisher alone."""
MAX_BODY: Final = 64 * 1024
PROOFS: Final = {signing.KEY, signing.PROOF}
"""Of who published it to whoever reads the broker. They were checked, and say nothing to readers of the log."""
AT_ONCE: Final = 400
"""Rows in one statement."""

# Takes the rows' locks in the order of their names, whoever else archives.
TAKE = """
INSERT INTO {table} AS head (name, version) VALUES {rows}
ON CONFLICT (name) DO UPDATE SET version = head.version
RETURNING name, version, holes
"""

T = TypeVar("T")


class ArchiveInbox:
    """The Inbox over the event table. Any number of relays may have one."""

    async def begin(self) -> None:
        """Nothing: what is put aside waits for somebody's word."""

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        return await ask(take, batch)

    async def park(self, park: Park) -> None:
        """Nothing fails for good here: what can't be stored was put aside."""
        await self.put_aside([park.delivery])

    async def put_aside(self, batch: Sequence[Delivery]) -> list[bool]:
        return await ask(all_aside, batch)

    async def resume(self) -> float:
        return float("inf")

    async def kept(self) -> Kept:
        return await ask(kept)


async def ask(call: Callable[..., T], *args: Any) -> T:
    """``call`` in the database's thread; Away while the database is."""
    try:
        return await in_thread(_fresh, call, *args)
    except DatabaseError as error:
        raise Away(str(error)) from error


def _fresh(call: Callable[..., T], *args: Any) -> T:
    close_old_connections()
    return call(*args)


def take(batch: Sequence[Delivery]) -> list[Outcome]:
    """Store what is new of ``batch`` in one transaction; one outcome each."""
    try:
        with transaction.atomic():
            outcomes = _take(batch)
    except DataError as error:
        # One that the database refuses must not hold up the others. IntegrityError is another archive that was faster:
        # it is away for a moment, and then sees what is there.
        if len(batch) == 1:
            aside(batch[0], Refused("unstorable", str(error)[:500]))
            return [Outcome("parked")]
        return [outcome for one in batch for outcome in take([one])]
    for outcome in outcomes:
        archived.add(1, {"outcome": "aside" if outcome.what == "parked" else outcome.what})
    return outcomes


def _take(batch: Sequence[Delivery]) -> list[Outcome]:
    now = clock.wall()
    events = [delivery.event for delivery in batch if delivery.event is not None]
    others = [event for event in events if event.source != OURS]
    heads = _heads(sorted({_stream(event) for event in others})) if others else {}
    known = _known(others)
    rows: dict[tuple[str, int], CloudEvent] = {}
    new: list[Event] = []
    outcomes = []
    for delivery in batch:
        event = delivery.event
        assert event is not None  # noqa: S101 - odd entries are put aside before
        if event.source == OURS:
            # publish() wrote it into the log before it was on any broker.
            outcomes.append(Outcome("duplicate"))
            continue
        name, stream = (event.source, event.id), _stream(event)
        try:
            if (there := known.get(name)) is not None:
                if not core.says_the_same(there, event):
                    raise Refused("other_body")
                outcomes.append(Outcome("duplicate"))
                continue
            row = _row(event, heads[stream], rows, now)
        except Refused as refused:
            aside(delivery, refused)
            outcomes.append(Outcome("parked"))
            continue
        known[name] = rows[stream, row.version] = event
        new.append(row)
        outcomes.append(Outcome("handled"))
    _write(new, heads)
    return outcomes


def _row(event: CloudEvent, head: Head, rows: dict[tuple[str, int], CloudEvent], now: float) -> Event:
    stream = _stream(event)
    core.check(event)
    at = core.moment(event, now)
    if 0 < event.sequence <= head.version:
        taken = (stream, event.sequence) in rows
        if taken or Event.objects.filter(stream=stream, version=event.sequence).exists():
            raise Refused("number_taken", f"Number {event.sequence:,} of its key is another event's.")
    schema_version, dataschema = core.schema_of(event)
    return Event(
        event_id=event.id,
        type=event.type,
        source=event.source,
        subject=event.subject,
        time=at,
        datacontenttype=event.datacontenttype,
        data=Value(None, JSONField()) if event.data is None else event.data,
        extensions={name: value for name, value in event.extensions.items() if name not in PROOFS},
        schema_version=schema_version,
        dataschema=dataschema,
        stream=stream,
        version=head.number(event.sequence),
        numbered=event.sequence > 0,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        traceparent=event.traceparent,
    )


def _stream(event: CloudEvent) -> str:
    return foreign_stream(event.source, event.partition_key)


def _heads(names: Sequence[str]) -> dict[str, Head]:
    """How far these streams have come. They are ours until the transaction ends."""
    found: dict[str, Head] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            cursor.execute(TAKE.format(table=Stream._meta.db_table, rows=", ".join(["(%s, 0)"] * len(part))), part)
            for name, version, holes in cursor.fetchall():
                said = Stream._meta.get_field("holes").from_db_value(holes, None, connection)
                found[name] = Head(version, tuple((start, end) for start, end in said))
    return found


def _known(events: Sequence[CloudEvent]) -> dict[tuple[str, str], CloudEvent]:
    """Those that are in the log, as it has them."""
    rows = Event.objects.filter(
        event_id__in={event.id for event in events}, source__in={event.source for event in events}
    )
    return {(row.source, row.event_id): row.as_cloudevent() for row in rows} if events else {}


def _write(new: list[Event], heads: dict[str, Head]) -> None:
    if not new:
        return
    if numbers_itself():
        first = take_positions(len(new))
        for place, row in enumerate(new, first):
            row.position = place
    Event.objects.bulk_create(new)
    changed = [
        Stream(name=name, version=head.version, holes=head.holes, missing=head.missing)
        for name, head in heads.items()
        if head.changed
    ]
    Stream.objects.bulk_update(changed, ["version", "holes", "missing"], batch_size=AT_ONCE // 4)
    types = {row.type for row in new}
    told = set(EventType.objects.filter(name__in=types).values_list("name", flat=True))
    untold.add(sum(row.type not in told for row in new))
    transaction.on_commit(nudge)


def all_aside(batch: Sequence[Delivery]) -> list[bool]:
    """Keep entries that are no events, or are forged, in one transaction; see ``aside``."""
    with transaction.atomic():
        return [aside(one, Refused("forged" if one.forged else "no_event", one.fault[:500])) for one in batch]


def aside(delivery: Delivery, refused: Refused) -> bool:
    """Keep the entry as a row, or count it there; False when there are too many."""
    at = datetime.fromtimestamp(clock.wall(), UTC)
    digest = hashlib.sha256(delivery.raw + repr(delivery.event).encode(errors="replace")).hexdigest()
    again = Aside.objects.filter(digest=digest).update(times=F("times") + 1, last_at=at)
    if again:
        return True
    if Aside.objects.count() >= MAX_ASIDE:
        archived.add(1, {"outcome": "dropped"})
        return False
    event = delivery.event
    body = delivery.raw[:MAX_BODY].decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    Aside.objects.bulk_create(
        [
            Aside(
                digest=digest,
                reason=refused.reason,
                detail=refused.detail,
                source=event.source if event else "",
                event_id=event.id if event else "",
                type=event.type if event else "",
                key=event.partition_key if event else "",
                sequence=event.sequence if event else 0,
                body=body,
                topic=delivery.topic[:255],
                partition=delivery.partition,
                offset=delivery.position[:64],
                first_at=at,
                last_at=at,
            )
        ],
        ignore_conflicts=True,
    )
    return True


def kept() -> Kept:
    """What the archive holds besides the log, and what it knows that never came."""
    asides = Counter(Aside.objects.values_list("reason", flat=True))
    odd, forged = asides.pop(Aside.Reason.NO_EVENT, 0), asides.pop(Aside.Reason.FORGED, 0)
    missing = Stream.objects.filter(missing__gt=0).aggregate(total=Sum("missing"))["total"] or 0
    return Kept(parked=sum(asides.values()), odd=odd, forged=forged, missing=int(missing))
