"""The outbox: shards are claimed by one relay at a time, and a partition key stays in order whatever fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from apps.events import outbox, sequencer, tasks
from apps.events.actions import publish
from apps.events.models import Event, OutboxMessage, OutboxShard, shard_of
from services.kit.events.outbox import Backlog, PutOff, Settlement

pytestmark = pytest.mark.django_db

TYPE = "test.thing.done"


@pytest.fixture(autouse=True)
def shards() -> None:
    outbox.prepare()
    outbox.prepare()


def now() -> float:
    return time.time() + 1


def two_keys_in_different_shards() -> tuple[str, str]:
    first = "key-0"
    return first, next(f"key-{n}" for n in range(1, 100) if shard_of(f"key-{n}") != shard_of(first))


def test_events_are_claimed_in_order_and_once_settled_never_again() -> None:
    published = [publish(TYPE, {}, stream=f"k{n % 5}").pk for n in range(20)]
    claimed = [row.position for row in outbox.claim("one", now(), 100)]
    assert claimed == published
    outbox.settle("one", Settlement(claimed, []), now())
    assert outbox.claim("one", now(), 100) == []
    assert not OutboxShard.objects.exclude(holder="").exists()


def test_a_shard_belongs_to_one_relay() -> None:
    publish(TYPE, {}, stream="k")
    assert len(outbox.claim("one", now(), 100)) == 1
    publish(TYPE, {}, stream="k")
    assert outbox.claim("two", now(), 100) == []
    assert len(outbox.claim("one", now(), 100)) == 2, "whoever holds it may go on"


def test_two_relays_share_the_work_by_shards() -> None:
    a, b = two_keys_in_different_shards()
    publish(TYPE, {}, stream=a)
    assert [row.event.partition_key for row in outbox.claim("one", now(), 100)] == [a]
    publish(TYPE, {}, stream=b)
    assert [row.event.partition_key for row in outbox.claim("two", now(), 100)] == [b]


def test_a_dead_relays_shards_come_free_when_the_lease_lapses() -> None:
    publish(TYPE, {}, stream="k")
    assert outbox.claim("dead", now(), 100)
    assert outbox.claim("two", now(), 100) == []
    assert len(outbox.claim("two", now() + outbox.LEASE_S + 1, 100)) == 1


def test_a_refused_event_waits_and_holds_back_its_key_but_no_other() -> None:
    a, b = two_keys_in_different_shards()
    first, later, other = (publish(TYPE, {}, stream=key).pk for key in (a, a, b))
    claimed = outbox.claim("one", now(), 100)
    assert [row.position for row in claimed] == [first, later, other]
    put_off = [PutOff(first, 1, now() + 1, "too odd"), PutOff(later, 1, now() + 1, "not tried")]
    outbox.settle("one", Settlement([other], put_off), now())
    OutboxMessage.objects.filter(pk=later).update(next_at=datetime.now(UTC))
    row = OutboxMessage.objects.get(pk=first)
    assert (row.attempts, row.last_error, row.sent_at) == (1, "too odd", None)
    newest = publish(TYPE, {}, stream=b).pk
    assert [row.position for row in outbox.claim("one", now() - 0.6, 100)] == [newest]
    assert [row.position for row in outbox.claim("one", now() + 400, 100)] == [first, later, newest]


def test_a_publisher_whose_clock_is_ahead_is_not_waited_for() -> None:
    ahead = publish(TYPE, {}, stream="k").pk
    assert [row.position for row in outbox.claim("one", now() - 3600, 100)] == [ahead]


def test_an_overtaken_relay_does_not_unsend() -> None:
    event = publish(TYPE, {}, stream="k").pk
    outbox.claim("slow", now(), 100)
    outbox.claim("fast", now() + 40, 100)
    outbox.settle("fast", Settlement([event], []), now())
    outbox.settle("slow", Settlement([], [PutOff(event, 1, now(), "late")]), now())
    row = OutboxMessage.objects.get(pk=event)
    assert row.sent_at is not None
    assert row.last_error == ""


def test_the_limit_bounds_a_batch() -> None:
    for _ in range(30):
        publish(TYPE, {}, stream="k")
    assert len(outbox.claim("one", now(), 7)) == 7


def test_the_backlog_is_counted() -> None:
    assert outbox.backlog() == Backlog(0, None)
    event = publish(TYPE, {})
    assert outbox.backlog() == Backlog(1, event.time.timestamp())


def test_retention_forgets_what_was_sent_and_keeps_what_waits() -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    sent, waiting, fresh = (publish(TYPE, {}).pk for _ in range(3))
    sequencer.number()
    outbox.settle("one", Settlement([sent, fresh], []), time.time())
    OutboxMessage.objects.filter(pk=sent).update(sent_at=long_ago)
    Event._base_manager.filter(pk__in=[sent, waiting]).update(time=long_ago)
    tasks.prune()
    assert set(Event.objects.values_list("pk", flat=True)) == {waiting, fresh}
    assert set(OutboxMessage.objects.values_list("pk", flat=True)) == {waiting, fresh}
