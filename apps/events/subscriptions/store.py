"""What the engine reads and writes: leases, the log from a position on, and in one transaction what came of deliveries.

Every write asks for the lease: who has lost it changes nothing, and hears so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import close_old_connections, transaction
from django.db.models import F, Q

from apps.events import queries
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.letters.models import DeadLetter
from apps.events.models import Event
from apps.events.subscriptions.core import Health, Item, Outcome, Verdict
from apps.events.subscriptions.matching import Wanted, chosen
from apps.events.subscriptions.models import Attempt, Subscription
from apps.lib import clock

LEASE_S: Final = 15.0
"""After which another relay takes over from one that is gone."""
KEEP_ATTEMPTS: Final = 1000
"""Attempts that are kept of each subscription."""
AT_ONCE: Final = 100
"""Events that are read at once."""
OURS: Final = (Subscription.Kind.WEBHOOK, Subscription.Kind.INTERNAL)


class Lost(Exception):
    """The lease is somebody else's now, or the position was moved: what was going to be written was not."""


def moment(seconds: float) -> datetime | None:
    """Wall-clock seconds as a column has them; 0 is none."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def seconds(at: datetime | None) -> float:
    """The other way round."""
    return at.timestamp() if at else 0.0


def claim(holder: str, now: float) -> list[Subscription]:
    """Renew the leases of ``holder`` and take those that are free; the rows that are its now."""
    close_old_connections()
    at = datetime.fromtimestamp(now, UTC)
    active = Subscription.objects.filter(kind__in=OURS, state=Subscription.State.ACTIVE)
    free = active.filter(Q(holder=holder) | Q(holder="") | Q(until__isnull=True) | Q(until__lt=at))
    if free.update(holder=holder, until=at + timedelta(seconds=LEASE_S)):
        return list(active.filter(holder=holder))
    return []


def release_all(holder: str) -> None:
    """Let others have what was ``holder``'s at once."""
    Subscription.objects.filter(holder=holder).update(holder="", until=None)


@dataclass(slots=True)
class Read:
    """What there is to do next."""

    fresh: list[Item]
    position: int
    more: bool
    """Whether there may be further events behind ``position`` now."""
    odd: int = 0
    stale: bool = False
    """Somebody has changed the subscription, or paused it: nothing was read."""
    full: bool = False
    """Too many letters are open: nothing was read."""
    letters: list[Item] = field(default_factory=list)
    next_due: float | None = None


class Tail:
    """The newest events, read once for all who are up to date."""

    def __init__(self) -> None:
        self._from = 0
        self._reading = queries.Reading([], 0)

    def read(self, position: int, wanted: Wanted, limit: int) -> queries.Reading:
        """As ``queries.following``; events that are for somebody alone come whatever their type."""
        if not self._from <= position < self._reading.position:
            head = queries.head()
            if head <= position:
                return queries.Reading([], position)
            if head - position > AT_ONCE:
                return self._far(position, wanted, limit)
            self._from, self._reading = position, queries.following(position, limit=AT_ONCE)
        events = [event for event in self._reading.events if (event.position or 0) > position][:limit]
        last = events[-1].position if len(events) == limit else self._reading.position
        return queries.Reading(events, last or position)

    def _far(self, position: int, wanted: Wanted, limit: int) -> queries.Reading:
        """By the types that are wanted: a million others cost nothing. What is addressed comes with them."""
        found = queries.following(position, wanted.patterns, limit)
        addressed = Event.objects.filter(
            addressee=wanted.name, position__gt=position, position__lte=found.position
        ).exclude(pk__in=[event.pk for event in found.events])
        events = sorted([*found.events, *addressed[:limit]], key=lambda event: event.position or 0)
        if len(events) <= limit:
            return queries.Reading(events, found.position)
        return queries.Reading(events[:limit], events[limit - 1].position or position)


def read(row: Subscription, wanted: Wanted, tail: Tail, position: int, room: int, retries: int, now: float) -> Read:
    """Up to ``room`` fresh events after ``position`` and ``retries`` letters that are due. What lies behind an open
    letter of its key is parked, in one transaction with what was read of it."""
    close_old_connections()
    found = Read([], position, more=False)
    same = Subscription.objects.filter(pk=row.pk, revision=row.revision, state=Subscription.State.ACTIVE)
    if not same.exists():
        found.stale = True
        return found
    if retries:
        found.letters = [
            Item(letter.key, letter.event, letter=letter)
            for letter in queue.due(row, now, retries)
            if letter.event is not None
        ]
        found.next_due = queue.next_due(row)
    if room <= 0:
        found.more = True
        return found
    reading = tail.read(position, wanted, room)
    events, found.odd = chosen(wanted, reading.events)
    found.position, found.more = reading.position, reading.position > position
    if not events:
        return found
    keys = [queue.key_of(event) for event in events]
    blocked = queue.blocked(row, keys)
    if blocked and queue.full(row):
        found.position, found.more, found.full = position, False, True
        return found
    for key, event in zip(keys, events, strict=True):
        if key in blocked:
            queue.park(row, event, now)
        else:
            found.fresh.append(Item(key, event, event.position or 0))
    return found


