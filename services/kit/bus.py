"""Events between services: CloudEvents 1.0 on Redis Streams, consumed by groups, each exactly once in effect.

Owns the streams and the consumer loop. A consumer's handler runs in the same database
transaction that notes the event in its inbox, and the event is acknowledged after that commit: a
crash anywhere repeats the delivery, and the inbox makes the repeat do nothing. Events of one batch
are handled in order of arrival as far as they succeed; one that fails is tried again later, so a
handler must not depend on order across events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import redis.asyncio
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Connection, text

from .checks import Unwell
from .events.cloudevent import CloudEvent, EventError, decode
from .store import Migration, Store, StoreAway

# The wire, the same as apps/lib/wire.py on the control plane's side (tests/contract holds both equal).
STREAM_PREFIX: Final = "mc:events:"
DOMAINS: Final = "mc:events"
DEAD_PREFIX: Final = "mc:events:dead:"
MAX_LENGTH: Final = 100_000
"""About as many events are kept in a stream; the event store keeps them for ever."""

BLOCK_SECONDS = 5.0
ANSWER_SECONDS = 5.0
"""Longer than that Redis does not think: it is away."""
BATCH = 64
STALE_SECONDS = 30.0
MAX_DELIVERIES = 5
"""Failed attempts after which an event is parked, so that one poisoned event does not fail for ever."""
MAX_CRASHES = 10
"""Deliveries after which an event is parked unseen: it ends the process each time that it is handled."""
MAX_RETRIES = 256
"""Events waiting for another attempt; at so many, no new ones are read."""
SILENT_SECONDS = 10.0
"""A consumer that has not completed a read for so long is unwell."""

INBOX = Migration(
    (
        "CREATE TABLE inbox (consumer TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, "
        "handled_at DOUBLE PRECISION NOT NULL, PRIMARY KEY (consumer, source, event_id))",
    )
)
"""One row per handled event, kept as long as the state it guards: a replay years later must still do nothing."""

T = TypeVar("T")

_PROPAGATOR = TraceContextTextMapPropagator()
_log = logging.getLogger("services.bus")
_tracer = trace.get_tracer("services.kit.bus")
_meter = metrics.get_meter("services.kit.bus")
_handled = _meter.create_counter("mc.bus.handled", description="Events handled, by outcome.")


def stream_of(event_type: str) -> str:
    """The stream of a type: one per domain, its first segment."""
    return STREAM_PREFIX + event_type.partition(".")[0]


class Bus:
    """The connection to Redis; blocking reads of consumers use connections of their own from its pool.

    All waiting is bounded here, by ``ask``, and not by the client: for its socket timeout it guards writes
    by ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that arrives as the write
    completes (python/cpython issue 86296), and what was cancelled goes on.
    """

    def __init__(self, url: str) -> None:
        self.redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=1.0,
            socket_timeout=None,
            max_connections=8,
        )

    async def start(self) -> None:
        """Nothing: a service may start before its bus."""

    async def stop(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    async def ask(self, question: Awaitable[T], within: float = ANSWER_SECONDS) -> T:
        """The answer of Redis; RedisError, or OSError after ``within`` seconds, when it is away."""
        async with asyncio.timeout(within):
            return await question

    async def publish(self, events: Iterable[tuple[str, str]]) -> None:
        """Append (type, encoded event) pairs in order, at once; RedisError or OSError when Redis is away."""
        pairs = list(events)
        pipe = self.redis.pipeline(transaction=False)
        for domain in {kind.partition(".")[0] for kind, _ in pairs}:
            pipe.sadd(DOMAINS, domain)
        for kind, body in pairs:
            pipe.xadd(stream_of(kind), {"e": body, "t": kind}, maxlen=MAX_LENGTH, approximate=True)
        await self.ask(pipe.execute())

    async def probe(self) -> None:
        """Unwell unless Redis answers."""
        try:
            await self.ask(self.redis.ping())
        except (RedisError, OSError) as error:
            raise Unwell(f"the bus does not answer ({type(error).__name__})") from None


Handler = Callable[[Connection, CloudEvent], None]


@dataclass(slots=True)
class _Retry:
    due: float
    fields: dict[str, str]


class Consumer:
    """Feeds events of one type to ``handler``, as one member (``member``) of consumer group ``group``."""

    def __init__(self, bus: Bus, store: Store, *, group: str, member: str, type: str, handler: Handler) -> None:
        self._bus = bus
        self._store = store
        self._group = group
        self._member = member
        self._type = type
        self._stream = stream_of(type)
        self._handler = handler
        self._retries: dict[str, _Retry] = {}
        self._attempts: dict[str, int] = {}
        self._deliveries: dict[str, int] = {}
        self._read_at = float("-inf")
        self._claimed_at = float("-inf")
        self._behind = False
        self._gap_after = ""
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin to consume, in a task that lives until ``stop``."""
        self._task = asyncio.create_task(self._run(), name=f"consume {self._type}")

    async def stop(self) -> None:
        """Finish the batch in hand, then end."""
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def probe(self) -> None:
        """Unwell when reading has not worked for a while, or has ended."""
        if self._task is not None and self._task.done():
            raise Unwell("the consumer has ended")
        if time.monotonic() - self._read_at > SILENT_SECONDS:
            raise Unwell("events can't be read from the bus")

    async def _run(self) -> None:
        pause = 0.2
        joined = False
        while not self._stopping.is_set():
            try:
                if not joined:
                    await self._join()
                    joined = True
                await self._round()
                pause = 0.2
            except (RedisError, OSError) as error:
                # Redis may come back empty, and what we hold may be someone else's by then: join afresh.
                joined = False
                _log.warning("consuming %s paused: %s: %s", self._type, type(error).__name__, error)
                await self._sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _join(self) -> None:
        """Make the group if it is not there (from the stream's beginning), then take up our own unfinished events."""
        self._retries.clear()
        self._attempts.clear()
        self._deliveries.clear()
        try:
            await self._bus.ask(self._bus.redis.xgroup_create(self._stream, self._group, id="0", mkstream=True))
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            await self._notice_gap()
        cursor = "0"
        while not self._stopping.is_set():
            answer = await self._bus.ask(
                self._bus.redis.xreadgroup(self._group, self._member, {self._stream: cursor}, count=BATCH)
            )
            entries = _entries(answer)
            if not entries:
                break
            await self._count(entries)
            await self._handle(entries)
            cursor = entries[-1][0]
        self._read_at = time.monotonic()

    async def _round(self) -> None:
        now = time.monotonic()
        if now - self._claimed_at > STALE_SECONDS:
            await self._claim()
            self._claimed_at = now
        due = [(key, retry.fields) for key, retry in self._retries.items() if retry.due <= now]
        if due:
            await self._handle(due)
        if len(self._retries) < MAX_RETRIES:
            if self._behind:
                await self._notice_gap()
            entries = await self._read(self._patience())
            self._behind = len(entries) == BATCH
            if not self._behind:
                self._gap_after = ""
            await self._handle(entries)
        else:
            await self._sleep(self._patience())

    async def _notice_gap(self) -> None:
        """Say so when the stream was trimmed past what the group has read: events went by that nobody handled.

        Looked for where it can be, at a join and while more waits than one read brings. Redis 6.2 can't say how
        many they were, so it is the gaps that are counted.
        """
        pipe = self._bus.redis.pipeline(transaction=True)
        pipe.xinfo_groups(self._stream)
        pipe.xinfo_stream(self._stream)
        groups, stream = await self._bus.ask(pipe.execute())
        read = next((str(group["last-delivered-id"]) for group in groups if group["name"] == self._group), "0-0")
        first = stream["first-entry"]
        if read == "0-0":
            # Nothing read yet, and the group may be older than the trimming or younger: only Redis 7 can tell.
            gap = int(stream.get("entries-added", 0)) > int(stream["length"])
        else:
            gap = _position(first[0] if first else stream["last-generated-id"]) > _position(read)
        if not gap or read == self._gap_after:
            return
        if not self._gap_after:
            # Once, until it has caught up: a group too slow for its stream meets a gap at each read.
            _log.error("events of %s after %s were trimmed before %s read them", self._stream, read, self._group)
        self._gap_after = read
        _handled.add(1, {"outcome": "gap", "type": self._type})

    def _patience(self) -> float:
        """Seconds to block: until the next retry is due, or the whole wait."""
        now = time.monotonic()
        return min([BLOCK_SECONDS, *(max(0.05, retry.due - now) for retry in self._retries.values())])

    async def _read(self, seconds: float) -> list[tuple[str, dict[str, str]]]:
        """New events, or none after ``seconds`` or when the service stops."""
        read = asyncio.ensure_future(
            self._bus.ask(
                self._bus.redis.xreadgroup(
                    self._group, self._member, {self._stream: ">"}, count=BATCH, block=int(seconds * 1000)
                ),
                within=seconds + ANSWER_SECONDS,
            )
        )
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({read, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                # What Redis hands out meanwhile stays pending under our name and is taken up by the next start.
                return []
            answer = read.result()
        finally:
            for task in (read, stop):
                task.cancel()
            await asyncio.gather(read, stop, return_exceptions=True)
        self._read_at = time.monotonic()
        return _entries(answer)

    async def _claim(self) -> None:
        """Take over what members that died have left unfinished."""
        cursor = "0-0"
        while not self._stopping.is_set():
            cursor, entries, *_ = await self._bus.ask(
                self._bus.redis.xautoclaim(
                    self._stream, self._group, self._member, int(STALE_SECONDS * 1000), cursor, count=BATCH
                )
            )
            held = [(key, fields) for key, fields in entries if key not in self._retries]
            if held:
                await self._count(held)
                await self._handle(held)
            if cursor == "0-0":
                return

    async def _count(self, entries: Sequence[tuple[str, dict[str, str]]]) -> None:
        """Learn how often each was delivered before, to know one that ends every process that takes it."""
        rows = await self._bus.ask(
            self._bus.redis.xpending_range(
                self._stream, self._group, min=entries[0][0], max=entries[-1][0], count=len(entries)
            )
        )
        for row in rows:
            self._deliveries[str(row["message_id"])] = int(row["times_delivered"]) - 1

    async def _handle(self, entries: Sequence[tuple[str, dict[str, str]]]) -> None:
        if not entries:
            return
        results = await asyncio.gather(*(self._one(key, fields) for key, fields in entries))
        if finished := [key for key in results if key]:
            await self._bus.ask(self._bus.redis.xack(self._stream, self._group, *finished))
            for key in finished:
                self._retries.pop(key, None)
                self._attempts.pop(key, None)
                self._deliveries.pop(key, None)

    async def _one(self, key: str, fields: dict[str, str]) -> str | None:
        """Handle one entry; its key when it is finished with (done, not ours, or parked), None to try again."""
        if not fields:
            _log.error("event %s was trimmed from %s before it was handled", key, self._stream)
            _handled.add(1, {"outcome": "trimmed", "type": self._type})
            return key
        if fields.get("t") != self._type:
            return key
        if self._deliveries.get(key, 0) >= MAX_CRASHES:
            return await self._park(key, fields, f"delivered {MAX_CRASHES} times and never finished")
        try:
            event = decode(fields.get("e", ""))
        except EventError as error:
            return await self._park(key, fields, str(error))
        parent = _PROPAGATOR.extract({"traceparent": event.traceparent})
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": self._stream,
            "messaging.consumer.group.name": self._group,
            "messaging.message.id": event.id,
            "cloudevents.event_type": event.type,
        }
        with _tracer.start_as_current_span(
            f"process {event.type}", parent, SpanKind.CONSUMER, attributes, set_status_on_exception=True
        ) as span:
            try:
                fresh = await self._store.write(lambda connection: self._apply(connection, event))
            except StoreAway:
                # The database's fault, not the event's: it costs no attempt.
                self._retries[key] = _Retry(time.monotonic() + 1.0, fields)
                return None
            except Exception as error:  # noqa: BLE001 - whatever a handler raises means: this event, later again
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                return await self._failed(key, fields, error)
            span.set_attribute("mc.duplicate", not fresh)
        _handled.add(1, {"outcome": "handled" if fresh else "duplicate", "type": self._type})
        return key

    def _apply(self, connection: Connection, event: CloudEvent) -> bool:
        """Note and handle in one transaction; False when it was handled before."""
        added = connection.execute(
            text(
                "INSERT INTO inbox (consumer, source, event_id, handled_at) VALUES (:consumer, :source, :id, :now) "
                "ON CONFLICT DO NOTHING"
            ),
            {"consumer": self._group, "source": event.source, "id": event.id, "now": time.time()},
        )
        if added.rowcount == 0:
            return False
        self._handler(connection, event)
        return True

    async def _failed(self, key: str, fields: dict[str, str], error: Exception) -> str | None:
        attempts = self._attempts.get(key, 0) + 1
        self._attempts[key] = attempts
        if attempts >= MAX_DELIVERIES:
            return await self._park(key, fields, f"{type(error).__name__}: {error}")
        _log.warning("event %s failed, attempt %d: %s: %s", key, attempts, type(error).__name__, error)
        _handled.add(1, {"outcome": "failed", "type": self._type})
        self._retries[key] = _Retry(time.monotonic() + min(30.0, 0.25 * 2**attempts), fields)
        return None

    async def _park(self, key: str, fields: dict[str, str], reason: str) -> str:
        """Set the event aside where an operator finds it, with the reason."""
        _log.error("event %s parked in %s%s: %s", key, DEAD_PREFIX, self._group, reason)
        note: dict[Any, Any] = {
            **fields,
            "reason": reason[:500],
            "from": self._stream,
            "key": key,
            "at": str(time.time()),
        }
        await self._bus.ask(self._bus.redis.xadd(DEAD_PREFIX + self._group, note, maxlen=10_000, approximate=True))
        _handled.add(1, {"outcome": "parked", "type": self._type})
        return key


def _position(entry: str) -> tuple[int, int]:
    """An entry's id, comparable."""
    time_part, _, count = entry.partition("-")
    return int(time_part), int(count)


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    """The one stream's entries of an XREADGROUP answer (a list in RESP2, a dict in RESP3)."""
    if not answer:
        return []
    if isinstance(answer, dict):
        found = next(iter(answer.values()))
        return [(key, fields or {}) for part in found for key, fields in part]
    return [(key, fields or {}) for key, fields in answer[0][1]]
