"""What pages, the API and readers of the log read of the event store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection
from django.db.models import QuerySet, Value
from django.db.models.functions import Concat

from apps.events.models import ALL, Event, Stream
from services.kit.events import patterns

MOST = 1000
MOST_PROBED = 100
"""Types that a page is bounded by. Each costs a query, and a publisher may choose as many types as they like."""

# From one type to the next by the index: as many probes as there are types, however many events.
TYPES = f"""
WITH RECURSIVE kind (type) AS (
    SELECT min(type) FROM {Event._meta.db_table}
    UNION ALL
    SELECT (SELECT min(type) FROM {Event._meta.db_table} WHERE type > kind.type) FROM kind WHERE kind.type IS NOT NULL
)
SELECT type FROM kind WHERE type IS NOT NULL
"""  # noqa: S608 - the table's own name


@dataclass(frozen=True, slots=True)
class Reading:
    """Some events in the order of the log, and the ``position`` from which to go on reading."""

    events: list[Event]
    position: int


def recent(types: Sequence[str] = ("#",), since: float | None = None, limit: int = 100) -> list[Event]:
    """Events whose type matches one of the patterns ``types``, newest first; ``since`` in wall-clock seconds.

    What was committed a moment ago is among them, though it may have no position yet. PatternError for a
    broken pattern. At most 1,000 at once.
    """
    rows = beside(Event.objects.all(), types)
    if since is not None:
        rows = rows.filter(time__gte=datetime.fromtimestamp(since, UTC))
    return list(rows.order_by("-time", "-pk")[: max(min(limit, MOST), 0)])


def following(position: int, types: Sequence[str] = ("#",), limit: int = 100, until: int | None = None) -> Reading:
    """Events after ``position`` (0 is the beginning) whose type matches one of ``types``, in the order of the log.

    ``until`` is the last position of interest; the newest when it is None.
    A reader that goes on from the position it is given sees every event, once, whoever writes meanwhile, and
    does not look again at what is not for it. PatternError for a broken pattern. 1 to 1,000 at once.
    """
    limit = max(min(limit, MOST), 1)
    # First, so that whatever is up to here is seen by all that is asked afterwards, new types too.
    end = head() if until is None else min(head(), until)
    rows = Event.objects.filter(position__gt=position, position__lte=end)
    if (kinds := kinds_like(types)) is not None:
        rows = page_of(rows, kinds, position, limit, forward=True)
    events = list(rows.order_by("position")[:limit])
    last = events[-1].position if len(events) == limit else end
    return Reading(events, max(position, last or 0))


def head() -> int:
    """The newest position in the log; 0 before there is one."""
    return Stream.objects.filter(name=ALL).values_list("version", flat=True).first() or 0


def history(stream: str, after: int = 0, until: int | None = None) -> QuerySet[Event]:
    """The events of one stream in order, from the version behind ``after`` up to and with version ``until``."""
    rows = Event.objects.filter(stream=stream, version__gt=after)
    return (rows if until is None else rows.filter(version__lte=until)).order_by("version")


def kinds_like(types: Sequence[str]) -> list[str] | None:
    """The types in the log that match one of the patterns; None for all. PatternError for what is no pattern."""
    for pattern in types:
        patterns.segments(pattern)
    if "#" in types:
        return None
    if all(patterns.literal_prefix(pattern) == pattern for pattern in types):
        return sorted(set(types))
    return [name for name in known_types() if any(patterns.matches(one, name) for one in types)]


def known_types() -> list[str]:
    """Every type that an event in the log has, by name."""
    with connection.cursor() as cursor:
        cursor.execute(TYPES)
        return [name for (name,) in cursor.fetchall()]


def matching(rows: QuerySet[Event], types: Sequence[str]) -> QuerySet[Event]:
    """Narrow ``rows`` to those whose type matches one of the patterns. PatternError for what is none."""
    kinds = kinds_like(types)
    return rows if kinds is None else rows.filter(type__in=kinds)


def beside(rows: QuerySet[Event], types: Sequence[str]) -> QuerySet[Event]:
    """``matching`` for rows that something else narrows more: SQLite, which keeps no figures about its columns,
    would go by the types first and read a million events of the last year to show those of the last minute."""
    kinds = kinds_like(types)
    return rows if kinds is None else _beside(rows, kinds)


def _beside(rows: QuerySet[Event], kinds: Sequence[str]) -> QuerySet[Event]:
    return rows.alias(kind=Concat("type", Value(""))).filter(kind__in=kinds)


def page_of(
    rows: QuerySet[Event], kinds: Sequence[str], start: int | None, count: int, *, forward: bool
) -> QuerySet[Event]:
    """Narrow ``rows`` to ``kinds``, and to no more positions than hold the next ``count`` events from ``start`` on.

    A database either sorts all events of several types or goes through the log until it has found enough: both
    take a million steps for one page when the types are common, or rare. The page ends at the latest where one of the
    types alone would fill it, and that is a probe of the index by type and position for each of the first. Where they
    are more, and none of these fills it, the log is gone through.
    """
    order = "position" if forward else "-position"
    begin = {} if start is None else {"position__gt" if forward else "position__lt": start}
    filled = []
    for kind in kinds[:MOST_PROBED]:
        own = Event.objects.filter(type=kind, position__isnull=False, **begin).order_by(order)
        filled += own.values_list("position", flat=True)[count - 1 : count]
    rows = rows.filter(type__in=kinds) if len(kinds) <= MOST_PROBED else _beside(rows, kinds)
    if not filled:
        return rows
    return rows.filter(position__lte=min(filled)) if forward else rows.filter(position__gte=max(filled))
