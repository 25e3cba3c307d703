"""Edit and retry: other data, and everything else as it was."""

from __future__ import annotations

from typing import Any

import pytest

from apps.events.letters import editing, queue
from apps.events.letters.models import DeadLetter
from apps.events.models import OutboxMessage
from apps.events.schemas import registry
from apps.lib import clock
from services.kit.events.cloudevent import EventError
from services.kit.problem import Refused
from tests.unit.events.letters.delivery import deliver, failed, hook

pytestmark = pytest.mark.django_db

State = DeadLetter.State


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def edit(letter: DeadLetter, data: Any) -> DeadLetter:
    return editing.edit(letter, data, actor="ann", note="typo")


def test_it_takes_the_place_of_its_original_and_names_it_as_its_cause() -> None:
    one = hook()
    letter = failed(one, "a", behind=1)
    behind = DeadLetter.objects.get(state=State.PARKED)
    edited = edit(letter, {"key": "mended"})
    event, sent = edited.stored, edited.as_cloudevent()
    assert event.causation_id == letter.event_id and event.addressee == "hook"
    assert (sent.type, sent.source, sent.partition_key, sent.sequence) == ("test.thing.done", "mission-control", "a", 0)
    assert not OutboxMessage.objects.filter(event=event).exists(), "no broker gets it"
    letter.refresh_from_db()
    assert (letter.state, letter.replaced_by, letter.actor) == (State.RESOLVED, event, "ann")
    assert deliver(one) == [edited.event_id] and deliver(one) == [behind.event_id]


def test_who_follows_the_log_leaves_it_to_its_letter() -> None:
    one = hook()
    edited = edit(failed(one, "a"), {"key": "mended"})
    assert queue.blocked(one, [queue.key_of(edited.stored)]) == {edited.stored.stream}
    assert queue.park(one, edited.stored, clock.wall()).pk == edited.pk
    deliver(one)
    assert queue.park(one, edited.stored, clock.wall()).state == State.RESOLVED


@pytest.mark.parametrize("data", [{"key": "a"}, [1], "text", None, {"text": "\0"}])
def test_what_is_no_other_event_is_refused(data: Any) -> None:
    letter = failed(hook(), "a")
    with pytest.raises(EventError):
        edit(letter, data)
    letter.refresh_from_db()
    assert letter.state == State.FAILED


def test_what_its_schema_refuses_is_refused_with_the_place() -> None:
    letter = failed(hook(), "a")
    document = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
    registry.register("test.thing.done", document, author="ann")
    with pytest.raises(EventError, match="key"):
        edit(letter, {"key": 7})
    assert edit(letter, {"key": "fine"}).stored.schema_version == 1


def test_one_that_waits_or_has_ended_is_not_edited() -> None:
    one = hook()
    letter = failed(one, "a", behind=1)
    with pytest.raises(Refused, match="is parked"):
        edit(DeadLetter.objects.get(state=State.PARKED), {"key": "b"})
    edit(letter, {"key": "b"})
    with pytest.raises(Refused, match="is resolved already"):
        edit(letter, {"key": "c"})


def test_a_difference_names_what_changed() -> None:
    before = {"a": 1, "b": {"c/d": [1, 2]}, "gone": 1}
    after = {"a": 1, "b": {"c/d": [1, 3]}, "new": True}
    assert editing.difference(before, after) == [
        {"path": "/b/c~1d/1", "before": 2, "after": 3},
        {"path": "/gone", "before": 1},
        {"path": "/new", "after": True},
    ]
