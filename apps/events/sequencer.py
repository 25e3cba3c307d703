"""The sequencer: gives every committed event its position in the log, 1, 2, 3 …, so that readers can follow it.

An id won't do: on PostgreSQL a transaction may commit after others with higher ids, and a reader that has
passed those never sees it. One sequencer at a time numbers what it can see, which is committed, in the order
of ids; its own commit shows a whole run of positions at once. Why that loses nothing: docs/decisions/0022.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import DatabaseError, close_old_connections, connection, transaction
from opentelemetry import metrics

from apps.events import nudges
from apps.events.models import ALL, Event, EventQuerySet, Stream
from apps.lib import clock
from apps.lib.aio import end, in_thread
from apps.lib.wire import LOG_CHANNEL
from services.kit.events.pump import Trouble

meter = metrics.get_meter(__name__)
numbered = meter.create_counter("mc.sequencer.events", description="Events that were given their position in the log")
waiting = meter.create_gauge("mc.sequencer.waiting", description="Committed events that have no position yet")

BATCH = 1000
LEASE_S = 10.0
"""How long a sequencer that hangs holds up the others: its database then ends its transaction."""
POLL_S = 5.0
"""How long a lost nudge can cost."""
MEASURE_EVERY_S = 10.0

# One statement is one snapshot, also where a transaction sees what others commit meanwhile.
NUMBER = f"""
UPDATE {Event._meta.db_table} AS event SET position = %s + fresh.place
FROM (
    SELECT id, row_number() OVER (ORDER BY id) AS place
    FROM (SELECT id FROM {Event._meta.db_table} WHERE position IS NULL ORDER BY id LIMIT %s) AS oldest
) AS fresh
WHERE event.id = fresh.id
"""  # noqa: S608 - the table's own name


def number(limit: int = BATCH) -> int:
    """Give the next positions to up to ``limit`` committed events; how many got one. 0 too while another does it."""
    if not unnumbered().exists():
        return 0
    with lease() as head:
        if head is None:
            return 0
        with connection.cursor() as cursor:
            cursor.execute(NUMBER, [head.version, limit])
            count = int(cursor.rowcount)
        Stream.objects.filter(pk=ALL).update(version=head.version + count)
    return count


@contextmanager
def lease() -> Iterator[Stream | None]:
    """A transaction that alone may give positions; None when another holds it. It ends with its holder's connection."""
    Stream.objects.get_or_create(pk=ALL, defaults={"version": 0})
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {int(LEASE_S * 1000)}")
        yield Stream.objects.select_for_update(skip_locked=True).filter(pk=ALL).first()


def unnumbered() -> EventQuerySet:
    """Events without a position, whose transaction is over."""
    return Event.objects.filter(position__isnull=True)


class Sequencer:
    """Numbers events until told to stop; ``then`` is called when some may be new. Any number may run, in turns."""

    def __init__(self, redis_url: str, then: Callable[[], object] = lambda: None) -> None:
        self._redis_url = redis_url
        self._then = then
        self._stopping = False
        self._bell = asyncio.Event()
        self._database = Trouble("The database", "events get no positions")
        self._measure_at = 0.0

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Number until stopped."""
        listener = asyncio.create_task(nudges.listen(self._redis_url, self._bell), name="sequencer nudges")
        try:
            while not self._stopping:
                await self._pause(await self._turn())
        finally:
            await end(listener)

    async def _turn(self) -> float:
        """One batch; the seconds until the next."""
        nudged = self._bell.is_set()
        self._bell.clear()
        try:
            count = await in_thread(self._number)
            await self._measure()
        except DatabaseError as error:
            return self._database.begins(error)
        self._database.is_over()
        # On SQLite events have their positions from the start, and a nudge is all that tells of them.
        if count or nudged:
            self._then()
        numbered.add(count)
        return 0.0 if count == BATCH else POLL_S

    def _number(self) -> int:
        close_old_connections()
        count = number()
        if count:
            nudges.nudge(LOG_CHANNEL)
        return count

    async def _measure(self) -> None:
        if clock.monotonic() >= self._measure_at:
            self._measure_at = clock.monotonic() + MEASURE_EVERY_S
            waiting.set(await in_thread(unnumbered().count))

    async def _pause(self, seconds: float) -> None:
        """Wait, but not past a stop, and while all is well not past a nudge."""
        deadline = clock.monotonic() + seconds
        while not self._stopping and (left := deadline - clock.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._bell.wait()
            except TimeoutError:
                return
            if not self._database.tries:
                return
            self._bell.clear()
