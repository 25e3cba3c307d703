"""What the live feed reads of the log and its subscriptions."""

from __future__ import annotations

import pytest
from django.utils import timezone

from apps.dashboard.events.source import BusSource
from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.models import Event
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
