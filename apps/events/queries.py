"""What pages and the API read of the event store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from django.db.models import Q, QuerySet

from apps.events.models import Event
from services.kit.events import patterns

MOST = 1000


def recent(types: Sequence[str] = ("#",), since: float | None = None, limit: int = 100) -> list[Event]:
    """Events whose type matches one of the patterns ``types``, newest first; ``since`` in wall-clock seconds.

    What was committed a moment ago is among them, though it may have no position yet. PatternError for a
    broken pattern. At most 1,000 at once.
    """
    rows = matching(Event.objects.all(), types)
    if since is not None:
        rows = rows.filter(time__gte=datetime.fromtimestamp(since, UTC))
    return list(rows.order_by("-pk")[: max(min(limit, MOST), 0)])


def following(position: int, types: Sequence[str] = ("#",), limit: int = 100) -> list[Event]:
    """Events after ``position`` (0 is the beginning) whose type matches one of ``types``, in the order of the log.

    A reader that goes on from the last position it was given sees every event, once, whoever writes meanwhile.
    PatternError for a broken pattern. At most 1,000 at once.
    """
    rows = matching(Event.objects.filter(position__gt=position), types)
    return list(rows.order_by("position")[: max(min(limit, MOST), 0)])


def matching(rows: QuerySet[Event], types: Sequence[str]) -> QuerySet[Event]:
    """Narrow ``rows`` to those whose type matches one of the patterns."""
    wanted = Q(pk__in=[])
    for pattern in types:
        prefix = patterns.literal_prefix(pattern)
        if prefix == pattern:
            wanted |= Q(type=pattern)
            continue
        one = Q(type__regex=patterns.to_regex(pattern))
        if prefix:
            one &= Q(type__startswith=prefix)
        wanted |= one
    return rows.filter(wanted)
