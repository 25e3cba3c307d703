"""Reading what a decision rests on, and looking again when it is published: the two ends of a dynamic boundary."""

from __future__ import annotations

from django.db.models import Q, QuerySet

from apps.events import sequencer
from apps.events.boundary import Boundary, Match
from apps.events.models import Event
from apps.events.queries import head, matching

MOST = 10_000
"""Events that one decision may rest on. What needs more wants a projection or a snapshot."""


class TooMany(ValueError):
    """A decision would rest on more events than are read at once."""


def decide_on(*matches: Match) -> tuple[list[Event], Boundary]:
    """All events that fit one of ``matches``, in order, and the boundary to publish with what is decided on them.

    On BoundaryConflict ask again and decide again. TooMany beyond 10,000 events. Not for the middle of a
    long transaction: no other sequencer can give positions before it ends.
    """
    # What is committed and not numbered yet would stand after the boundary, and against it.
    while sequencer.number():
        pass
    boundary = Boundary(head(), matches)
    found: dict[int, Event] = {}
    for match in matches:
        rows = _fitting(Event.objects.filter(position__lte=boundary.after), match)
        found |= {event.pk: event for event in rows.order_by("position")[: MOST + 1]}
        if len(found) > MOST:
            raise TooMany(f"More than {MOST:,} events match: decide on a projection or a snapshot instead.")
    return sorted(found.values(), key=lambda event: event.position or 0), boundary


def first_beyond(boundary: Boundary) -> Event | None:
    """An event that stands against ``boundary``; None when a publisher may append."""
    # Those without a position first: a sequencer may number them meanwhile, and then the second look finds them.
    for later in (Q(position__isnull=True), Q(position__gt=boundary.after)):
        for match in boundary.matches:
            if found := _fitting(Event.objects.filter(later), match).order_by("pk").first():
                return found
    return None


def _fitting(rows: QuerySet[Event], match: Match) -> QuerySet[Event]:
    """Narrow ``rows`` to those that fit ``match``."""
    rows = matching(rows, match.types)
    for tag in match.tags:
        rows = rows.filter(tags__tag=tag)
    if match.subject:
        rows = rows.filter(subject=match.subject)
    return rows.filter(stream=match.stream) if match.stream else rows
