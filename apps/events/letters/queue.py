"""What could not be delivered, in line: per subscription and key the oldest open letter is the head, and nothing of its
key overtakes it. Every other key goes on.

Delivery asks here which keys are blocked, and says what became of each event. It must hold a subscription alone while
it does: nothing here keeps two deliveries of one subscription apart. Who puts something behind a head and who closes
that head are kept apart here: both hold the subscription's row first, then letters, then jobs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from apps.events.letters.core import MAX_ERROR, MAX_STACK, Failure, again_at, bounded, fingerprint
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event
from apps.events.subscriptions.models import Subscription

__all__ = ["Failure", "blocked", "due", "fail", "full", "hold", "key_of", "next_due", "park", "resolve"]

EDITED: Final = "edited/"
"""How the streams of edited events begin: each is delivered as a letter, in the place of its original."""
AT_ONCE: Final = 500
"""Keys in one statement."""
MAX_OPEN: Final = 100_000
"""Open letters of one subscription; at so many it reads no further until somebody deals with them."""

State = DeadLetter.State


def key_of(event: Event) -> str:
    """What keeps an event in order with others."""
    return event.stream


def blocked(subscription: Any, keys: Iterable[str]) -> set[str]:
    """Those of ``keys`` with an open letter: what comes of them is parked. So are edited events, which have theirs."""
    wanted = list(set(keys))
    found = {key for key in wanted if key.startswith(EDITED)}
    for start in range(0, len(wanted), AT_ONCE):
        rows = _open(subscription).filter(key__in=wanted[start : start + AT_ONCE])
        found.update(rows.values_list("key", flat=True).distinct())
    return found


def hold(subscription: int) -> None:
    """Nobody else moves letters of this subscription until the transaction ends."""
    list(Subscription.objects.select_for_update().filter(pk=subscription).order_by().values_list("pk"))


def full(subscription: Any) -> bool:
    """Whether it holds as many open letters as it may."""
    return _open(subscription).order_by("pk").values("pk")[MAX_OPEN - 1 : MAX_OPEN].exists()


def fail(subscription: Any, event: Event, failure: Failure, now: float, tried: DeadLetter | None = None) -> DeadLetter:
    """Note that ``event`` was tried and not taken, and when it is tried again, if ever. ``tried``: as that letter."""
    at = datetime.fromtimestamp(now, UTC)
    with transaction.atomic():
        letter = _letter(subscription, event, at, 0 if tried is None else tried.replay)
        first = letter.first_failed_at or at
        redriven = letter.state == State.REDRIVING
        letter.attempts += 1
        letter.reason = failure.reason[:32]
        letter.error = bounded(failure.error, MAX_ERROR)
        letter.stack = bounded(failure.stack, MAX_STACK)
        letter.fingerprint = fingerprint(subscription.name, letter.reason, letter.error)
        letter.first_failed_at, letter.last_failed_at = first, at
        # Who had it redriven hears of it now; its tries by itself are over.
        next_at = None if redriven else _next(subscription, failure, letter.attempts, first.timestamp(), now)
        letter.state = State.FAILED if next_at is None else State.RETRYING
        letter.next_at = None if next_at is None else datetime.fromtimestamp(next_at, UTC)
        letter.closed_at = None
        letter.save()
        if redriven:
            count(letter.job_id, succeeded=False)
    return letter


def park(subscription: Any, event: Event, now: float) -> DeadLetter:
    """Put ``event`` behind the open letters of its key. One that is there already stays as it is; when those have just
    been closed it is tried as the next one."""
    at = datetime.fromtimestamp(now, UTC)
    with transaction.atomic():
        hold(subscription.pk)
        letter = _letter(subscription, event, at, 0)
        if letter.pk is None:
            letter.state = State.PARKED
            if not _open(subscription).filter(key=letter.key).exists():
                letter.state, letter.next_at = State.RETRYING, at
            letter.save()
    return letter


def due(subscription: Any, now: float, limit: int) -> list[DeadLetter]:
    """Up to ``limit`` heads of their keys that are to be tried now, the longest due first, with their events."""
    earlier = DeadLetter.objects.filter(
        Q(place__lt=OuterRef("place")) | Q(place=OuterRef("place"), pk__lt=OuterRef("pk")),
        subscription=OuterRef("subscription"),
        key=OuterRef("key"),
        state__in=DeadLetter.OPEN,
    )
    rows = DeadLetter.objects.filter(
        subscription=subscription,
        state__in=[State.RETRYING, State.REDRIVING],
        next_at__lte=datetime.fromtimestamp(now, UTC),
    )
    return list(rows.filter(~Exists(earlier)).select_related("stored").order_by("next_at", "pk")[:limit])


def next_due(subscription: Any) -> float | None:
    """When the next letter is to be tried; None when none is."""
    rows = DeadLetter.objects.filter(subscription=subscription, state__in=[State.RETRYING, State.REDRIVING])
    at = rows.order_by("next_at").values_list("next_at", flat=True).first()
    return None if at is None else at.timestamp()


def resolve(letter: DeadLetter, now: float) -> None:
    """It was taken at last: the next one of its key is tried."""
    close(letter, State.RESOLVED, now)


def close(letter: DeadLetter, state: str, now: float, **said: Any) -> bool:
    """Close ``letter`` and free what waits behind it; False when somebody else has closed it."""
    at = datetime.fromtimestamp(now, UTC)
    with transaction.atomic():
        hold(letter.subscription_id)
        open_ones = DeadLetter.objects.filter(pk=letter.pk, state__in=DeadLetter.OPEN)
        # Somebody may have had it redriven since it was read.
        letter.state, letter.job_id = open_ones.values_list("state", "job").first() or (letter.state, letter.job_id)
        redriven = letter.state == State.REDRIVING
        if not open_ones.update(state=state, next_at=None, closed_at=at, **said):
            return False
        letter.state, letter.next_at, letter.closed_at = state, None, at
        alive = redriven and count(letter.job_id, succeeded=state == State.RESOLVED)
        # A service's own store says when its next one is tried.
        if letter.subscription.kind != letter.subscription.Kind.CONSUMER:
            _free(letter, at, letter.job_id if alive else None)
        if letter.replay and state == State.RESOLVED:
            # A million may be replayed: the job has counted it.
            DeadLetter.objects.filter(pk=letter.pk).delete()
    return True


def count(job: int | None, *, succeeded: bool) -> bool:
    """Count an outcome to ``job``; whether it goes on. Whoever ends the job waits for this transaction, or ended it
    before: what is left to a job here is not left behind by it."""
    if job is None:
        return False
    rows = RedriveJob.objects.filter(pk=job)
    if succeeded:
        rows.update(succeeded=F("succeeded") + 1, failed_in_a_row=0)
    else:
        rows.update(failed=F("failed") + 1, failed_in_a_row=F("failed_in_a_row") + 1)
    return rows.filter(state__in=RedriveJob.ACTIVE).exists()


def _free(letter: DeadLetter, at: datetime, job: int | None) -> None:
    """The next of the key is tried: now, or, under a job, when that comes to it."""
    heir = _open(letter.subscription_id).filter(key=letter.key).order_by("place", "pk").first()
    if heir is None or heir.state != State.PARKED:
        return
    rows = DeadLetter.objects.filter(pk=heir.pk, state=State.PARKED)
    if heir.replay:
        rows.update(state=State.REDRIVING, next_at=at)
    elif job is not None:
        rows.update(job=job)
    else:
        rows.update(state=State.RETRYING, next_at=at)


def _open(subscription: Any) -> QuerySet[DeadLetter]:
    return DeadLetter.objects.filter(subscription=subscription, state__in=DeadLetter.OPEN)


def _letter(subscription: Any, event: Event, at: datetime, replay: int) -> DeadLetter:
    """The event's letter, locked, or a new one that is not stored yet."""
    identity = {"subscription": subscription, "source": event.source, "event_id": event.event_id, "replay": replay}
    letter = DeadLetter.objects.select_for_update().filter(**identity).first()
    return letter or DeadLetter(
        **identity,
        type=event.type,
        key=key_of(event),
        place=event.position,
        stored=event,
        wire_key=event.partition_key,
        state=State.RETRYING,
        created_at=at,
    )


def _next(subscription: Any, failure: Failure, tries: int, first_at: float, now: float) -> float | None:
    chance = random.random
    return again_at(
        failure, tries, first_at, now, chance, attempts=subscription.max_attempts, age_s=subscription.max_age_s
    )
