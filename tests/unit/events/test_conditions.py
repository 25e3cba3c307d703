"""Publishing under a condition: a version, a key, a boundary. What is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from apps.events import sequencer, tasks
from apps.events.actions import (
    BoundaryConflict,
    KeyReused,
    NotAtomic,
    VersionConflict,
    apublish,
    apublish_all,
    publish,
    publish_all,
)
from apps.events.boundary import Boundary, Match
from apps.events.deciding import TooMany, decide_on
from apps.events.models import Event, EventTag, OutboxMessage, PublishedKey, Stream
from apps.events.storing import Draft
from services.kit.events.cloudevent import EventError
from services.kit.events.patterns import PatternError

pytestmark = pytest.mark.django_db

TYPE = "test.thing.done"


def stored() -> tuple[int, int, int]:
    return Event.objects.count(), OutboxMessage.objects.count(), EventTag.objects.count()


# -- versions ------------------------------------------------------------------------------------


def test_an_event_is_stored_only_if_its_stream_stands_where_it_is_expected() -> None:
    assert publish(TYPE, {}, stream="s", expected_version=0).version == 1
    assert publish(TYPE, {}, stream="s", expected_version=1).version == 2
    for wrong in (0, 1, 3):
        with pytest.raises(VersionConflict, match="version 2") as refused:
            publish(TYPE, {}, stream="s", expected_version=wrong)
        assert (refused.value.stream, refused.value.expected, refused.value.actual) == ("s", wrong, 2)
    with pytest.raises(VersionConflict):
        publish(TYPE, {}, stream="new", expected_version=1)
    assert stored() == (2, 2, 0)
    assert not Stream.objects.filter(name="new").exists()
    assert publish(TYPE, {}, stream="s").version == 3, "a refused one takes no version"


def test_an_expected_version_speaks_of_one_stream() -> None:
    batch = publish_all([Draft(TYPE, {}, stream="s") for _ in range(3)], expected_version=0)
    assert [event.version for event in batch] == [1, 2, 3]
    with pytest.raises(EventError, match="several streams"):
        publish_all([Draft(TYPE, {}, stream="s"), Draft(TYPE, {}, stream="t")], expected_version=3)


def test_a_conflict_leaves_the_callers_transaction_fit_for_use() -> None:
    with transaction.atomic():
        publish(TYPE, {}, stream="s")
        with pytest.raises(VersionConflict):
            publish(TYPE, {}, stream="s", expected_version=0)
        publish(TYPE, {}, stream="s", expected_version=1)
    assert stored() == (2, 2, 0)


# -- keys ----------------------------------------------------------------------------------------


def test_the_same_key_with_the_same_content_answers_with_the_first_events() -> None:
    drafts = [Draft(TYPE, {"n": n, "m": 0}, stream=f"s{n % 2}", tags=("a", "b")) for n in range(3)]
    first = publish_all(drafts, idempotency_key="order 17")
    again = publish_all(
        [Draft(TYPE, {"m": 0, "n": n}, stream=f"s{n % 2}", tags=("a", "b")) for n in range(3)],
        idempotency_key="order 17",
        expected_version=None,
    )
    assert [event.event_id for event in again] == [event.event_id for event in first]
    assert [event.data["n"] for event in again] == [0, 1, 2]
    assert stored() == (3, 3, 6)


def test_a_repeat_is_no_conflict_with_what_it_did_itself() -> None:
    first = publish(TYPE, {}, stream="s", expected_version=0, idempotency_key="k")
    assert publish(TYPE, {}, stream="s", expected_version=0, idempotency_key="k") == first


@pytest.mark.parametrize(
    "change", [{"data": {"n": 2}}, {"stream": "other"}, {"tags": ["t"]}, {"type": "test.thing.undone"}]
)
def test_the_same_key_with_other_content_is_refused(change: dict[str, Any]) -> None:
    said: dict[str, Any] = {"type": TYPE, "data": {"n": 1}, "stream": "s"}
    publish(**said, idempotency_key="k")
    with pytest.raises(KeyReused, match="other events"):
        publish(**(said | change), idempotency_key="k")
    assert stored() == (1, 1, 0)


def test_a_key_is_not_used_up_by_what_was_refused() -> None:
    publish(TYPE, {}, stream="s")
    with pytest.raises(VersionConflict):
        publish(TYPE, {}, stream="s", expected_version=0, idempotency_key="k")
    with pytest.raises(LookupError), transaction.atomic():
        publish(TYPE, {}, stream="s", idempotency_key="k")
        raise LookupError
    assert publish(TYPE, {}, stream="s", expected_version=1, idempotency_key="k").version == 2


def test_keys_and_tags_go_with_their_events(settings: Any) -> None:
    publish(TYPE, {}, tags=["t"], idempotency_key="old")
    sequencer.number()
    OutboxMessage.objects.update(sent_at=Event.objects.get().time)
    settings.EVENT_DAYS = -1
    tasks.prune()
    assert (stored(), PublishedKey.objects.count()) == ((0, 0, 0), 0)
    assert publish(TYPE, {}, tags=["t"], idempotency_key="old").version == 2


# -- boundaries ----------------------------------------------------------------------------------

COURSE = Match(("course.#",), tags=("course:1",))


def test_nothing_is_appended_when_an_event_within_the_boundary_came_meanwhile() -> None:
    publish("course.place.taken", {}, tags=["course:1", "student:1"])
    seen, boundary = decide_on(COURSE)
    assert [event.type for event in seen] == ["course.place.taken"]
    publish("course.place.taken", {}, tags=["course:2"])
    publish("student.name.changed", {}, tags=["course:1"])
    publish("course.place.taken", {}, tags=["course:1", "student:2"], boundary=boundary)
    with pytest.raises(BoundaryConflict, match=r"course\.place\.taken"):
        publish("course.place.taken", {}, tags=["course:1", "student:3"], boundary=boundary)
    seen, boundary = decide_on(COURSE)
    assert len(seen) == 2
    publish("course.place.taken", {}, tags=["course:1", "student:3"], boundary=boundary)
    assert Event.objects.count() == 5


@pytest.mark.parametrize(
    ("match", "stands_against"),
    [
        (Match(), True),
        (Match(("a.b.c",)), True),
        (Match(("a.*.c",), tags=("x", "y")), True),
        (Match(("a.#",), subject="sub", stream="st"), True),
        (Match(tags=("x", "z")), False),
        (Match(("a.b.d", "b.#")), False),
        (Match(subject="other"), False),
        (Match(stream="other"), False),
    ],
)
def test_what_a_match_means(match: Match, stands_against: bool) -> None:
    publish("a.b.c", {}, subject="sub", stream="st", tags=["x", "y"])
    boundary = Boundary(0, (Match(("nothing.#",)), match))
    seen, later = decide_on(*boundary.matches)
    assert bool(seen) == stands_against
    if stands_against:
        with pytest.raises(BoundaryConflict):
            publish(TYPE, {}, boundary=boundary)
    publish(TYPE, {}, boundary=later)


def test_a_decision_rests_on_no_more_events_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.events.deciding.MOST", 3)
    publish_all([Draft(TYPE, {})] * 4)
    with pytest.raises(TooMany):
        decide_on(Match())


@pytest.mark.parametrize(
    "broken", [{"types": ()}, {"types": ("#",) * 40}, {"tags": ("t",) * 40}, {"types": ("a..b",)}, {"types": ("A.b",)}]
)
def test_a_match_that_means_nothing_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises((ValueError, PatternError)):
        Match(**broken)


# -- transactions --------------------------------------------------------------------------------


def test_publishing_in_a_transaction_that_has_failed_is_refused() -> None:
    with pytest.raises(LookupError), transaction.atomic():
        try:
            with transaction.atomic(savepoint=False):
                raise DatabaseError
        except DatabaseError:
            pass
        with pytest.raises(NotAtomic, match="rolled back"):
            publish(TYPE, {})
        raise LookupError
    assert stored() == (0, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_publishing_by_a_connection_that_commits_by_hand_is_refused() -> None:
    connection.set_autocommit(False)
    try:
        with pytest.raises(NotAtomic, match="by hand"):
            publish(TYPE, {})
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert stored() == (0, 0, 0)


@pytest.mark.parametrize(
    "change", [{"tags": [""]}, {"tags": ["a\n"]}, {"tags": ["t"] * 33}, {"idempotency_key": "x" * 256}]
)
def test_bad_tags_and_keys_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        publish(TYPE, {}, **change)
    assert stored() == (0, 0, 0)


# -- asynchronous code ---------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_code_publishes_by_the_same_rules() -> None:
    first = await apublish(TYPE, {}, stream="s", tags=["t"], idempotency_key="k")
    assert await apublish(TYPE, {}, stream="s", tags=["t"], idempotency_key="k") == first
    events = await apublish_all([Draft(TYPE, {}, stream="s")] * 2, expected_version=1)
    assert [event.version for event in events] == [2, 3]
    with pytest.raises(VersionConflict):
        await apublish(TYPE, {}, stream="s", expected_version=1)
    many = await asyncio.gather(*(apublish(TYPE, {}, stream="t") for _ in range(20)))
    assert sorted(event.version for event in many) == list(range(1, 21))
    assert await Event.objects.acount() == 23
