"""What the log and its subscriptions say of themselves, read for the live feed. The ORM.

How far the log has come is asked each time, since pages follow it; letters are counted less often.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, Min, Sum

from apps.dashboard.judge.readings import Bus, Projected, Receiver
from apps.events import projections
from apps.events.archive.models import Aside
from apps.events.letters.models import DeadLetter
from apps.events.models import Build, Event, Stream
from apps.events.queries import head
from apps.events.subscriptions.models import Subscription
from apps.lib.clock import monotonic, wall

LETTERS_S = 4.5
"""Seconds from one count of letters to the next: one shows within ten seconds of its last attempt."""
HOUR = 3600.0
MOST = 500
"""Subscriptions that are told of."""


class BusSource:
    """Remembers what it counted last."""

    def __init__(self) -> None:
        self._due_at = float("-inf")
        self._open: dict[int, dict[str, int]] = {}
        self._keys = 0
        self._failed_at: float | None = None
        self._forged = self._holes = 0
        self._builds: list[Build] = []

    def read(self) -> Bus:
        """DatabaseError when the database does not answer."""
        end, now = head(), monotonic()
        if now >= self._due_at:
            self._count()
            self._due_at = now + LETTERS_S
        return Bus(
            head=end,
            receivers=receivers(end, self._open),
            keys=self._keys,
            failed_at=self._failed_at,
            forged=self._forged,
            holes=self._holes,
            projections=_projected(end, self._builds),
        )

    def _count(self) -> None:
        rows = DeadLetter.objects.filter(state__in=DeadLetter.OPEN).order_by()
        found: dict[int, dict[str, int]] = {}
        counted = rows.values_list("subscription", "state").annotate(Count("pk"))
        for subscription, state, count in counted:
            found.setdefault(subscription, {})[state] = count
        failed = rows.filter(state=DeadLetter.State.FAILED)
        self._open = found
        self._keys = 0
        if any("parked" in states for states in found.values()):
            parked = rows.filter(state=DeadLetter.State.PARKED)
            self._keys = parked.values("subscription", "key").distinct().count()
        first = failed.aggregate(at=Min("last_failed_at"))["at"] if any("failed" in s for s in found.values()) else None
        self._failed_at = first.timestamp() if first else None
        lately = Aside.objects.filter(reason=Aside.Reason.FORGED, last_at__gte=_ago(HOUR))
        self._forged = lately.aggregate(times=Sum("times"))["times"] or 0
        self._builds = list(Build.objects.filter(role=Build.Role.LIVE, projection__in=projections.REGISTERED))
        self._holes = Stream.objects.filter(missing__gt=0).aggregate(missing=Sum("missing"))["missing"] or 0


def receivers(
    end: int, open_letters: dict[int, dict[str, int]], rows: Sequence[Subscription] | None = None
) -> Sequence[Receiver]:
    """Every subscription (or ``rows``) with what it leaves undone; ``end`` is the newest position in the log.

    How far a service's consumer has come is not known here (apps.dashboard.events.groups).
    """
    rows = list(Subscription.objects.order_by("name")[:MOST]) if rows is None else rows
    behind = {row.position + 1 for row in rows if follows(row) and row.position < end}
    times = dict(Event.objects.filter(position__in=behind).values_list("position", "time")) if behind else {}
    return tuple(
        Receiver(
            name=row.name,
            kind=row.kind,
            state=row.state,
            reason=row.reason,
            lag=max(0, end - row.position) if follows(row) else None,
            behind_since=_seconds(times.get(row.position + 1)) if follows(row) else None,
            opened_until=_seconds(row.opened_until),
            failing_since=_seconds(row.failing_since),
            open=open_letters.get(row.pk, {}),
        )
        for row in rows
    )


def _projected(end: int, builds: Sequence[Build]) -> Sequence[Projected]:
    """What somebody registers, and how far it is; what is no longer registered nobody brings on."""
    late = {one.position + 1 for one in builds if one.position < end}
    times = dict(Event.objects.filter(position__in=late).values_list("position", "time")) if late else {}
    return tuple(
        Projected(one.projection, max(0, end - one.position), _seconds(times.get(one.position + 1)), one.fault)
        for one in builds
    )


def follows(row: Any) -> bool:
    """Whether it reads the log; a service's consumer reads its broker."""
    return bool(row.kind != Subscription.Kind.CONSUMER)


def _ago(seconds: float) -> datetime:
    return datetime.fromtimestamp(wall() - seconds, UTC)


def _seconds(at: datetime | None) -> float | None:
    return at.timestamp() if at else None
