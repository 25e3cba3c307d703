"""A consumer's store in the service's own database: what it handled and what it heard; ``parked`` has what failed.

Everything about an event is in one transaction with its handler's work: its inbox row, so that a repeat does
nothing, its number within its key, so that a hole is noticed, or its place among the parked ones. What is known and
noted of a batch is asked and written by one statement for all of it; each handler has a savepoint of its own.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, text

from .events import tracing
from .events.cloudevent import CloudEvent, decode
from .events.gaps import Heard, begin
from .events.inbox import Kept
from .events.lanes import Key, Outcome, Park, key_of
from .events.retry import Permanent
from .events.transport.base import Delivery
from .holes import SqlGaps
from .lives import MAX_LIVES, Lives, Name
from .parked import AGAIN, BEHIND, DIED, MAX_ODD, ROWS, ParkedRows, clipped
from .statements import Many, Steps, of_the_database
from .store import Migration, Store, Tables

INBOX: Final = Tables(
    "inbox",
    Migration(
        "CREATE TABLE inbox (consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
        "handled_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (consumer, source, event_id))",
        "CREATE TABLE heard (consumer TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, "
        "last BIGINT NOT NULL, holes TEXT NOT NULL, missing BIGINT NOT NULL, PRIMARY KEY (consumer, source, key))",
        "CREATE INDEX heard_missing ON heard (consumer, missing) WHERE missing > 0",
        "CREATE TABLE trying (consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
        "lives INTEGER NOT NULL, PRIMARY KEY (consumer, source, event_id))",
        *ROWS,
    ),
)
"""What a consumer's store holds. ``inbox``: one row per handled event, kept as long as the state it guards: a replay
years later must still do nothing. ``heard``: numbers by key. ``trying``: events that were about to be handled, by how
many lives began to. And what ``parked`` keeps."""

SPENDS_S: Final = 0.25
"""After so long a batch ends early: the service's other writes wait for it."""
LOOK_AGAIN_S: Final = 0.1
"""After a parked event turned out to be another member's, or not to be tried."""
Handler = Callable[[Connection, CloudEvent], None]

NOTE: Final = Many(
    "INSERT INTO inbox (consumer, source, event_id, handled_at) SELECT :group, value ->> 0, value ->> 1, :now "
    "FROM {rows} WHERE true ON CONFLICT DO NOTHING RETURNING source, event_id"
)
UNNOTE: Final = Many(
    "DELETE FROM inbox WHERE consumer = :group AND (source, event_id) IN (SELECT value ->> 0, value ->> 1 FROM {rows})"
)
HAD: Final = text("SELECT 1 FROM inbox WHERE consumer = :group AND source = :source AND event_id = :id")

HANDLED: Final = Outcome("handled")
DUPLICATE: Final = Outcome("duplicate")


@dataclass(slots=True)
class _Batch:
    """What is known within one transaction, and is written at its end."""

    behind: set[Key] = field(default_factory=set)
    """Keys with a parked event."""
    noted: set[Name] = field(default_factory=set)
    """Events that have their inbox row, and were not handled yet."""
    failed: set[Key] = field(default_factory=set)
    heard: dict[Key, Heard] = field(default_factory=dict)
    new: dict[Key, Heard] = field(default_factory=dict)
    """Of ``heard``, what is to be written."""


