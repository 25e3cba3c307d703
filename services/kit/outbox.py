"""Events that leave exactly when the business transaction commits.

``record`` writes the event into the service's own database inside the caller's transaction; the
pump publishes rows in their order and deletes each once the bus has it. A crash between the two
publishes again, so consumers dedupe by event id. With the bus away the service still serves: rows
wait, and the pump tries again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from redis.exceptions import RedisError
from sqlalchemy import Connection, bindparam, text

from .bus import Bus
from .checks import Unwell
from .events.cloudevent import CloudEvent, check_data, check_type, encode
from .store import Migration, Store, StoreAway

OUTBOX = Migration(
    (
        "CREATE TABLE outbox (id {serial}, type TEXT NOT NULL, body TEXT NOT NULL, "
        "recorded_at DOUBLE PRECISION NOT NULL)",
    )
)

BATCH = 256
POLL_SECONDS = 2.0
"""Between looks without a nudge: rows that an earlier process left, or a twin recorded."""
LATE_SECONDS = 5.0

_PROPAGATOR = TraceContextTextMapPropagator()
_log = logging.getLogger("services.outbox")
_tracer = trace.get_tracer("services.kit.outbox")
_published = metrics.get_meter("services.kit.outbox").create_counter(
    "mc.outbox.published", description="Events that the bus has taken."
)


class Outbox:
    """The outbox of one service; ``source`` is the CloudEvents source of what it publishes."""

    def __init__(self, store: Store, bus: Bus, source: str) -> None:
        self._store = store
        self._bus = bus
        self._source = source
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._oldest: float | None = None

    async def start(self) -> None:
        """Begin to pump, in a task that lives until ``stop``."""
        self._task = asyncio.create_task(self._run(), name="outbox")

    async def stop(self) -> None:
        """One last look for rows, then end; what the bus does not take now waits for the next start."""
        self._stopping = True
        self._wake.set()
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

        The event carries the trace of the PRODUCER span made here, under the span of the caller. EventError,
        before anything is written, for a type or data that can't be an event's.
        """
        check_type(type)
        check_data(data)
        attributes = {"messaging.system": "redis", "messaging.operation.type": "send", "cloudevents.event_type": type}
        with _tracer.start_as_current_span(f"publish {type}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier)
            identity = str(uuid.uuid4())
            span.set_attribute("messaging.message.id", identity)
            event = CloudEvent(
                id=identity,
                source=self._source,
                type=type,
                time=time.time(),
                data=data,
                subject=subject,
                partition_key=partition_key,
                sequence=sequence,
                correlation_id=correlation_id or identity,
                causation_id=causation_id,
                traceparent=carrier.get("traceparent", ""),
            )
        connection.execute(
            text("INSERT INTO outbox (type, body, recorded_at) VALUES (:type, :body, :now)"),
            {"type": type, "body": encode(event).decode(), "now": event.time},
        )
        return event

    def nudge(self) -> None:
        """Say, from the event loop and after the commit, that there is something to publish."""
        self._wake.set()

    async def probe(self) -> None:
        """Unwell when events have waited for the bus a while. Not critical: nothing accepted is lost."""
        if self._task is not None and self._task.done():
            raise Unwell("the outbox pump has ended")
        if self._oldest is not None and (late := time.time() - self._oldest) > LATE_SECONDS:
            raise Unwell(f"events have waited for the bus for {late:.0f} s")

    async def _run(self) -> None:
        pause = 0.2
        while True:
            self._wake.clear()
            try:
                while await self._pump() == BATCH:
                    pass
                pause, wait = 0.2, POLL_SECONDS
            except (RedisError, OSError, StoreAway) as error:
                _log.warning("events wait for the bus: %s: %s", type(error).__name__, error)
                pause = wait = min(pause * 2, 5.0)
            if self._stopping:
                return
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _pump(self) -> int:
        """Publish the oldest rows; how many."""
        rows = await self._store.read(
            lambda connection: connection.execute(
                text("SELECT id, type, body, recorded_at FROM outbox ORDER BY id LIMIT :count"), {"count": BATCH}
            ).all()
        )
        self._oldest = rows[0].recorded_at if rows else None
        if not rows:
            return 0
        await self._bus.publish((row.type, row.body) for row in rows)
        gone = [row.id for row in rows]
        statement = text("DELETE FROM outbox WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
        await self._store.write(lambda connection: connection.execute(statement, {"ids": gone}).rowcount)
        self._oldest = None
        _published.add(len(gone))
        return len(gone)
