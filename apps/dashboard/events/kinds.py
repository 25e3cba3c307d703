"""The types of events: those with a schema and those that were only seen, who makes and who takes them, how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.events.models import Event, EventType
from apps.events.queries import head, known_types
from apps.events.schemas.queries import consumers
from apps.lib.clock import wall

SAMPLE = 5_000
"""Events, the newest, by which rates are told: what it costs doesn't grow with the log."""
WINDOW = 3600.0
"""Seconds back at most: what is older is no rate of today."""
SETTLED = 60.0
"""Seconds that a rate is told of at least: three events within a second are not three a second."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How many events of the last ``seconds`` were of which type, and by whom; ``full``: more than were counted."""

    seconds: float = SETTLED
    by_type: Mapping[str, int] = field(default_factory=dict)
    by_source: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(source, type) → how many."""

    def of(self, type: str) -> float:
        """Events of ``type`` a second."""
        return self.by_type.get(type, 0) / self.seconds

    def between(self, source: str, type: str) -> float:
        """Events of ``type`` a second that ``source`` published."""
        return self.by_source.get((source, type), 0) / self.seconds


def rates() -> Rates:
    """Rates by the newest SAMPLE events of the last hour."""
    now = wall()
    found = [
        (type, source, at.timestamp())
        for type, source, at in Event.objects.filter(position__gt=head() - SAMPLE)
        .order_by()
        .values_list("type", "source", "time")
    ]
    young = [one for one in found if one[2] >= now - WINDOW]
    if not young:
        return Rates()
    # All of the hour when the sample reaches back that far; else only as far as it does.
    whole = len(young) < len(found) or len(found) < SAMPLE
    seconds = WINDOW if whole else max(SETTLED, now - min(at for _, _, at in young))
    return Rates(
        seconds,
        Counter(type for type, _, _ in young),
        Counter((source, type) for type, source, _ in young),
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """One type. ``version`` 0: no schema."""

    name: str
    version: int = 0
    mode: str = ""
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    rate: float = 0.0
    seen: int = 0
    """Events of it among those that the rate is told by."""


def kinds() -> tuple[list[Kind], Rates]:
    """Every type by name: registered, seen in the log, or both."""
    rows = {row.name: row for row in EventType.objects.all()}
    counted = rates()
    seen = known_types()
    names = sorted(rows.keys() | set(seen))
    taken = consumers(names)
    makers: dict[str, set[str]] = {}
    for source, type in counted.by_source:
        makers.setdefault(type, set()).add(source)
    found = []
    for name in names:
        row = rows.get(name)
        producers = sorted({*(row.producers if row else ()), *makers.get(name, ())})
        found.append(
            Kind(
                name,
                row.newest if row else 0,
                row.mode.replace("_", " ") if row else "",
                tuple(producers),
                tuple(taken.get(name, ())),
                counted.of(name),
                counted.by_type.get(name, 0),
            )
        )
    return found, counted


def newest(type: str) -> Any:
    """The events of ``type`` that have a position, the newest first."""
    return Event.objects.filter(type=type, position__isnull=False).order_by("-position")