class SqlInbox:
    """The Inbox of consumer group ``group`` over ``store``, for ``handler``, which runs in the transaction.

    ``gapless``: the consumer gets all events of every key it gets any of, so a number that is missing is an event that
    is missing. ``from_the_first``: it asked for the whole log.
    """

    def __init__(
        self,
        store: Store,
        group: str,
        handler: Handler,
        *,
        system: str = "",
        gapless: bool = False,
        from_the_first: bool = True,
    ) -> None:
        self._store = store
        self._group = group
        self._handler = handler
        self._system = system
        self._gapless = gapless
        self._from_the_first = from_the_first
        self._alone = asyncio.Lock()
        """What is noted as about to be handled is of one batch at a time: no other is blamed for how a life ended."""
        self.rows = ParkedRows(store, group)
        self.gaps = SqlGaps(store, group)
        self.lives = Lives(group)

    async def begin(self) -> None:
        await self._store.write(self.rows.begin)
        await self.rows.kept()

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        if careful:
            async with self._alone:
                outcomes = await self._carefully(batch)
        else:
            outcomes = await self._store.write(lambda connection: self._apply(connection, batch, careful=False))
        return outcomes + [Outcome("later")] * (len(batch) - len(outcomes))

    async def _carefully(self, batch: Sequence[Delivery]) -> list[Outcome]:
        """Note, then handle."""
        names = [_name(_event(delivery)) for delivery in batch]
        count = await self._store.write(lambda connection: self.lives.choose(connection, names))
        if not count:
            return [Outcome("failed", f"it ended the process {MAX_LIVES} times", DIED, permanent=True)]
        outcomes = await self._store.write(lambda connection: self._apply(connection, batch[:count], careful=True))
        self.lives.forget(names[:count])
        return outcomes

    async def park(self, park: Park) -> None:
        self.rows.check_room()
        now = time.time()
        outcome = park.outcome
        due = None if outcome.kind == DIED else now + (AGAIN.most_s if outcome.permanent else AGAIN.first_s)
        event = _event(park.delivery)

        def work(connection: Connection) -> None:
            self.rows.add(
                connection,
                park.delivery,
                reason=outcome.reason,
                kind=outcome.kind,
                stack=outcome.stack,
                tries=park.tries,
                first_at=now - park.since,
                due=due,
            )
            self.lives.end(connection, [_name(event)])
            batch = _Batch(heard=self._known(connection, [event]))
            self._hear(event, batch)
            self.gaps.write(connection, batch.new)

        await self._store.write(work)

    async def put_aside(self, batch: Sequence[Delivery]) -> list[bool]:
        room = MAX_ODD - self.rows.known.odd - self.rows.known.forged
        some = batch[: max(room, 0)]
        if some:
            await self._store.write(lambda connection: self.rows.add_odd(connection, some))
            await self.rows.kept()
        return [True] * len(some) + [False] * (len(batch) - len(some))

    async def resume(self) -> float:
        now = time.time()
        head = await self.rows.first_due()
        if head is None:
            return float("inf")
        if head.due > now:
            return float(head.due - now)
        async with self._alone:
            if not await self._store.write(lambda connection: self._begin_parked(connection, head.id)):
                return LOOK_AGAIN_S
            tried = await self._store.write(lambda connection: self._try_parked(connection, head.id))
            if tried is not None:
                self.lives.forget([tried])
        return 0.0

    async def kept(self) -> Kept:
        return await self.rows.kept()

    # -- inside a transaction ----------------------------------------------------------------------

    def _apply(self, connection: Connection, deliveries: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        """Handle them in order, as far as the time goes."""
        until = time.monotonic() + SPENDS_S
        events = [_event(delivery) for delivery in deliveries]
        behind = self.rows.holding(connection, {key_of(event) for event in events})
        free = [event for event in events if key_of(event) not in behind] if behind else events
        batch = _Batch(behind, self._note(connection, free), heard=self._known(connection, events))
        outcomes: list[Outcome] = []
        with Steps(connection) as steps:
            for delivery, event in zip(deliveries, events, strict=True):
                if outcomes and time.monotonic() > until:
                    break
                outcomes.append(self._one(connection, delivery, event, batch, steps))
        if batch.noted:
            # They failed, or are for another time.
            UNNOTE(connection, sorted(batch.noted), group=self._group)
        self.gaps.write(connection, batch.new)
        if careful:
            self.lives.end(connection, map(_name, events))
        return outcomes

    def _one(
        self, connection: Connection, delivery: Delivery, event: CloudEvent, batch: _Batch, steps: Steps
    ) -> Outcome:
        key, name = key_of(event), _name(event)
        if key in batch.failed:
            return Outcome("held")
        if key in batch.behind:
            outcome = self._one_behind(connection, delivery, event, batch)
            # Before another's failure undoes what was done since the last step.
            steps.keep()
            return outcome
        fresh = name in batch.noted
        with tracing.processing(delivery, self._system, self._group) as span:
            span.set_attribute("mc.duplicate", not fresh)
            if fresh:
                try:
                    self._handler(connection, event)
                    steps.keep()
                except Exception as error:
                    # Whatever a handler raises means this event; a fault of the database itself means all of them.
                    if of_the_database(error):
                        raise
                    steps.undo()
                    tracing.failed(span, error)
                    batch.failed.add(key)
                    return Outcome(
                        "failed", _reason(error), type(error).__name__, isinstance(error, Permanent), _stack(error)
                    )
                batch.noted.discard(name)
        self._hear(event, batch)
        return HANDLED if fresh else DUPLICATE

    def _one_behind(self, connection: Connection, delivery: Delivery, event: CloudEvent, batch: _Batch) -> Outcome:
        """An earlier event of its key is parked: it goes behind, unless it was dealt with before."""
        what = {"group": self._group, "source": event.source, "id": event.id}
        if connection.execute(HAD, what).first() is not None:
            return DUPLICATE
        self.rows.check_room()
        now = time.time()
        self.rows.add(connection, delivery, reason="", kind=BEHIND, stack="", tries=0, first_at=now, due=0.0)
        self._hear(event, batch)
        return Outcome("parked")

    def _note(self, connection: Connection, events: Collection[CloudEvent]) -> set[Name]:
        """Write their inbox rows; those that had none."""
        if not events:
            return set()
        rows = NOTE(connection, sorted(map(_name, events)), group=self._group, now=time.time())
        return {(row[0], row[1]) for row in rows}

    # -- numbers within a key ----------------------------------------------------------------------

    def _known(self, connection: Connection, events: Sequence[CloudEvent]) -> dict[Key, Heard]:
        if not self._gapless:
            return {}
        return self.gaps.known(connection, {key_of(event) for event in events if event.sequence})

    def _hear(self, event: CloudEvent, batch: _Batch) -> None:
        if not self._gapless or not event.sequence:
            return
        key = key_of(event)
        known = batch.heard.get(key)
        heard = (known or begin(event.sequence, from_the_first=self._from_the_first)).hear(event.sequence)
        if heard is not known:
            batch.heard[key] = batch.new[key] = heard

    # -- what is parked ----------------------------------------------------------------------------

    def _begin_parked(self, connection: Connection, identity: int) -> bool:
        """Note that the row is about to be tried; False when it ended too many lives, and waits for somebody's word."""
        row = self.rows.locked(connection, identity)
        if row is None:
            return False
        name = (row.source, row.event_id)
        if self.lives.begun(connection, name) >= MAX_LIVES:
            self.rows.died(connection, identity, f"it ended the process {MAX_LIVES} times")
            self.lives.end(connection, [name])
            return False
        self.lives.begin(connection, name)
        return True

    def _try_parked(self, connection: Connection, identity: int) -> Name | None:
        """Handle the row: gone on success, else later again."""
        row = self.rows.locked(connection, identity)
        if row is None:
            return None
        event = decode(row.body)
        delivery = Delivery(row.topic, row.part, row.position, row.tries + 1, row.body.encode(), event)
        with tracing.processing(delivery, self._system, self._group) as span, Steps(connection) as steps:
            try:
                if self._note(connection, [event]):
                    self._handler(connection, event)
                self.rows.free(connection, row, "handled")
                steps.keep()
            except Exception as error:
                if of_the_database(error):
                    raise
                steps.undo()
                tracing.failed(span, error)
                pause = AGAIN.most_s if isinstance(error, Permanent) else AGAIN.longest(row.tries + 1)
                self.rows.failed(
                    connection,
                    identity,
                    now=time.time(),
                    due=time.time() + pause,
                    reason=_reason(error),
                    kind=type(error).__name__,
                    stack=_stack(error),
                )
        name = (row.source, row.event_id)
        self.lives.end(connection, [name])
        return name


def _event(delivery: Delivery) -> CloudEvent:
    assert delivery.event is not None  # noqa: S101 - odd entries are put aside before
    return delivery.event


def _name(event: CloudEvent) -> Name:
    return (event.source, event.id)


def _reason(error: Exception) -> str:
    return str(error)[:500] or type(error).__name__


def _stack(error: Exception) -> str:
    return clipped("".join(traceback.format_exception(error)))
