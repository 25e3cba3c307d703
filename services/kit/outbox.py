"""The outbox of a service: events that leave exactly when the business transaction commits.

``record`` writes the event into the service's own database inside the caller's transaction; the pump takes rows
to the broker in their order. A crash in between sends again, so consumers tell events apart by id. With the bus
away the service still serves, and rows wait. What was sent stays for a day: the publisher's own log.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text

from .checks import Unwell
from .events import tracing
from .events.cloudevent import CloudEvent, check_data, check_type, decode, encode
from .events.contracts import NOTHING, Contracts
from .events.outbox import MAX_TYPES, Backlog, Row, Settlement, Waiting
from .events.pump import Pump
from .events.signing import Keys
from .events.transport.base import Transport
from .store import Migration, Store, Tables

OUTBOX: Final = Tables(
    "outbox",
    Migration(
        "CREATE TABLE outbox (id {serial}, type TEXT NOT NULL, body TEXT NOT NULL, "
        "recorded_at DOUBLE PRECISION NOT NULL, key TEXT NOT NULL, sequence BIGINT NOT NULL, "
        "tries INTEGER NOT NULL DEFAULT 0, due DOUBLE PRECISION NOT NULL DEFAULT 0, "
        "reason TEXT NOT NULL DEFAULT '', sent_at DOUBLE PRECISION)",
        "CREATE INDEX outbox_waiting ON outbox (id) WHERE sent_at IS NULL",
        "CREATE INDEX outbox_put_off ON outbox (due) WHERE sent_at IS NULL AND due > 0",
        "CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL",
        "CREATE INDEX outbox_numbers ON outbox (key, sequence)",
        "CREATE TABLE outbox_keys (key TEXT PRIMARY KEY, last BIGINT NOT NULL)",
        "CREATE TABLE outbox_lease (one INTEGER PRIMARY KEY CHECK (one = 1), holder TEXT NOT NULL, "
        "until DOUBLE PRECISION NOT NULL)",
        "INSERT INTO outbox_lease (one, holder, until) VALUES (1, '', 0)",
    ),
)
"""What a publisher's store holds. What was sent is marked and stays, to be asked for by its number within its key
(services.kit.published); one of a service's twins pumps at a time."""

LEASE_S: Final = 15.0
"""Longer than a batch can take with a broker that answers late."""
LATE_S: Final = 5.0
DAY_S: Final = 86_400.0


class Outbox:
    """The outbox of one service; ``source`` is the CloudEvents source of what it publishes, signed by its key among
    ``keys``; ``member`` this process among its twins. Sent rows stay for ``keep_days``. What ``contracts`` promise of a
    type is held at ``record``."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        source: str,
        *,
        keys: Keys,
        member: str = "",
        keep_days: float = 1.0,
        contracts: Contracts = NOTHING,
    ) -> None:
        self._source = source
        self._contracts = contracts
        self._rows = SqlOutbox(store, member or source)
        self._pump = Pump(self._rows, transport, keys, source, keep_s=keep_days * DAY_S)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to pump, in a task that lives until ``stop``."""
        self._task = asyncio.create_task(self._pump.run(), name="outbox")

    async def stop(self) -> None:
        """One last look for rows, then end; what the bus does not take now waits for the next start."""
        self._pump.stop()
        if self._task is not None:
            await self._task
            self._task = None

    def record(
        self,
        connection: Connection,
        type: str,
        data: dict[str, Any],
        *,
        subject: str = "",
        partition_key: str = "",
        sequence: int = 0,
        correlation_id: str = "",
        causation_id: str = "",
    ) -> CloudEvent:
        """Write an event in the caller's transaction; it is published after the commit, or not at all.

        ``partition_key`` (default: the subject, else the source) keeps events in order; ``sequence`` is its number
        within the key (default: the next). The event carries the trace of the PRODUCER span made here, under the span
        of the caller. EventError, before anything is written, for a type or data that can't be an event's; Violation,
        which is one, for data that isn't what the service promises of this type.
        """
        check_type(type)
        check_data(data)
        dataschema = self._contracts.promised(type, data)
        identity = str(uuid.uuid4())
        key = partition_key or subject or self._source
        with tracing.recording(type, identity) as traceparent:
            event = CloudEvent(
                id=identity,
                source=self._source,
                type=type,
                time=time.time(),
                data=data,
                subject=subject,
                partition_key=key,
                sequence=sequence or self._rows.number(connection, key),
                correlation_id=correlation_id or identity,
                causation_id=causation_id,
                traceparent=traceparent,
                dataschema=dataschema,
            )
        self._rows.add(connection, event)
        return event

    def nudge(self) -> None:
        """Say, from the event loop and after the commit, that there is something to publish."""
        self._pump.bell.set()

    async def waiting(self) -> Sequence[Waiting]:
        """What the bus has not taken, by type."""
        return await self._rows.waiting()

    async def probe(self) -> None:
        """Unwell when events have waited for the bus a while. Not critical: nothing accepted is lost."""
        if self._task is not None and self._task.done():
            raise Unwell("the outbox pump has ended")
        oldest = self._pump.oldest
        if oldest is not None and (late := time.time() - oldest) > LATE_S:
            why = f": {self._pump.why}" if self._pump.why else ""
            raise Unwell(f"events have waited for the bus for {late:.0f} s{why}")


