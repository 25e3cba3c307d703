"""Retention of the event store and its outbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from celery import shared_task
from django.conf import settings
from django.db import transaction

from apps.events import outbox
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, Handled, PublishedKey, Stream
from apps.events.subscriptions import retention
from apps.lib import clock

CHUNK = 5000
KEYS = 500
ROUNDS = 20
"""Chunks a run deletes at most, so that a first run over years of events does not hold the database up."""

DAY_S = 86_400.0


@shared_task(name="events.prune")
def prune() -> None:
    """Forget what was sent long ago, and events past their retention that were sent."""
    now = clock.wall()
    for _ in range(ROUNDS):
        if outbox.prune(now - settings.OUTBOX_DAYS * DAY_S, CHUNK) < CHUNK:
            break
    cut = datetime.fromtimestamp(now, UTC) - timedelta(days=settings.EVENT_DAYS)
    last = cut - timedelta(days=settings.UNREAD_DAYS)
    # Before their events: a key answers with all of them or is unknown.
    while old_keys := list(PublishedKey.objects.filter(time__lt=cut).values_list("pk", flat=True)[:KEYS]):
        PublishedKey.objects.filter(pk__in=old_keys).delete()
    # What was handled is known for as long as its event could be replayed.
    for _ in range(ROUNDS):
        handled = list(Handled.objects.filter(at__lt=last).order_by("at").values_list("pk", flat=True)[:CHUNK])
        Handled.objects.filter(pk__in=handled).delete()
        if len(handled) < CHUNK:
            break
    # Letters go with their events; these have none in the log.
    ended = DeadLetter.objects.filter(closed_at__lt=cut, state__in=DeadLetter.CLOSED)
    while old_letters := list(ended.values_list("pk", flat=True)[:KEYS]):
        DeadLetter.objects.filter(pk__in=old_letters).delete()
    RedriveJob.objects.filter(ended_at__lt=cut).delete()
    memory = Stream.objects.filter(kept=True).values("name")
    unread = retention.unread(cut, last)
    for _ in range(ROUNDS):
        # An event that still waits in the outbox stays, however old: it was accepted. So does one that somebody lacks.
        old = Event.objects.filter(time__lt=cut).exclude(outbox__in=outbox.waiting()).exclude(stream__in=memory)
        old = old.exclude(
            pk__in=DeadLetter.objects.filter(state__in=DeadLetter.OPEN, stored__time__lt=cut).values("stored")
        )
        if unread is not None:
            old = old.exclude(unread)
        chosen = list(old.order_by("pk").values_list("pk", flat=True)[:CHUNK])
        if not chosen:
            break
        with transaction.atomic():
            retention.tell(chosen)
            gone = Event.objects.filter(pk__in=chosen).prune()
        if gone < CHUNK:
            break