@dataclass(slots=True)
class Work:
    """What came of deliveries and is to be stored."""

    ended: list[tuple[Item, Outcome]] = field(default_factory=list)
    """Taken or failed for the event's own sake."""
    tried: list[tuple[Item, Outcome]] = field(default_factory=list)
    """Every attempt, for the log of attempts."""
    parked: list[Item] = field(default_factory=list)
    odd: int = 0
    disable: str = ""
    """Why the subscription ends."""
    allowed: tuple[float, float] | None = None
    """When the endpoint gave its permission, and to how many events a second."""
    error: str = ""

    def __bool__(self) -> bool:
        return bool(self.ended or self.tried or self.parked or self.odd or self.disable or self.allowed or self.error)


def store(
    subscription: Subscription, holder: str, work: Work, position: int, health: Health, pace: float, now: float
) -> None:
    """All of ``work``, and the position that follows from it; Lost, and nothing is stored, without the lease."""
    close_old_connections()
    taken = [one for one in work.ended if one[1].verdict is Verdict.TAKEN]
    failed = [one for one in work.tried if one[1].verdict is not Verdict.TAKEN]
    changes: dict[str, Any] = {
        "position": position,
        "delivered": F("delivered") + len(taken),
        "failed": F("failed") + len(failed),
        "odd": F("odd") + work.odd,
    }
    if taken:
        changes |= {"delivered_at": datetime.fromtimestamp(now, UTC), "pace": pace}
    if failed or work.error:
        changes["last_error"] = failed[-1][1].error if failed else work.error
    if work.allowed:
        changes |= {"allowed_at": moment(work.allowed[0]), "allowed_rate": work.allowed[1]}
    if work.disable:
        changes |= {"state": Subscription.State.DISABLED, "reason": work.disable, "revision": F("revision") + 1}
    with transaction.atomic():
        held = Subscription.objects.filter(pk=subscription.pk, holder=holder)
        # Somebody who has just changed it has said what is known of the endpoint.
        same = held.filter(revision=subscription.revision).update(
            **changes,
            failures=health.failures,
            failing_since=moment(health.since),
            opened_until=moment(health.opened_until),
        )
        if not same and not held.update(**changes):
            raise Lost
        for item, outcome in work.ended:
            _end(subscription, item, outcome, now)
        for item in work.parked:
            queue.park(subscription, item.event, now)
        Attempt.objects.bulk_create(_attempt(subscription, item, outcome) for item, outcome in work.tried)


def _end(subscription: Subscription, item: Item, outcome: Outcome, now: float) -> None:
    if outcome.verdict is Verdict.TAKEN:
        if item.letter is not None:
            queue.resolve(item.letter, now)
        return
    failure = Failure(
        outcome.reason,
        outcome.error,
        outcome.stack,
        permanent=outcome.verdict is Verdict.NEVER,
        retry_after_s=outcome.retry_after_s,
    )
    queue.fail(subscription, item.event, failure, now, item.letter)


def _attempt(subscription: Subscription, item: Item, outcome: Outcome) -> Attempt:
    return Attempt(
        subscription=subscription,
        source=item.event.source,
        event_id=item.event.event_id,
        type=item.event.type,
        at=datetime.fromtimestamp(outcome.at, UTC),
        duration_ms=round(outcome.took_s * 1000),
        outcome=outcome.reason,
        status=outcome.status,
        error=outcome.error,
        answer=outcome.answer,
    )


def trim(subscription: int) -> None:
    """Forget the attempts beyond the newest that are kept."""
    rows = Attempt.objects.filter(subscription=subscription).order_by("-id")
    oldest = rows.values_list("pk", flat=True)[KEEP_ATTEMPTS : KEEP_ATTEMPTS + 1].first()
    if oldest is not None:
        Attempt.objects.filter(subscription=subscription, pk__lte=oldest).delete()


def overdue(now: float) -> set[int]:
    """Subscriptions of which letters are due: a nudge may have been lost."""
    rows = DeadLetter.objects.filter(
        state__in=[DeadLetter.State.RETRYING, DeadLetter.State.REDRIVING], next_at__lte=datetime.fromtimestamp(now, UTC)
    )
    return set(rows.order_by().values_list("subscription", flat=True).distinct())


def behind() -> Iterable[tuple[str, int, str]]:
    """Name, positions not settled and state of each subscription that we deliver for."""
    head = queries.head()
    rows: Sequence[tuple[str, int, Any]] = list(
        Subscription.objects.filter(kind__in=OURS).values_list("name", "position", "opened_until")
    )
    now = clock.wall()
    return [
        (name, max(head - position, 0), "closed" if not until else "open" if seconds(until) > now else "half-open")
        for name, position, until in rows
    ]
