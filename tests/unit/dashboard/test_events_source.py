"""What the live feed reads of the log and its subscriptions."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from apps.dashboard.events.source import BusSource
from apps.events import projections, sequencer
from apps.events.actions import publish_all
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.models import Aside, Build, Event, Stream
from apps.events.storing import Draft
from apps.events.subscriptions.models import Subscription
from apps.lib.clock import wall

pytestmark = pytest.mark.django_db


def test_letters_and_lag_are_counted_by_subscription() -> None:
    behind = Subscription.objects.create(name="behind", patterns=["#"], position=1)
    Subscription.objects.create(name="mint", kind="consumer", patterns=["#"], seen_at=timezone.now())
    publish_all([Draft("shop.order.placed", {}, stream="order/1") for _ in range(3)])
    sequencer.number()
    events = list(Event.objects.order_by("pk"))
    queue.fail(behind, events[0], Failure("handler", "no", permanent=True), wall())
    queue.park(behind, events[1], wall())
    source = BusSource()
    found = source.read()
    lagging, mint = found.receivers
    assert (found.head, found.keys) == (3, 1) and found.failed_at is not None
    assert (lagging.lag, lagging.open) == (2, {"failed": 1, "parked": 1})
    assert lagging.behind_since == pytest.approx(events[1].time.timestamp())
    assert (mint.lag, mint.behind_since) == (None, None), "it says itself how far it is"


def test_it_costs_the_same_however_much_there_is(django_assert_max_num_queries: object) -> None:
    for n in range(30):
        Subscription.objects.create(name=f"s{n}", patterns=["#"])
    publish_all([Draft("shop.order.placed", {}) for _ in range(50)])
    source = BusSource()
    with django_assert_max_num_queries(8):  # type: ignore[operator]
        source.read()


def test_a_projection_that_somebody_registered_is_told_of_with_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "REGISTERED", {"totals": object()})
    publish_all([Draft("shop.order.placed", {}) for _ in range(3)])
    sequencer.number()
    for name in ("totals", "forgotten"):
        Build.objects.create(
            projection=name, generation=1, role="live", position=1, fault="odd", started_at=timezone.now()
        )
    (found,) = BusSource().read().projections
    assert (found.name, found.behind, found.fault) == ("totals", 2, "odd")
    assert found.behind_since == pytest.approx(Event.objects.get(position=2).time.timestamp())


def test_the_page_of_ourselves_says_what_is_missing_put_aside_and_projected(settings: Any) -> None:
    settings.REDIS_URL, settings.CLICKHOUSE_URL = "redis://127.0.0.1:1/0", "http://127.0.0.1:1"
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    now = timezone.now()
    Stream.objects.create(name="@ledger/k", version=9, missing=2, holes=[[3, 4]])
    more = {"topic": "shop", "partition": 0, "offset": "1-1", "first_at": now, "last_at": now}
    Aside.objects.create(digest="d", reason="forged", source="covenant", type="bank.sum.moved", body="", **more)
    Build.objects.create(projection="totals", generation=2, role="building", fault="odd", started_at=now)
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="long enough to pass"))
    text = client.get("/system/").content.decode()
    assert 'data-missing="ledger"' in text and "manage.py events repair" in text
    assert 'data-aside="forged"' in text and "is not proven to be of its source" in text
    assert 'data-projection="totals"' in text and "stands still" in text
    assert all(f'id="{name}"' in text for name in ("missing", "aside", "projections", "waiting")), "links lead here"
