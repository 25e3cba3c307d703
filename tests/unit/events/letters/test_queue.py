"""The queue of dead letters, and at random beside a model of it: a key's order holds, nothing is tried twice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.events.actions import publish
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.letters.models import DeadLetter
from apps.events.models import Event, Subscription
from apps.events.sequencer import number

pytestmark = pytest.mark.django_db

State = DeadLetter.State
NOW = 1_800_000_000.0
FAILURE = Failure("http_5xx", "503 from the endpoint")


def subscription(**changes: Any) -> Subscription:
    return Subscription.objects.create(**({"name": "hook", "patterns": ["#"], "max_attempts": 3} | changes))


def published(key: str) -> Event:
    event = publish("test.thing.done", {"key": key}, stream=key)
    while connection.vendor != "sqlite" and number():
        pass
    event.refresh_from_db()
    return event


def states(key: str) -> list[str]:
    return list(DeadLetter.objects.filter(key=key).order_by("place").values_list("state", flat=True))


def test_one_that_fails_blocks_its_key_alone_until_it_is_resolved() -> None:
    hook = subscription()
    first, second, third = published("a"), published("a"), published("b")
    letter = queue.fail(hook, first, FAILURE, NOW)
    assert (letter.state, letter.attempts) == (State.RETRYING, 1)
    assert queue.blocked(hook, ["a", "b"]) == {"a"} and queue.blocked(hook, [third.stream]) == set()
    queue.park(hook, second, NOW)
    assert [one.event for one in queue.due(hook, NOW + 10, 9)] == [first]
    queue.resolve(letter, NOW + 10)
    assert [one.event for one in queue.due(hook, NOW + 10, 9)] == [second]
    queue.resolve(queue.due(hook, NOW + 10, 9)[0], NOW + 11)
    assert queue.blocked(hook, ["a"]) == set() and states("a") == [State.RESOLVED] * 2


def test_after_its_attempts_it_waits_for_somebodys_word() -> None:
    hook, event = subscription(max_attempts=2), published("a")
    assert queue.fail(hook, event, FAILURE, NOW).state == State.RETRYING
    letter = queue.fail(hook, event, FAILURE, NOW + 5)
    assert (letter.state, letter.next_at, letter.attempts) == (State.FAILED, None, 2)
    assert letter.first_failed_at == datetime.fromtimestamp(NOW, UTC)
    assert queue.due(hook, NOW + 10**6, 9) == [] and queue.next_due(hook) is None


def test_a_permanent_failure_skips_all_retries() -> None:
    letter = queue.fail(subscription(), published("a"), Failure("gone", "410", permanent=True), NOW)
    assert letter.state == State.FAILED


def test_an_odd_error_text_is_kept_as_far_as_a_database_can() -> None:
    letter = queue.fail(subscription(), published("a"), Failure("handler", "\0\ud800" * 999, "\0" * 99_999), NOW)
    letter.refresh_from_db()
    assert len(letter.error) == 500 and len(letter.stack) == 8192


def test_two_who_close_one_letter_do_it_once() -> None:
    hook = subscription()
    letter = queue.fail(hook, published("a"), FAILURE, NOW)
    other = DeadLetter.objects.get(pk=letter.pk)
    assert queue.close(letter, State.DISCARDED, NOW) and not queue.close(other, State.RESOLVED, NOW)


def test_a_subscription_that_holds_as_much_as_it_may_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MAX_OPEN", 2)
    hook = subscription()
    queue.fail(hook, published("a"), FAILURE, NOW)
    assert not queue.full(hook)
    queue.fail(hook, published("b"), FAILURE, NOW)
    assert queue.full(hook)


Step = tuple[str, str]
STEPS = st.lists(
    st.tuples(st.sampled_from(["live", "ok", "no", "never", "redrive", "discard"]), st.sampled_from("abc"))
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_a_key_is_delivered_in_order_and_nothing_is_forgotten(steps: list[Step], db: Any) -> None:
    DeadLetter.objects.all().delete()
    Subscription.objects.all().delete()
    hook = subscription()
    waiting: dict[str, list[str]] = {key: [] for key in "abc"}
    """The model: ids in line, the head first."""
    given_up: set[str] = set()
    now = NOW
    for what, key in steps:
        now += 10_000
        line = waiting[key]
        if what == "live":
            event = published(key)
            assert queue.blocked(hook, [key]) == ({key} if line else set())
            (queue.park if line else queue_fail)(hook, event, now)
            line.append(event.event_id)
        elif what in {"redrive", "discard"}:
            letter = DeadLetter.objects.filter(key=key, state=State.FAILED).first()
            if letter is None:
                continue
            assert letter.stored is not None and letter.stored.event_id == line[0]
            given_up.discard(line[0])
            if what == "discard":
                assert queue.close(letter, State.DISCARDED, now)
                line.pop(0)
            else:
                at = datetime.fromtimestamp(now, UTC)
                DeadLetter.objects.filter(pk=letter.pk).update(state=State.REDRIVING, next_at=at)
        else:
            letters = [one for one in queue.due(hook, now, 9) if one.key == key]
            assert [one.stored.event_id for one in letters] == [one for one in line[:1] if one not in given_up]
            for letter in letters:
                if what == "ok":
                    queue.resolve(letter, now)
                    line.pop(0)
                else:
                    failure = Failure("http_5xx", "no", permanent=what == "never")
                    if queue.fail(hook, letter.stored, failure, now).state == State.FAILED:
                        given_up.add(line[0])
        rows = DeadLetter.objects.filter(key=key, state__in=DeadLetter.OPEN).order_by("place")
        assert [str(row.event_id) for row in rows] == [str(one) for one in line]
        assert [row.state for row in rows[1:]] == [State.PARKED] * (len(line) - 1)
        assert all(row.state != State.PARKED for row in rows[:1])


def queue_fail(hook: Subscription, event: Event, now: float) -> None:
    queue.fail(hook, event, FAILURE, now)
