"""What pages and the API read of dead letters and jobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet

from apps.events.letters import choice
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Subscription

MOST_GROUPS = 500
SAMPLE = 5
MOST_TYPES = 50

State = DeadLetter.State


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that failed alike, and one of them. ``waiting``: behind them in their keys."""

    fingerprint: str
    subscription: str
    reason: str
    count: int
    failed: int
    first_at: datetime | None
    last_at: datetime | None
    sample: DeadLetter | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would do: how many, by type, the first of them, and what waits behind them."""

    total: int
    by_type: dict[str, int]
    sample: list[Any]
    waiting: int = 0
    redriving: int = 0


def groups(said: dict[str, Any] | None = None, rows: QuerySet[DeadLetter] | None = None) -> list[Group]:
    """Open letters by fingerprint, the largest first, 500 at most. PatternError."""
    chosen = choice.letters(said or {}, rows).filter(state__in=DeadLetter.OPEN).exclude(fingerprint="")
    found = list(
        chosen.order_by()
        .values("fingerprint", "subscription__name", "reason")
        .annotate(
            count=Count("pk"),
            failed=Count("pk", filter=Q(state=State.FAILED)),
            first_at=Min("first_failed_at"),
            last_at=Max("last_failed_at"),
            newest=Max("pk"),
        )
        .order_by("-count", "fingerprint")[:MOST_GROUPS]
    )
    samples = DeadLetter.objects.select_related("subscription", "stored").in_bulk([one["newest"] for one in found])
    return [
        Group(
            one["fingerprint"],
            one["subscription__name"],
            one["reason"],
            one["count"],
            one["failed"],
            one["first_at"],
            one["last_at"],
            samples.get(one["newest"]),
        )
        for one in found
    ]


def open_counts(subscriptions: Iterable[Subscription] | None = None) -> dict[str, dict[str, int]]:
    """Open letters of each subscription by state."""
    rows = DeadLetter.objects.filter(state__in=DeadLetter.OPEN)
    if subscriptions is not None:
        rows = rows.filter(subscription__in=list(subscriptions))
    found: dict[str, dict[str, int]] = {}
    counted = rows.order_by().values_list("subscription__name", "state").annotate(count=Count("pk"))
    for name, state, count in counted:
        found.setdefault(name, {})[state] = count
    return found


def behind(letter: DeadLetter) -> int:
    """How many wait behind it in its key."""
    return DeadLetter.objects.filter(
        subscription=letter.subscription_id, key=letter.key, state=State.PARKED, place__gte=letter.place
    ).count()


def plan_redrive(subscription: Subscription, said: dict[str, Any]) -> Plan:
    """What a redrive of ``said`` would try now."""
    rows = choice.to_redrive(subscription, said)
    keys = rows.order_by().values("key")
    waiting = DeadLetter.objects.filter(subscription=subscription, state=State.PARKED, key__in=keys).count()
    under_way = DeadLetter.objects.filter(subscription=subscription, state=State.REDRIVING).count()
    return Plan(rows.count(), _by_type(rows), list(rows.order_by("pk")[:SAMPLE]), waiting, under_way)


def plan_replay(said: dict[str, Any]) -> Plan:
    """What a replay of ``said`` would deliver now."""
    after, last = choice.span(said)
    rows = choice.events(said, after, last)
    return Plan(rows.count(), _by_type(rows), list(rows[:SAMPLE]))


def _by_type(rows: QuerySet[Any]) -> dict[str, int]:
    counted = rows.order_by().values_list("type").annotate(count=Count("pk")).order_by("-count")
    return dict(counted[:MOST_TYPES])


def jobs(active: bool | None = None) -> QuerySet[RedriveJob]:
    """Jobs, the newest first; those that may go on, or those that have ended."""
    rows = RedriveJob.objects.select_related("subscription").order_by("-pk")
    if active is None:
        return rows
    return rows.filter(state__in=RedriveJob.ACTIVE) if active else rows.exclude(state__in=RedriveJob.ACTIVE)
