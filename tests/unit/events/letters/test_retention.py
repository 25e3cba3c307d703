"""How long letters and jobs are kept: as long as events, and an open one for as long as it is open."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone

from apps.events.letters import editing, queue
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, OutboxMessage, Subscription
from apps.events.tasks import prune
from apps.lib import clock
from tests.unit.events.letters.delivery import failed, hook, published

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def test_what_has_ended_goes_with_its_event_and_what_is_open_keeps_it() -> None:
    long_ago = timezone.now() - timedelta(days=9999)
    one = hook()
    still = failed(one, "open")
    queue.resolve(failed(one, "closed"), clock.wall())
    edited = editing.edit(failed(one, "edited"), {"key": "other"}, actor="ann", note="")
    queue.resolve(edited, clock.wall())
    odd = failed(one, "odd")
    DeadLetter.objects.filter(pk=odd.pk).update(stored=None, state="discarded", closed_at=long_ago)
    job = {"kind": "redrive", "subscription": one, "actor": "ann", "created_at": long_ago}
    RedriveJob.objects.create(**job, state="done", ended_at=long_ago)
    RedriveJob.objects.create(**job, state="paused")
    OutboxMessage.objects.update(sent_at=timezone.now())
    QuerySet(Event).update(time=long_ago)
    prune()
    assert list(DeadLetter.objects.values_list("pk", flat=True)) == [still.pk]
    assert list(Event.objects.filter(type="test.thing.done").values_list("event_id", flat=True)) == [still.event_id]
    assert [one.state for one in RedriveJob.objects.all()] == ["paused"]


def aged(days: float, key: str = "a", **changes: Any) -> Event:
    """One event, sent long ago."""
    event = published(key, **changes)
    OutboxMessage.objects.update(sent_at=timezone.now())
    QuerySet(Event).filter(pk=event.pk).update(time=timezone.now() - timedelta(days=days))
    return event


def kept() -> set[str]:
    return set(Event.objects.filter(type__startswith="test.").values_list("event_id", flat=True))


@pytest.mark.parametrize("kind", ["webhook", "internal"])
def test_what_a_paused_subscription_has_not_read_outlives_retention_for_a_while(kind: str, settings: Any) -> None:
    settings.EVENT_DAYS, settings.UNREAD_DAYS = 10, 5
    read, other = aged(12), aged(12, type="test.other.done")
    row = hook("slow", kind=kind, state="paused", patterns=["test.thing.*"], position=read.position)
    waiting, fresh = aged(12), aged(3)
    prune()
    row.refresh_from_db()
    assert kept() == {waiting.event_id, fresh.event_id} and row.missed == 0, (read, other)
    QuerySet(Event).filter(pk=waiting.pk).update(time=timezone.now() - timedelta(days=16))
    prune()
    row.refresh_from_db()
    assert kept() == {fresh.event_id} and row.missed == 1


def test_what_goes_unread_is_counted_to_those_that_wanted_it(settings: Any) -> None:
    settings.EVENT_DAYS, settings.UNREAD_DAYS = 10, 0
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    rows = [
        hook("wants", state="paused", patterns=["test.thing.*"]),
        hook("ended", state="disabled", patterns=["#"]),
        hook("elsewhere", state="paused", patterns=["test.thing.*"], source="other"),
        hook("consumer", kind="consumer", patterns=["#"]),
    ]
    for _ in range(3):
        aged(12)
    upto_date = hook("quick", position=aged(12).position)
    prune()
    counted = {row.name: row.missed for row in Subscription.objects.all()}
    assert kept() == set() and upto_date.name in counted
    assert counted == {rows[0].name: 4, rows[1].name: 4, "elsewhere": 0, "consumer": 0, "quick": 0}


def test_a_disabled_subscription_keeps_nothing(settings: Any) -> None:
    settings.EVENT_DAYS, settings.UNREAD_DAYS = 10, 5
    hook("ended", state="disabled")
    aged(12)
    prune()
    assert kept() == set() and Subscription.objects.get().missed == 1
