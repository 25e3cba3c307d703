"""A consumer's store in the service's own database: what it handled and what it heard; ``parked`` has what failed.

Everything about an event is in one transaction with its handler's work: its inbox row, so that a repeat does
nothing, its number within its key, so that a hole is noticed, or its place among the parked ones.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from .events import tracing
from .events.cloudevent import CloudEvent, decode
from .events.consumer import Kept
from .events.gaps import Heard, begin
from .events.lanes import Key, Outcome, Park, key_of
from .events.retry import Permanent
from .events.transport.base import Delivery
from .holes import SqlGaps
from .parked import AGAIN, BEHIND, DIED, MAX_ODD, ParkedRows, clipped
from .store import Migration, Store

INBOX = Migration(
    (
        "CREATE TABLE inbox (consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
        "handled_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (consumer, source, event_id))",
    )
)
"""One row per handled event, kept as long as the state it guards: a replay years later must still do nothing."""

PARKED = Migration(
    (
        "CREATE TABLE parked (id {serial}, consumer TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, "
        "event_id TEXT NOT NULL, body TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, "
        "position TEXT NOT NULL, reason TEXT NOT NULL, kind TEXT NOT NULL, tries INTEGER NOT NULL, "
        "first_at DOUBLE PRECISION NOT NULL, last_at DOUBLE PRECISION NOT NULL, "
        # NULL: only by somebody's word.
        "due DOUBLE PRECISION, UNIQUE (consumer, source, event_id))",
        "CREATE INDEX parked_by_key ON parked (consumer, source, key, id)",
        "CREATE TABLE heard (consumer TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, last BIGINT NOT NULL, "
        "holes TEXT NOT NULL, missing BIGINT NOT NULL, PRIMARY KEY (consumer, source, key))",
        "CREATE INDEX heard_missing ON heard (consumer, missing) WHERE missing > 0",
        "CREATE TABLE trying (consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
        "lives INTEGER NOT NULL, PRIMARY KEY (consumer, source, event_id))",
    )
)
"""``parked``: a queue per key, whose first row failed and whose others wait behind it. ``heard``: numbers by key.
``trying``: events that were about to be handled, by how many lives began to."""

SPENDS_S: Final = 0.25
"""After so long a batch ends early: the service's other writes wait for it."""
MAX_LIVES: Final = 3
"""An event that this many lives of the process ended with is not tried again by itself."""
LOOK_AGAIN_S: Final = 0.1
"""After a parked event turned out to be another member's, or not to be tried."""
Handler = Callable[[Connection, CloudEvent], None]


