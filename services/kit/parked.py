"""The rows of a consumer's events that failed: a queue per key, whose first row failed and whose others wait behind it.

Statements alone, inside the caller's transaction, and what the rows have to say to Mission Control. When and how an
event is tried is the inbox's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, text

from .events.cloudevent import CloudEvent, encode
from .events.inbox import Kept
from .events.lanes import Key, key_of
from .events.reporting import DISCARD, MAX_STACK, PARKED, REDRIVE, RESOLVED, Command, Report
from .events.retry import Away, Backoff
from .events.transport.base import Delivery
from .statements import Many
from .store import Store

ROWS: Final = (
    "CREATE TABLE parked (id {serial}, consumer TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, "
    "event_id TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, "
    "position TEXT NOT NULL, reason TEXT NOT NULL, kind TEXT NOT NULL, stack TEXT NOT NULL, tries INTEGER NOT NULL, "
    "first_at DOUBLE PRECISION NOT NULL, last_at DOUBLE PRECISION NOT NULL, "
    # NULL: only by somebody's word.
    "due DOUBLE PRECISION, "
    # How often the row changed, and which of its changes was told; whether one may have been.
    "changed INTEGER NOT NULL DEFAULT 1, told INTEGER NOT NULL DEFAULT 0, offered INTEGER NOT NULL DEFAULT 0, "
    "UNIQUE (consumer, source, event_id))",
    "CREATE INDEX parked_by_key ON parked (consumer, source, key, id)",
    "CREATE INDEX parked_untold ON parked (consumer, id) WHERE told < changed",
    "CREATE TABLE freed (id {serial}, consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
    # Which row it was, and its last change: what is told of one event has an order, however it travels.
    "parked_id BIGINT NOT NULL, changed INTEGER NOT NULL, first_at DOUBLE PRECISION NOT NULL, "
    "how TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX freed_by_consumer ON freed (consumer, id)",
)
"""``parked``: a queue per key, whose first row failed and whose others wait behind it. ``freed``: rows that Mission
Control knows of and that are no more."""

MAX_PARKED: Final = 100_000
"""Rows; at so many, what would be parked stays with the broker, and the consumer waits."""
MAX_ODD: Final = 1000
MAX_ODD_BYTES: Final = 64 * 1024
ODD: Final = "odd"
FORGED: Final = "forged"
"""Kinds of rows that no handler ever sees: an entry that is no event, and an event that is not of whom it says."""
DIED: Final = "ProcessDied"
BEHIND: Final = "Behind"
FREED: Final = text(
    "INSERT INTO freed (consumer, source, event_id, how, at, parked_id, changed, first_at) "
    "VALUES (:group, :source, :id, :how, :now, :row, :changed, :first_at)"
)
CHANGED: Final = "changed = changed + CASE WHEN told < changed THEN 1 ELSE 0 END"
"""It need not be told; but what is told anyway is another thing now, and has another number."""
AGAIN: Final = Backoff(first_s=60.0, most_s=3600.0)
"""Of what is parked. A permanent failure waits for a new start, which may bring a new program."""

INSERT: Final = text(
    "INSERT INTO parked (consumer, source, key, event_id, type, body, topic, part, position, reason, kind, "
    "stack, tries, first_at, last_at, due) VALUES (:group, :source, :key, :id, :type, :body, :topic, "
    ":part, :position, :reason, :kind, :stack, :tries, :first_at, :now, :due) ON CONFLICT DO NOTHING"
)
# What is no event is nobody's: it has no source.
ANY: Final = text("SELECT 1 FROM parked WHERE consumer = :group AND source > '' LIMIT 1")
HOLDING: Final = Many(
    "SELECT DISTINCT parked.source, parked.key FROM {rows} AS asked JOIN parked ON "
    "parked.consumer = :group AND parked.source = asked.value ->> 0 AND parked.key = asked.value ->> 1"
)


class ParkedRows:
    """The parked rows of consumer group ``group``."""

    def __init__(self, store: Store, group: str) -> None:
        self._store = store
        self._group = group
        self.known = Kept()
        """As at the last look."""

    # -- inside a transaction ----------------------------------------------------------------------

    def begin(self, connection: Connection) -> None:
        """All are due, except those that nobody may try by himself."""
        connection.execute(
            text(
                f"UPDATE parked SET due = 0, {CHANGED} "  # noqa: S608 - a constant
                "WHERE consumer = :group AND kind NOT IN (:died, :odd, :forged)"
            ),
            {"group": self._group, "died": DIED, "odd": ODD, "forged": FORGED},
        )

    def holding(self, connection: Connection, keys: Collection[Key]) -> set[Key]:
        """Those of ``keys`` that have an event among them."""
        if connection.execute(ANY, {"group": self._group}).first() is None:
            return set()
        return {(row[0], row[1]) for row in HOLDING(connection, sorted(keys), group=self._group)}

    def add(self, connection: Connection, delivery: Delivery, **rest: Any) -> None:
        """One more at the end of its key; ``Away`` when there are as many as may be."""
        event = delivery.event
        assert event is not None  # noqa: S101 - only events are parked
        source, key = key_of(event)
        row = {"source": source, "key": key, "id": event.id, "type": event.type, "body": encode(event).decode()}
        connection.execute(INSERT, self._row(delivery, row | rest))

    def add_odd(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        """What is no event, or is forged."""
        rest = {"source": "", "type": "", "tries": 1, "first_at": time.time(), "due": None, "stack": ""}
        rows = []
        for delivery in batch:
            where = f"{delivery.topic}/{delivery.partition}/{delivery.position}"
            body = _clean(delivery.raw[:MAX_ODD_BYTES].decode(errors="replace"))
            said = {"body": body, "reason": delivery.fault, "kind": FORGED if delivery.forged else ODD}
            rows.append(self._row(delivery, rest | said | {"key": where, "id": where}))
        connection.execute(INSERT, rows)

    def _row(self, delivery: Delivery, row: dict[str, Any]) -> dict[str, Any]:
        return {
            **row,
            "group": self._group,
            "topic": delivery.topic,
            "part": delivery.partition,
            "position": delivery.position,
            "now": time.time(),
        }

    def check_room(self) -> None:
        """``Away`` when there are as many rows as may be."""
        if self.known.parked >= MAX_PARKED:
            raise Away(f"{MAX_PARKED:,} events are parked already; the broker keeps the rest")

    def locked(self, connection: Connection, identity: int) -> Row[Any] | None:
        """The row, in this transaction's hands; None while another member is at it, and for what is not tried."""
        lock = " FOR UPDATE SKIP LOCKED" if connection.dialect.name == "postgresql" else ""
        return connection.execute(
            text(f"SELECT * FROM parked WHERE id = :id AND kind NOT IN (:odd, :forged){lock}"),  # noqa: S608 - constants
            {"id": identity, "odd": ODD, "forged": FORGED},
        ).first()

    def failed(self, connection: Connection, identity: int, **said: Any) -> None:
        """It was tried again in vain: ``now due reason kind stack``."""
        connection.execute(
            text(
                "UPDATE parked SET tries = tries + 1, last_at = :now, due = :due, reason = :reason, kind = :kind, "
                "stack = :stack, changed = changed + 1 WHERE id = :id"
            ),
            {"id": identity, **said},
        )

    def died(self, connection: Connection, identity: int, reason: str) -> None:
        """It waits for somebody's word."""
        connection.execute(
            text("UPDATE parked SET due = NULL, kind = :died, reason = :reason, changed = changed + 1 WHERE id = :id"),
            {"id": identity, "died": DIED, "reason": reason},
        )

    def free(self, connection: Connection, row: Any, how: str) -> None:
        """It is dealt with: ``handled``, ``discarded`` or ``replaced``."""
        gone = text("DELETE FROM parked WHERE id = :id RETURNING id, source, event_id, offered, changed, first_at")
        deleted = connection.execute(gone, {"id": row.id}).first()
        if deleted is not None and deleted.offered:
            self._freed(connection, deleted, how)

    def _freed(self, connection: Connection, row: Row[Any], how: str) -> None:
        connection.execute(
            FREED,
            {
                "group": self._group,
                "source": row.source,
                "id": row.event_id,
                "how": how,
                "now": time.time(),
                "row": row.id,
                "changed": row.changed + 1,
                "first_at": row.first_at,
            },
        )

    # -- looking -----------------------------------------------------------------------------------

    async def first_due(self) -> Row[Any] | None:
        """The head of a key that is to be tried first: its id, and when."""
        heads = text(
            "SELECT parked.id, parked.due FROM parked JOIN (SELECT MIN(id) AS id FROM parked WHERE consumer = :group "
            "GROUP BY source, key) AS heads ON heads.id = parked.id WHERE parked.due IS NOT NULL "
            "ORDER BY parked.due, parked.id LIMIT 1"
        )
        return await self._store.read(lambda connection: connection.execute(heads, {"group": self._group}).first())

    async def kept(self) -> Kept:
        """How many there are, by what they are."""

        def look(connection: Connection) -> Kept:
            what = {"group": self._group, "odd": ODD, "forged": FORGED}
            row = connection.execute(
                text(
                    "SELECT COUNT(*) AS total, COALESCE(SUM(CASE WHEN kind = :odd THEN 1 ELSE 0 END), 0) AS odd, "
                    "COALESCE(SUM(CASE WHEN kind = :forged THEN 1 ELSE 0 END), 0) AS forged "
                    "FROM parked WHERE consumer = :group"
                ),
                what,
            ).one()
            gone = connection.execute(
                text("SELECT COALESCE(SUM(missing), 0) FROM heard WHERE consumer = :group AND missing > 0"), what
            ).scalar_one()
            return Kept(int(row.total - row.odd - row.forged), int(row.odd), int(row.forged), int(gone))

        self.known = await self._store.read(look)
        return self.known

    # -- telling and obeying (events.reporting.Rows) -----------------------------------------------

    async def untold(self, most: int) -> list[Report]:
        what = {"group": self._group, "most": most}
        rows = text("SELECT * FROM parked WHERE consumer = :group AND told < changed ORDER BY id LIMIT :most")
        gone = text("SELECT * FROM freed WHERE consumer = :group ORDER BY id LIMIT :most")

        def look(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
            return connection.execute(rows, what).all(), connection.execute(gone, what).all()

        parked, freed = await self._store.read(look)
        if new := [row.id for row in parked if not row.offered]:
            # From here on it may have been told, whatever is killed.
            mark = text("UPDATE parked SET offered = 1 WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
            await self._store.write(lambda connection: connection.execute(mark, {"ids": new}).rowcount)
        reports = [self._parked(row) for row in parked]
        return (reports + [self._resolved(row) for row in freed])[:most]

    def _parked(self, row: Row[Any]) -> Report:
        keyless = row.key.startswith("\x1f")
        data = {
            "group": self._group,
            "source": row.source,
            "event_id": row.event_id,
            "type": row.type,
            "key": "" if keyless or not row.source else row.key,
            "topic": row.topic,
            "partition": row.part,
            "position": row.position,
            "kind": row.kind,
            "reason": _clean(row.reason),
            "stack": row.stack,
            "tries": row.tries,
            "first_at": row.first_at,
            "last_at": row.last_at,
            "due": row.due,
            "state": "parked" if row.kind == BEHIND else "failed",
            "row": row.id,
            "changed": row.changed,
            # The log can't have it.
            "body": row.body if row.kind in {ODD, FORGED} else "",
        }
        # A store that is begun anew has the same numbers for other rows.
        name = f"{row.source}\x1f{row.event_id}\x1f{row.id}\x1f{row.first_at}"
        return Report(PARKED, name, row.last_at, data, row.id, row.changed)

    def _resolved(self, row: Row[Any]) -> Report:
        data = {
            "group": self._group,
            "source": row.source,
            "event_id": row.event_id,
            "how": row.how,
            "at": row.at,
            "row": row.parked_id,
            "changed": row.changed,
            # One that is not known, or ended before rows were counted, is the newest by when it ended.
            "first_at": row.first_at or row.at,
        }
        name = f"{row.source}\x1f{row.event_id}\x1f{row.parked_id}\x1f{row.first_at or row.at}"
        return Report(RESOLVED, name, row.at, data, row.id, row.changed)

    async def told(self, reports: Sequence[Report]) -> None:
        mark = text("UPDATE parked SET told = :version WHERE id = :id AND told < :version")
        forget = text("DELETE FROM freed WHERE id = :id")

        def work(connection: Connection) -> None:
            for one in reports:
                if one.type == PARKED:
                    connection.execute(mark, {"id": one.row, "version": one.version})
                else:
                    connection.execute(forget, {"id": one.row})

        await self._store.write(work)

    async def obey(self, command: Command) -> int:
        found = await self._store.write(lambda connection: self._obey(connection, command))
        await self.kept()
        return found

    def _obey(self, connection: Connection, command: Command) -> int:
        count = 0
        for source, event_id in command.events:
            row = connection.execute(
                text("SELECT * FROM parked WHERE consumer = :group AND event_id = :id AND source = :source"),
                {"group": self._group, "source": source, "id": event_id},
            ).first()
            if row is None:
                self._has_not(connection, source, event_id)
                continue
            count += 1
            if command.type == REDRIVE:
                self._retry(connection, row)
            elif command.type == DISCARD:
                self._settle(connection, row)
                self.free(connection, row, "discarded")
            elif command.replacement is not None:
                self._replace(connection, row, command.replacement)
        return count

    def _has_not(self, connection: Connection, source: str, event_id: str) -> None:
        """Whoever asks takes it for parked: what was told of its end is lost, or the row is. So it is told again."""
        what = {"group": self._group, "source": source, "id": event_id}
        had = text("SELECT 1 FROM inbox WHERE consumer = :group AND source = :source AND event_id = :id")
        how = "unknown" if connection.execute(had, what).first() is None else "handled"
        connection.execute(FREED, what | {"how": how, "now": time.time(), "row": 0, "changed": 0, "first_at": 0.0})

    def _retry(self, connection: Connection, row: Row[Any]) -> None:
        """Tried at once, when it is the head of its key; what ended processes may do so again."""
        connection.execute(
            text(
                f"UPDATE parked SET due = 0, {CHANGED}, "  # noqa: S608 - a constant
                "kind = CASE WHEN kind = :died THEN 'Retried' ELSE kind END "
                "WHERE id = :id AND kind NOT IN (:odd, :forged)"
            ),
            {"id": row.id, "died": DIED, "odd": ODD, "forged": FORGED},
        )
        connection.execute(
            text("DELETE FROM trying WHERE consumer = :group AND source = :source AND event_id = :id"),
            {"group": self._group, "source": row.source, "id": row.event_id},
        )

    def _settle(self, connection: Connection, row: Row[Any]) -> None:
        """Should it come again it does nothing."""
        if not row.source:
            return
        connection.execute(
            text(
                "INSERT INTO inbox (consumer, source, event_id, handled_at) VALUES (:group, :source, :id, :now) "
                "ON CONFLICT DO NOTHING"
            ),
            {"group": self._group, "source": row.source, "id": row.event_id, "now": time.time()},
        )

    def _replace(self, connection: Connection, row: Row[Any], event: CloudEvent) -> None:
        """The edited event stands where the row stood. Who sent it knows of it, and hears how it ends."""
        if not row.source or event.source != row.source:
            return
        self._settle(connection, row)
        if row.offered:
            self._freed(connection, row, "replaced")
        connection.execute(
            text(
                "UPDATE parked SET event_id = :id, type = :type, body = :body, due = 0, kind = 'Replaced', "
                "reason = '', stack = '', tries = 0, last_at = :now, changed = changed + 1, offered = 1 WHERE id = :row"
            ),
            {"id": event.id, "type": event.type, "body": encode(event).decode(), "row": row.id, "now": time.time()},
        )


def clipped(stack: str) -> str:
    """The end of a stack, which names the error, as a database can hold it."""
    return _clean(stack)[-MAX_STACK:]


def _clean(said: str) -> str:
    return said.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
