"""The outbox, database side: which events wait, who may send them, what became of them.

A relay claims shards, not rows: one conditional UPDATE takes those shards with waiting events that
nobody holds, and all events of a partition key lie in one shard, so a key's order is kept however
many relays run. A lease that its holder does not give back lapses; the next holder sends again what
was not marked, so the bus may see an event twice and never out of turn for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from django.db import connection
from django.db.models import Count, Min, QuerySet

from apps.events.models import CARRIED, SHARDS, Event, OutboxMessage, OutboxShard, carried
from apps.lib.turns import turn
from services.kit.events.outbox import MAX_TYPES, Backlog, Row, Settlement, Waiting

LEASE_S = 30.0
"""Longer than a batch can take with a broker that answers late: publishing gives up after 5 s."""

# What is said many times a second is said in SQL that is always the same: to have it made anew takes longer than it.
OUTBOX, EVENT, SHARD = (f'"{model._meta.db_table}"' for model in (OutboxMessage, Event, OutboxShard))
FREE = "(holder = '' OR until < %(at)s OR holder = %(me)s)"
DUE = "sent_at IS NULL AND (next_at IS NULL OR next_at <= %(at)s)"
AHEAD = f"""
SELECT DISTINCT shard FROM (
    SELECT shard FROM {OUTBOX} WHERE {DUE} AND shard IN (SELECT shard FROM {SHARD} WHERE {FREE})
    ORDER BY event_id LIMIT %(most)s
) AS ahead
"""  # noqa: S608 - the tables' own names, here and below
LEASE = f"UPDATE {SHARD} SET holder = %(me)s, until = %(until)s WHERE {FREE} AND shard IN ({{shards}})"  # noqa: S608
RELEASE = f"UPDATE {SHARD} SET holder = '' WHERE holder = %(me)s"  # noqa: S608
HELD = f"SELECT shard FROM {SHARD} WHERE holder = %(me)s AND until > %(at)s"  # noqa: S608
# JSON and time as text, where the driver would make objects of them.
COLUMNS = ", ".join(
    f"CAST(event.{name} AS text)" if name in {"data", "extensions"} else f"event.{name}" for name in CARRIED
)
TIME = {"sqlite": "CAST(event.time AS text)", "postgresql": "event.time"}
# A key whose earlier event waits for its next try holds back the later ones: order before speed. There may be as many
# as there are keys: the database keeps them to itself.
READY = f"""
SELECT outbox.event_id, attempts, {{time}}, {COLUMNS}
FROM {OUTBOX} AS outbox JOIN {EVENT} AS event ON event.id = outbox.event_id
WHERE {DUE} AND shard IN ({HELD}) AND partition_key NOT IN (
    SELECT partition_key FROM {OUTBOX} WHERE sent_at IS NULL AND next_at > %(at)s AND shard IN ({HELD})
)
ORDER BY outbox.event_id LIMIT %(most)s
"""  # noqa: S608
SENT = f"""
UPDATE {OUTBOX} SET sent_at = %(at)s, attempts = attempts + 1, last_error = ''
WHERE sent_at IS NULL AND event_id IN (SELECT CAST(value AS bigint) FROM {{rows}})
"""  # noqa: S608
ROWS = {"sqlite": "json_each(%(rows)s)", "postgresql": "json_array_elements_text(%(rows)s::json)"}


def prepare() -> None:
    """Make sure that there is a row per shard to claim."""
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    OutboxShard.objects.bulk_create(
        (OutboxShard(shard=shard, holder="", until=long_ago) for shard in range(SHARDS)), ignore_conflicts=True
    )


def claim(holder: str, now: float, limit: int, settled: Settlement | None = None) -> list[Row]:
    """Lease what shards have events due and send nobody else's; up to ``limit`` events, in order. ``settled`` is noted
    in the same transaction, which spares a busy relay every second wait for the disk."""
    at, until = (_stamp(when) for when in (now, now + LEASE_S))
    said = {"me": holder, "at": at, "until": until, "most": limit}
    with connection.cursor() as cursor:
        if settled is None:
            shards = _ahead(cursor, said)
            if not shards:
                return []
            with turn():
                _lease(cursor, said, shards)
        else:
            with turn():
                _note(cursor, settled, said)
                shards = _ahead(cursor, said)
                _lease(cursor, said, shards)
            if not shards:
                return []
        cursor.execute(READY.format(time=TIME[connection.vendor]), said)
        claimed = [_row(*columns) for columns in cursor.fetchall()]
    if not claimed:
        release(holder)
    return claimed


def _ahead(cursor: Any, said: dict[str, Any]) -> list[int]:
    cursor.execute(AHEAD, said)
    return sorted(shard for (shard,) in cursor.fetchall())


def _lease(cursor: Any, said: dict[str, Any], shards: Sequence[int]) -> None:
    if shards:
        cursor.execute(LEASE.format(shards=", ".join(map(str, shards))), said)


def _row(position: int, tries: int, time: datetime | str, *columns: Any) -> Row:
    *said, data, extensions = columns
    own = msgspec.json.decode(extensions) if extensions != "{}" else {}
    return Row(position, carried(*said, msgspec.json.decode(data), own, _seconds(time)), tries)


def _stamp(seconds: float) -> Any:
    return connection.ops.adapt_datetimefield_value(datetime.fromtimestamp(seconds, UTC))


@lru_cache(maxsize=64)
def _seconds(time: datetime | str) -> float:
    """Of events that were published together it is the same."""
    at = time if isinstance(time, datetime) else datetime.fromisoformat(time).replace(tzinfo=UTC)
    return at.timestamp()


def settle(holder: str, settlement: Settlement, now: float) -> None:
    """Mark what the bus took, put off what it refused, and give the shards back."""
    with turn(), connection.cursor() as cursor:
        _note(cursor, settlement, {"me": holder, "at": _stamp(now)})


def _note(cursor: Any, settlement: Settlement, said: dict[str, Any]) -> None:
    if settlement.sent:
        rows = msgspec.json.encode(settlement.sent).decode()
        cursor.execute(SENT.format(rows=ROWS[connection.vendor]), said | {"rows": rows})
    for row in settlement.put_off:
        OutboxMessage.objects.filter(pk=row.position, sent_at__isnull=True).update(
            attempts=row.tries, next_at=datetime.fromtimestamp(row.due, UTC), last_error=row.reason
        )
    cursor.execute(RELEASE, said)


def release(holder: str) -> None:
    """Give every shard back."""
    with connection.cursor() as cursor:
        cursor.execute(RELEASE, {"me": holder})


def waiting() -> QuerySet[OutboxMessage]:
    """The rows that the bus has not taken."""
    return OutboxMessage.objects.filter(sent_at__isnull=True)


def backlog() -> Backlog:
    """What waits now."""
    rows = waiting()
    oldest = rows.order_by("pk").values_list("event__time", flat=True).first()
    return Backlog(rows.count(), oldest.timestamp() if oldest else None)


def waiting_by_type() -> list[Waiting]:
    """The same by type, those with the most first."""
    rows = waiting().order_by().values("event__type").annotate(count=Count("pk"), oldest=Min("event__time"))
    found = rows.order_by("-count").values_list("event__type", "count", "oldest")[:MAX_TYPES]
    return [Waiting(name, count, oldest.timestamp()) for name, count, oldest in found]


def prune(before: float, limit: int = 5000) -> int:
    """Forget rows that were sent before ``before``, at most ``limit`` of them. The events stay."""
    chosen = list(
        OutboxMessage.objects.filter(sent_at__lt=datetime.fromtimestamp(before, UTC))
        .order_by("sent_at")
        .values_list("pk", flat=True)[:limit]
    )
    for start in range(0, len(chosen), 500):
        OutboxMessage.objects.filter(pk__in=chosen[start : start + 500]).delete()
    return len(chosen)
