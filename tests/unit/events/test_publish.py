"""Publishing: the event, its outbox row and the change it tells of are there together or not at all."""

from __future__ import annotations

import pytest
from django.db import transaction
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from apps.events import actions, queries
from apps.events.actions import publish, publish_all
from apps.events.models import MAX_STREAM, Event, Immutable, OutboxMessage, foreign_stream, shard_of
from apps.events.storing import Draft
from services.kit.events.cloudevent import MAX_DATA, EventError

pytestmark = pytest.mark.django_db

TYPE = "system.instance.healthy"


def test_an_event_and_its_outbox_row_are_stored() -> None:
    event = publish(TYPE, {"a": 1}, subject="covenant/covenant-1")
    stored = Event.objects.get(event_id=event.event_id)
    assert (stored.type, stored.subject, stored.source, stored.data) == (
        TYPE,
        event.subject,
        "mission-control",
        {"a": 1},
    )
    row = OutboxMessage.objects.get(event=stored)
    assert (row.topic, row.partition_key, row.sent_at) == ("system", "covenant/covenant-1", None)
    assert row.shard == shard_of("covenant/covenant-1")


def test_nothing_is_stored_when_the_callers_transaction_rolls_back() -> None:
    publish(TYPE, {}, subject="x")
    with pytest.raises(RuntimeError), transaction.atomic():
        publish(TYPE, {}, subject="x")
        raise RuntimeError
    after = publish(TYPE, {}, subject="x")
    assert Event.objects.count() == OutboxMessage.objects.count() == 2
    assert after.version == 2, "the rolled-back number is given out again: no gap"


def test_sequences_count_per_partition_key() -> None:
    numbers = [publish(TYPE, {}, subject=subject).version for subject in ("a", "b", "a", "a", "b")]
    assert numbers == [1, 1, 2, 3, 2]


def test_the_partition_key_falls_back_to_subject_then_source() -> None:
    assert publish(TYPE, {}, subject="s", stream="k").stream == "k"
    assert publish(TYPE, {}, subject="s").stream == "s"
    assert publish(TYPE, {}, source="covenant").stream == "covenant"


def test_several_events_are_all_or_none() -> None:
    with pytest.raises(EventError):
        publish_all([Draft(TYPE, {}, subject="a"), Draft("nonsense", {}, subject="a")])
    assert Event.objects.count() == 0
    events = publish_all([Draft(TYPE, {"n": n}, subject="ab"[n % 2]) for n in range(10)])
    assert [event.version for event in events] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert OutboxMessage.objects.count() == 10


@pytest.mark.parametrize(
    "change",
    [
        {"type": "System.instance.healthy"},
        {"type": "healthy"},
        {"data": {"a": float("nan")}},
        {"data": []},
        {"data": {"a": "x" * MAX_DATA}},
        {"subject": "a\nb"},
        {"subject": "x" * 256},
        {"source": ""},
    ],
)
def test_a_bad_event_is_refused_and_nothing_is_stored(change: dict[str, object]) -> None:
    with pytest.raises(EventError, match=r"(?i)event"):
        publish(**({"type": TYPE, "data": {}} | change))  # type: ignore[arg-type]
    assert Event.objects.count() == 0


def test_the_current_trace_travels_with_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = TracerProvider().get_tracer("test")
    monkeypatch.setattr(actions, "tracer", tracer)
    with tracer.start_as_current_span("request") as span:
        event = publish(TYPE, {})
    trace_id = format(span.get_span_context().trace_id, "032x")
    assert event.correlation_id == trace_id
    version, carried, parent, flags = event.traceparent.split("-")
    assert (version, carried, int(flags, 16) & 1) == ("00", trace_id, 1)
    assert parent != format(span.get_span_context().span_id, "016x"), "its parent is the publishing span itself"


def test_without_a_trace_an_event_starts_its_own_correlation() -> None:
    assert trace.get_current_span() is trace.INVALID_SPAN
    event = publish(TYPE, {})
    assert (event.traceparent, event.correlation_id) == ("", str(event.event_id))


def test_events_never_change() -> None:
    event = publish(TYPE, {})
    with pytest.raises(Immutable):
        event.save()
    with pytest.raises(Immutable):
        event.delete()
    with pytest.raises(Immutable):
        Event.objects.update(type="a.b.c")
    with pytest.raises(Immutable):
        Event.objects.all().delete()


def test_publishing_needs_no_redis(settings: object, django_capture_on_commit_callbacks: object) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"  # type: ignore[attr-defined]
    with django_capture_on_commit_callbacks(execute=True) as callbacks:  # type: ignore[operator]
        publish(TYPE, {})
    assert len(callbacks) == 1


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("system.#", 2), ("system.*.healthy", 1), (TYPE, 1), ("#", 3), ("#.recorded", 1), ("system", 0), ("*.*.*", 3)],
)
def test_queries_take_the_same_patterns_as_subscriptions(pattern: str, count: int) -> None:
    for name in (TYPE, "system.breaker.opened", "business.transaction.recorded"):
        publish(name, {})
    assert len(queries.recent([pattern])) == count


def test_recent_events_come_newest_first_and_bounded() -> None:
    events = [publish(TYPE, {"n": n}) for n in range(5)]
    assert [event.data["n"] for event in queries.recent(limit=3)] == [4, 3, 2]
    assert queries.recent(since=events[-1].time.timestamp() + 1) == []
    assert len(queries.recent(["system.#", "#"])) == 5, "two patterns that both match give an event once"


def test_nobody_publishes_into_the_stream_of_another_publisher() -> None:
    with pytest.raises(EventError, match="must not begin with @"):
        publish("test.thing.done", {}, stream=foreign_stream("orders", "42"))
    with pytest.raises(EventError, match="must not begin with @"):
        publish("test.thing.done", {}, subject="@orders/42")


@pytest.mark.parametrize("source", ["orders", "https://shop.example/orders", "a%2Fb", "a/b", "\N{SNOWMAN}" * 256])
@pytest.mark.parametrize("key", ["", "42", "a/b", "/" * 256])
def test_a_foreign_stream_says_the_key_that_the_wire_had(source: str, key: str) -> None:
    event = Event(source=source, stream=foreign_stream(source, key), version=1)
    assert (event.foreign, event.partition_key) == (True, key)
    assert len(event.stream) <= MAX_STREAM


def test_no_two_publishers_have_a_foreign_stream_in_common() -> None:
    assert foreign_stream("a", "b/c") != foreign_stream("a/b", "c")
    assert foreign_stream("a%2Fb", "c") != foreign_stream("a/b", "c")