@dataclass(slots=True)
class _Batch:
    """What is known within one transaction, and is written at its end."""

    failed: set[Key] = field(default_factory=set)
    behind: dict[Key, bool] = field(default_factory=dict)
    heard: dict[Key, Heard] = field(default_factory=dict)


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
        self._marked: set[tuple[str, str]] = set()
        self._alone = asyncio.Lock()
        """What is noted as about to be handled is of one batch at a time: no other is blamed for how a life ended."""
        self.rows = ParkedRows(store, group)
        self.gaps = SqlGaps(store, group)

    async def begin(self) -> None:
        await self._store.write(self.rows.begin)
        await self.rows.kept()

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        if careful:
            async with self._alone:
                outcomes = await self._carefully(batch)
        else:
            outcomes = await self._store.write(lambda connection: self._apply(connection, batch, careful=False))
        return outcomes + _later(batch[len(outcomes) :])

    async def _carefully(self, batch: Sequence[Delivery]) -> list[Outcome]:
        """Note, then handle."""
        chosen = await self._store.write(lambda connection: self._mark(connection, batch))
        if not chosen:
            return [Outcome("failed", f"it ended the process {MAX_LIVES} times", DIED, permanent=True)]
        outcomes = await self._store.write(lambda connection: self._apply(connection, chosen, careful=True))
        self._marked.difference_update(_name(delivery) for delivery in chosen)
        return outcomes

    async def park(self, park: Park) -> None:
        self.rows.check_room()
        now = time.time()
        outcome = park.outcome
        due = None if outcome.kind == DIED else now + (AGAIN.most_s if outcome.permanent else AGAIN.first_s)

        def work(connection: Connection) -> None:
            batch = _Batch()
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
            assert park.delivery.event is not None  # noqa: S101 - only events are parked
            self._unmark(connection, _name(park.delivery))
            self._hear(connection, park.delivery.event, batch)
            self._write(connection, batch)

        await self._store.write(work)

    async def put_aside(self, delivery: Delivery) -> bool:
        if self.rows.known.odd + self.rows.known.forged >= MAX_ODD:
            return False
        await self._store.write(lambda connection: self.rows.add_odd(connection, delivery))
        await self.rows.kept()
        return True

    async def resume(self) -> float:
        now = time.time()
        head = await self.rows.first_due()
        if head is None:
            return float("inf")
        if head.due > now:
            return float(head.due - now)
        async with self._alone:
            if not await self._store.write(lambda connection: self._mark_parked(connection, head.id)):
                return LOOK_AGAIN_S
            marked = await self._store.write(lambda connection: self._try_parked(connection, head.id))
            if marked is not None:
                self._marked.discard(marked)
        return 0.0

    async def kept(self) -> Kept:
        return await self.rows.kept()

    # -- inside a transaction ----------------------------------------------------------------------

    def _apply(self, connection: Connection, deliveries: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        """Handle them in order, as far as the time goes."""
        until = time.monotonic() + SPENDS_S
        batch = _Batch()
        outcomes: list[Outcome] = []
        for delivery in deliveries:
            if outcomes and time.monotonic() > until:
                break
            outcomes.append(self._one(connection, delivery, batch))
        self._write(connection, batch)
        if careful:
            for delivery in deliveries:
                self._unmark(connection, _name(delivery))
        return outcomes

    def _one(self, connection: Connection, delivery: Delivery, batch: _Batch) -> Outcome:
        event = delivery.event
        assert event is not None  # noqa: S101 - odd entries are put aside before
        key = key_of(event)
        if key in batch.failed:
            return Outcome("held")
        if self._is_behind(connection, key, batch):
            return self._one_behind(connection, delivery, event, batch)
        with tracing.processing(delivery, self._system, self._group) as span:
            try:
                with connection.begin_nested():
                    fresh = self._note(connection, event)
                    if fresh:
                        self._handler(connection, event)
            except Exception as error:
                # Whatever a handler raises means this event; a fault of the database itself means all of them.
                if _of_the_database(error):
                    raise
                tracing.failed(span, error)
                batch.failed.add(key)
                return Outcome(
                    "failed", _reason(error), type(error).__name__, isinstance(error, Permanent), _stack(error)
                )
            span.set_attribute("mc.duplicate", not fresh)
        self._hear(connection, event, batch)
        return Outcome("handled" if fresh else "duplicate")

    def _one_behind(self, connection: Connection, delivery: Delivery, event: CloudEvent, batch: _Batch) -> Outcome:
        """An earlier event of its key is parked: it goes behind, unless it was dealt with before."""
        known = connection.execute(
            text("SELECT 1 FROM inbox WHERE consumer = :group AND source = :source AND event_id = :id"),
            {"group": self._group, "source": event.source, "id": event.id},
        ).first()
        if known is not None:
            return Outcome("duplicate")
        self.rows.check_room()
        now = time.time()
        self.rows.add(connection, delivery, reason="", kind=BEHIND, stack="", tries=0, first_at=now, due=0.0)
        self._hear(connection, event, batch)
        return Outcome("parked")

    def _note(self, connection: Connection, event: CloudEvent) -> bool:
        """Write the inbox row; False when there is one."""
        added = connection.execute(
            text(
                "INSERT INTO inbox (consumer, source, event_id, handled_at) VALUES (:group, :source, :id, :now) "
                "ON CONFLICT DO NOTHING"
            ),
            {"group": self._group, "source": event.source, "id": event.id, "now": time.time()},
        )
        return added.rowcount > 0

    def _is_behind(self, connection: Connection, key: Key, batch: _Batch) -> bool:
        known = batch.behind.get(key)
        if known is None:
            known = batch.behind[key] = self.rows.holds(connection, key)
        return known

    # -- numbers within a key ----------------------------------------------------------------------

    def _hear(self, connection: Connection, event: CloudEvent, batch: _Batch) -> None:
        if not self._gapless or not event.sequence:
            return
        key = key_of(event)
        known = batch.heard.get(key)
        if known is None:
            row = connection.execute(
                text("SELECT last, holes FROM heard WHERE consumer = :group AND source = :source AND key = :key"),
                {"group": self._group, "source": key[0], "key": key[1]},
            ).first()
            if row is None:
                known = begin(event.sequence, from_the_first=self._from_the_first)
            else:
                known = Heard(row.last, tuple((start, end) for start, end in json.loads(row.holes)))
        batch.heard[key] = known.hear(event.sequence)

    def _write(self, connection: Connection, batch: _Batch) -> None:
        for (source, key), heard in batch.heard.items():
            connection.execute(
                text(
                    "INSERT INTO heard (consumer, source, key, last, holes, missing) "
                    "VALUES (:group, :source, :key, :last, :holes, :missing) ON CONFLICT (consumer, source, key) "
                    "DO UPDATE SET last = excluded.last, holes = excluded.holes, missing = excluded.missing"
                ),
                {
                    "group": self._group,
                    "source": source,
                    "key": key,
                    "last": heard.last,
                    "holes": json.dumps(heard.holes),
                    "missing": heard.missing,
                },
            )

    # -- events that may end the process -----------------------------------------------------------

    def _mark(self, connection: Connection, batch: Sequence[Delivery]) -> list[Delivery]:
        """Those of ``batch`` to handle now, each noted; one that earlier lives ended with goes alone, none that too
        many did."""
        chosen: list[Delivery] = []
        for delivery in batch:
            lives = self._lives(connection, _name(delivery))
            if lives and chosen:
                break
            if lives >= MAX_LIVES:
                return []
            chosen.append(delivery)
            self._count_life(connection, _name(delivery))
            if lives:
                break
        return chosen

    def _lives(self, connection: Connection, name: tuple[str, str]) -> int:
        """How many earlier lives began to handle it and told of no end."""
        if name in self._marked:
            return 0
        row = connection.execute(
            text("SELECT lives FROM trying WHERE consumer = :group AND source = :source AND event_id = :id"),
            {"group": self._group, "source": name[0], "id": name[1]},
        ).first()
        return 0 if row is None else int(row.lives)

    def _count_life(self, connection: Connection, name: tuple[str, str]) -> None:
        # Once a life: what a database that went away cut off did not end the process.
        if name in self._marked:
            return
        connection.execute(
            text(
                "INSERT INTO trying (consumer, source, event_id, lives) VALUES (:group, :source, :id, 1) "
                "ON CONFLICT (consumer, source, event_id) DO UPDATE SET lives = trying.lives + 1"
            ),
            {"group": self._group, "source": name[0], "id": name[1]},
        )
        self._marked.add(name)

    def _unmark(self, connection: Connection, name: tuple[str, str]) -> None:
        connection.execute(
            text("DELETE FROM trying WHERE consumer = :group AND source = :source AND event_id = :id"),
            {"group": self._group, "source": name[0], "id": name[1]},
        )

    # -- what is parked ----------------------------------------------------------------------------

    def _mark_parked(self, connection: Connection, identity: int) -> bool:
        """Note that the row is about to be tried; False when it ended too many lives, and waits for somebody's word."""
        row = self.rows.locked(connection, identity)
        if row is None:
            return False
        name = (row.source, row.event_id)
        if self._lives(connection, name) >= MAX_LIVES:
            self.rows.died(connection, identity, f"it ended the process {MAX_LIVES} times")
            self._unmark(connection, name)
            return False
        self._count_life(connection, name)
        return True

    def _try_parked(self, connection: Connection, identity: int) -> tuple[str, str] | None:
        """Handle the row: gone on success, else later again."""
        row = self.rows.locked(connection, identity)
        if row is None:
            return None
        event = decode(row.body)
        delivery = Delivery(row.topic, row.part, row.position, row.tries + 1, row.body.encode(), event)
        with tracing.processing(delivery, self._system, self._group) as span:
            try:
                with connection.begin_nested():
                    if self._note(connection, event):
                        self._handler(connection, event)
                    self.rows.free(connection, row, "handled")
            except Exception as error:
                if _of_the_database(error):
                    raise
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
        self._unmark(connection, (row.source, row.event_id))
        return (row.source, row.event_id)


def _name(delivery: Delivery) -> tuple[str, str]:
    assert delivery.event is not None  # noqa: S101 - odd entries are put aside before
    return (delivery.event.source, delivery.event.id)


def _later(deliveries: Sequence[Delivery]) -> list[Outcome]:
    return [Outcome("later") for _ in deliveries]


def _reason(error: Exception) -> str:
    return str(error)[:500] or type(error).__name__


def _stack(error: Exception) -> str:
    return clipped("".join(traceback.format_exception(error)))


def _of_the_database(error: Exception) -> bool:
    """A fault of the database itself, whose transaction is lost, and not of what was asked of it."""
    return isinstance(error, DBAPIError) and not isinstance(error, IntegrityError | DataError | ProgrammingError)
