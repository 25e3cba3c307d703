"""How long letters and jobs are kept: as long as events, and an open one for as long as it is open."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import QuerySet
from django.utils import timezone

from apps.events.letters import editing, queue
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, OutboxMessage
from apps.events.tasks import prune
from apps.lib import clock
from tests.unit.events.letters.delivery import failed, hook

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