class SqlOutbox:
    """The OutboxStore in a service's own database."""

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._holder = holder

    def number(self, connection: Connection, key: str) -> int:
        """The next number of ``key``. Its row stays locked until the commit, so numbers are in the order of commits."""
        query = (
            "INSERT INTO outbox_keys (key, last) VALUES (:key, 1) "
            "ON CONFLICT (key) DO UPDATE SET last = outbox_keys.last + 1 RETURNING last"
        )
        return int(connection.execute(text(query), {"key": key}).scalar_one())

    def add(self, connection: Connection, event: CloudEvent) -> None:
        """Write the row."""
        connection.execute(
            text(
                "INSERT INTO outbox (type, body, recorded_at, key, sequence) "
                "VALUES (:type, :body, :now, :key, :sequence)"
            ),
            {
                "type": event.type,
                "body": encode(event).decode(),
                "now": event.time,
                "key": event.partition_key,
                "sequence": event.sequence,
            },
        )

    async def claim(self, now: float, most: int, settled: Settlement | None = None) -> Sequence[Row]:
        if settled is None:
            due = text("SELECT 1 FROM outbox WHERE sent_at IS NULL AND due <= :now LIMIT 1")
            if not await self._store.read(lambda connection: connection.execute(due, {"now": now}).first()):
                return []

        def work(connection: Connection) -> list[Row]:
            if settled is not None:
                self._settle(connection, settled, now)
            rows = self._claim(connection, now, most)
            if not rows:
                self._release(connection)
            return rows

        return await self._store.write(work)

    def _claim(self, connection: Connection, now: float, most: int) -> list[Row]:
        lease = text(
            "UPDATE outbox_lease SET holder = :holder, until = :until WHERE holder IN ('', :holder) OR until < :now"
        )
        held = connection.execute(lease, {"holder": self._holder, "until": now + LEASE_S, "now": now})
        if held.rowcount == 0:
            return []
        rows = connection.execute(
            text(
                "SELECT id, body, tries FROM outbox WHERE sent_at IS NULL AND key NOT IN (SELECT key FROM outbox "
                "WHERE sent_at IS NULL AND due > 0 AND due > :now) ORDER BY id LIMIT :most"
            ),
            {"now": now, "most": most},
        )
        return [Row(row.id, decode(row.body), row.tries) for row in rows]

    async def settle(self, settlement: Settlement, now: float) -> None:
        await self._store.write(lambda connection: self._settle(connection, settlement, now))

    def _settle(self, connection: Connection, settlement: Settlement, now: float) -> None:
        marked = text("UPDATE outbox SET sent_at = :now, reason = '' WHERE id IN :ids AND sent_at IS NULL").bindparams(
            bindparam("ids", expanding=True)
        )
        put_off = text(
            "UPDATE outbox SET tries = :tries, due = :due, reason = :reason WHERE id = :id AND sent_at IS NULL"
        )
        if settlement.sent:
            connection.execute(marked, {"ids": settlement.sent, "now": now})
        for row in settlement.put_off:
            connection.execute(put_off, {"id": row.position, "tries": row.tries, "due": row.due, "reason": row.reason})
        self._release(connection)

    async def release(self) -> None:
        await self._store.write(self._release)

    def _release(self, connection: Connection) -> None:
        connection.execute(text("UPDATE outbox_lease SET holder = '' WHERE holder = :holder"), {"holder": self._holder})

    async def backlog(self) -> Backlog:
        query = text("SELECT COUNT(*) AS waiting, MIN(recorded_at) AS oldest FROM outbox WHERE sent_at IS NULL")
        row = await self._store.read(lambda connection: connection.execute(query).one())
        return Backlog(row.waiting, row.oldest)

    async def waiting(self) -> Sequence[Waiting]:
        query = text(
            "SELECT type, COUNT(*) AS count, MIN(recorded_at) AS oldest FROM outbox WHERE sent_at IS NULL "
            "GROUP BY type ORDER BY count DESC LIMIT :most"
        )
        rows = await self._store.read(lambda connection: connection.execute(query, {"most": MAX_TYPES}).all())
        return [Waiting(*row) for row in rows]

    async def forget(self, before: float, most: int) -> int:
        query = text("DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE sent_at < :before LIMIT :most)")
        what = {"before": before, "most": most}
        return int(await self._store.write(lambda connection: connection.execute(query, what).rowcount))
