"""What pages, the API and the registry of schemas read of subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Count

from apps.events import queries
from apps.events.letters.models import DeadLetter
from apps.events.subscriptions.condition import ConditionError
from apps.events.subscriptions.core import Health
from apps.events.subscriptions.matching import match, wanted_by
from apps.events.subscriptions.models import Subscription
from apps.events.subscriptions.store import seconds
from apps.lib import clock
from services.kit.events import patterns
from services.kit.events.cloudevent import CloudEvent

FRESH_S: Final = 30.0
"""After this long without a delivery its pace is nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One subscription as it is now."""

    row: Subscription
    behind: int | None
    """Positions of the log that it has not settled; None for a consumer, whose broker alone knows."""
    pace: float
    """Deliveries a second of late."""
    breaker: str
    """``closed``, ``open`` or ``half-open``."""
    letters: dict[str, int]
    """Open dead letters by state."""


def breaker(row: Subscription, now: float) -> str:
    """How its breaker stands at wall-clock ``now``."""
    health = Health(opened_until=seconds(row.opened_until))
    return "closed" if not health.probing else "half-open" if health.most(now, 1) else "open"


def behind(row: Subscription, head: int) -> int | None:
    """How far it is behind ``head``."""
    return None if row.kind == Subscription.Kind.CONSUMER else max(head - row.position, 0)


def pace(row: Subscription, now: float) -> float:
    """Deliveries a second of late."""
    return row.pace if now - seconds(row.delivered_at) < FRESH_S else 0.0


def listing(rows: Iterable[Subscription] | None = None) -> list[Seen]:
    """All subscriptions (or ``rows``) as they are now, in the order of names."""
    found = list(Subscription.objects.all() if rows is None else rows)
    now, head = clock.wall(), queries.head()
    letters: dict[int, dict[str, int]] = {}
    counted = DeadLetter.objects.filter(state__in=DeadLetter.OPEN).order_by()
    for pk, state, count in counted.values_list("subscription", "state").annotate(Count("pk")):
        letters.setdefault(pk, {})[state] = count
    return [Seen(row, behind(row, head), pace(row, now), breaker(row, now), letters.get(row.pk, {})) for row in found]


def matching(event: CloudEvent, addressee: str = "") -> list[tuple[Subscription, bool, str]]:
    """Every subscription, whether ``event`` is for it, and why as a clause for people."""
    found: list[tuple[Subscription, bool, str]] = []
    for row in Subscription.objects.all():
        try:
            told = match(wanted_by(row), event, addressee)
            matched, why = told.matched, told.why
        except ConditionError as error:
            matched, why = False, str(error)
        if matched and row.state != Subscription.State.ACTIVE:
            why += f", and it is {row.state}"
        found.append((row, matched, why))
    return found


def readers(types: Iterable[str]) -> dict[str, list[str]]:
    """The names of the subscriptions whose patterns match each of ``types``; those that are disabled read nothing."""
    asked = list(types)
    if not asked:
        return {}
    rows: list[tuple[str, Any]] = list(
        Subscription.objects.exclude(state=Subscription.State.DISABLED).values_list("name", "patterns")
    )
    # Most patterns begin with a word: hundreds of them against hundreds of types are a page's whole time.
    by_domain: dict[str, list[tuple[str, str]]] = {}
    for name, wanted in rows:
        for one in wanted:
            first = one.partition(".")[0]
            by_domain.setdefault("" if first in {"*", "#"} else first, []).append((name, one))
    return {type: _matching(type, by_domain) for type in asked}


def _matching(type: str, by_domain: dict[str, list[tuple[str, str]]]) -> list[str]:
    told = (*by_domain.get("", ()), *by_domain.get(type.partition(".")[0], ()))
    return sorted({name for name, one in told if patterns.matches(one, type)})
