"""The outbox, database side: which events wait, who may send them, what became of them.

A relay claims shards, not rows: one conditional UPDATE takes those shards with waiting events that
nobody holds, and all events of a partition key lie in one shard, so a key's order is kept however
many relays run. A lease that its holder does not give back lapses; the next holder sends again what
was not marked, so the bus may see an event twice and never out of turn for long.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import Count, F, Min, Q, QuerySet, TextField
from django.db.models.functions import Cast

from apps.events.models import CARRIED, SHARDS, OutboxMessage, OutboxShard, carried
from services.kit.events.outbox import MAX_TYPES, Backlog, Row, Settlement, Waiting

LEASE_S = 30.0
"""Longer than a batch can take with a broker that answers late: publishing gives up after 5 s."""

DATA, EXTENSIONS = CARRIED.index("data"), CARRIED.index("extensions")
# What is JSON is left as text: msgspec reads it in a tenth of the time.
COLUMNS = [
    Cast(f"event__{name}", TextField()) if name in {"data", "extensions"} else f"event__{name}" for name in CARRIED
]


def prepare() -> None:
    """Make sure that there is a row per shard to claim."""
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    OutboxShard.objects.bulk_create(
        (OutboxShard(shard=shard, holder="", until=long_ago) for shard in range(SHARDS)), ignore_conflicts=True
    )


def claim(holder: str, now: float, limit: int) -> list[Row]:
    """Lease what shards have events due and send nobody else's; up to ``limit`` events, in order."""
    at = datetime.fromtimestamp(now, UTC)
    due = waiting().filter(Q(next_at=None) | Q(next_at__lte=at))
    if not due.exists():
        return []
    free = OutboxShard.objects.filter(Q(holder="") | Q(until__lt=at) | Q(holder=holder))
    ahead = due.filter(shard__in=free.values("shard")).order_by("event_id").values_list("shard", flat=True)[:limit]
    shards = set(ahead)
    if not shards:
        return []
    free.filter(shard__in=shards).update(holder=holder, until=at + timedelta(seconds=LEASE_S))
    held = OutboxShard.objects.filter(holder=holder, until__gt=at).values("shard")
    # A key whose earlier event waits for its next try holds back the later ones: order before speed.
    # There may be as many as there are keys: the database keeps them to itself.
    blocked = waiting().filter(shard__in=held, next_at__gt=at).values("partition_key")
    ready = due.filter(shard__in=held).exclude(partition_key__in=blocked)
    claimed = [_row(*columns) for columns in ready.order_by("event_id").values_list("pk", "attempts", *COLUMNS)[:limit]]
    if not claimed:
        release(holder)
    return claimed


def _row(position: int, tries: int, *columns: Any) -> Row:
    said = list(columns)
    said[DATA] = msgspec.json.decode(said[DATA])
    said[EXTENSIONS] = msgspec.json.decode(said[EXTENSIONS]) if said[EXTENSIONS] != "{}" else {}
    return Row(position, carried(*said), tries)


def settle(holder: str, settlement: Settlement, now: float) -> None:
    """Mark what the bus took, put off what it refused, and give the shards back."""
    at = datetime.fromtimestamp(now, UTC)
    with transaction.atomic():
        for start in range(0, len(settlement.sent), 500):
            rows = OutboxMessage.objects.filter(pk__in=settlement.sent[start : start + 500], sent_at__isnull=True)
            rows.update(sent_at=at, attempts=F("attempts") + 1, last_error="")
        for row in settlement.put_off:
            OutboxMessage.objects.filter(pk=row.position, sent_at__isnull=True).update(
                attempts=row.tries, next_at=datetime.fromtimestamp(row.due, UTC), last_error=row.reason
            )
        release(holder)


def release(holder: str) -> None:
    """Give every shard back."""
    OutboxShard.objects.filter(holder=holder).update(holder="")


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
