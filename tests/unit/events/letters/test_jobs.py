"""Jobs that redrive and replay: what they take, in which order, and when they stop by themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.events.letters import actions, jobs, pace, queries, queue
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.letters.pace import Progress, step
from apps.events.models import Event, Handled, Subscription
from apps.lib import clock
from services.kit.problem import Refused
from tests.unit.events.letters.delivery import deliver, failed, hook, published, through, work

pytestmark = pytest.mark.django_db

State, JobState = DeadLetter.State, RedriveJob.State


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def redrive(subscription: Subscription, **given: Any) -> RedriveJob:
    return actions.redrive(subscription, given.pop("said", {}), actor="ann", **given)


def left() -> int:
    return DeadLetter.objects.filter(state__in=DeadLetter.OPEN).count()


def test_a_redrive_takes_heads_first_and_what_is_behind_follows_in_order() -> None:
    one = hook()
    for key in ("a", "b"):
        failed(one, key, behind=2)
    expected = {key: list(_ids(key)) for key in ("a", "b")}
    plan = queries.plan_redrive(one, {})
    assert (plan.total, plan.waiting, plan.by_type) == (2, 4, {"test.thing.done": 2})
    job = redrive(one)
    tried = through(one, job)
    assert left() == 0 and job.state == JobState.DONE
    assert (job.total, job.taken, job.succeeded, job.failed) == (2, 6, 6, 0)
    for ids in expected.values():
        assert [name for name in tried if name in ids] == ids


def _ids(key: str) -> list[str]:
    return list(DeadLetter.objects.filter(key=key).order_by("place").values_list("event_id", flat=True))


def test_the_canary_waits_for_a_confirmation_and_the_rest_follows_it() -> None:
    one = hook()
    for number in range(6):
        failed(one, f"k{number}")
    job = redrive(one, canary=2)
    assert len(through(one, job)) == 2 and job.state == JobState.CONFIRM and left() == 4
    work(3)
    assert deliver(one) == [], "nothing goes before somebody says so"
    actions.resume(job, "bob")
    assert len(through(one, job)) == 4 and job.state == JobState.DONE and left() == 0


def test_a_canary_that_fails_pauses_the_job_by_itself() -> None:
    one = hook()
    for number in range(6):
        failed(one, f"k{number}")
    job = redrive(one, canary=2)
    assert len(through(one, job, lambda event: False)) == 2
    assert job.state == JobState.PAUSED and "2 of the first 2 failed" in job.reason and "422" in job.reason


def test_ten_in_a_row_that_fail_pause_it() -> None:
    one = hook()
    for number in range(30):
        failed(one, f"k{number}")
    job = redrive(one, rate=4)
    assert len(through(one, job, lambda event: False)) <= 12
    assert job.state == JobState.PAUSED and "in a row" in job.reason
    assert DeadLetter.objects.filter(state=State.FAILED).count() == 30


def test_an_open_breaker_or_a_paused_subscription_pauses_it_and_says_why() -> None:
    one = hook()
    failed(one, "a")
    job = redrive(one)
    Subscription.objects.filter(pk=one.pk).update(
        opened_until=timezone.now() + timedelta(hours=1), last_error="connection refused"
    )
    work()
    job.refresh_from_db()
    assert job.state == JobState.PAUSED and "breaker is open: connection refused" in job.reason
    Subscription.objects.filter(pk=one.pk).update(opened_until=None, state="paused", reason="maintenance")
    actions.resume(job, "ann")
    work()
    job.refresh_from_db()
    assert job.state == JobState.PAUSED and "maintenance" in job.reason


def test_two_operators_redrive_each_letter_once() -> None:
    one = hook()
    letters = [failed(one, f"k{number}") for number in range(4)]
    first = redrive(one)
    with pytest.raises(Refused) as refused:
        redrive(one)
    assert refused.value.problem.extra == {"job": first.pk}
    second = redrive(one, said={"ids": [letter.pk for letter in letters]})
    work(3)
    assert len(deliver(one)) == 4
    work(3)
    assert deliver(one) == []
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.taken + second.taken == first.succeeded + second.succeeded == 4


def test_a_redrive_of_nothing_is_refused() -> None:
    one = hook()
    with pytest.raises(Refused, match="No letter"):
        redrive(one)
    failed(one, "a")
    redrive(one)
    work()
    with pytest.raises(Refused, match="others redrive them"):
        redrive(one, said={"key": "a"})


def test_a_filter_narrows_it() -> None:
    one = hook()
    failed(one, "a")
    other = failed(one, "b")
    job = redrive(one, said={"key": "b", "type": "test.#", "fingerprint": other.fingerprint})
    assert through(one, job) == [other.event_id] and left() == 1


def test_cancelling_gives_back_what_was_not_tried_and_frees_what_it_freed() -> None:
    one = hook()
    failed(one, "a", behind=1)
    failed(one, "b")
    job = redrive(one, canary=1)
    work()
    deliver(one)
    assert DeadLetter.objects.filter(state=State.PARKED, job=job).count() == 1
    work()
    actions.cancel(job, "ann")
    assert set(DeadLetter.objects.values_list("key", "state")) == {
        ("a", State.RESOLVED),
        ("a", State.RETRYING),
        ("b", State.FAILED),
    }
    assert len(deliver(one)) == 1, "what waited behind is live again"
    with pytest.raises(Refused, match="can't be cancelled"):
        actions.cancel(job, "ann")


def test_another_process_goes_on_where_a_killed_one_was() -> None:
    one = hook()
    for number in range(5):
        failed(one, f"k{number}")
    job = redrive(one, rate=4)
    [pk] = jobs.claim("killed", clock.wall())
    jobs.step(pk, "killed")
    assert jobs.claim("other", clock.wall()) == [], "it is leased"
    assert jobs.claim("other", clock.wall() + jobs.LEASE_S + 1) == [pk]
    assert jobs.step(pk, "killed") == 0.0, "who lost it changes nothing"
    for _ in range(5):
        jobs.step(pk, "other")
        deliver(one)
    job.refresh_from_db()
    assert (job.state, job.taken, job.succeeded) == (JobState.DONE, 5, 5)


def test_what_people_do_is_in_the_audit_trail_and_in_the_log() -> None:
    from auditlog.models import LogEntry

    one = hook()
    letter = failed(one, "a")
    job = redrive(one, note="after the fix")
    actions.pause(job, "bob")
    actions.cancel(job, "bob")
    actions.discard(DeadLetter.objects.filter(pk=letter.pk), actor="bob", note="nobody needs it")
    said = [entry.changes_dict for entry in LogEntry.objects.filter(object_pk=str(letter.pk)).order_by("pk")]
    assert any(one.get("note") == ["", "nobody needs it"] and one["actor"] == ["", "bob"] for one in said)
    kinds = list(Event.objects.filter(stream=f"job/{job.pk}").order_by("version").values_list("type", flat=True))
    assert kinds == ["system.redrive.started", "system.redrive.paused", "system.redrive.cancelled"]


def replay(subscription: Subscription, **given: Any) -> RedriveJob:
    said = {"types": ["test.#"]} | given.pop("said", {})
    return actions.replay(subscription, said, actor="ann", **given)


def test_a_replay_delivers_the_log_again_in_order_and_marked_and_leaves_no_rows() -> None:
    one = hook()
    ids = [published(key).event_id for key in ("a", "b", "a", "a")]
    job = replay(one)
    work()
    due = queue.due(one, clock.wall() + 1, 9)
    assert due[0].as_cloudevent().extensions == {"mcreplay": str(job.pk)}
    assert due[0].as_cloudevent().partition_key == "a"
    tried = through(one, job)
    assert sorted(tried) == sorted(ids) and [name for name in tried if name in (ids[0], ids[2], ids[3])] == [
        ids[0],
        ids[2],
        ids[3],
    ]
    assert job.state == JobState.DONE and job.succeeded == 4 and DeadLetter.objects.count() == 0


def test_a_replay_holds_up_nothing_live_even_when_it_fails() -> None:
    one = hook()
    published("a")
    published("a")
    job = replay(one)
    work()
    assert queue.blocked(one, ["a"]) == set()
    through(one, job, lambda event: False)
    assert queue.blocked(one, ["a"]) == set()
    assert list(DeadLetter.objects.order_by("pk").values_list("state", flat=True)) == [State.FAILED, State.PARKED]


def test_a_replay_of_many_into_a_dead_endpoint_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "IN_HAND", 5)
    one = hook()
    for number in range(40):
        published(f"k{number}")
    job = replay(one)
    work(20)
    assert DeadLetter.objects.count() == 5
    Subscription.objects.filter(pk=one.pk).update(
        opened_until=timezone.now() + timedelta(minutes=5), last_error="connection refused"
    )
    work(20)
    job.refresh_from_db()
    assert job.state == JobState.PAUSED and "connection refused" in job.reason and DeadLetter.objects.count() == 5
    actions.cancel(job, "ann")
    assert DeadLetter.objects.count() == 0


def test_a_replay_is_narrowed_by_position_time_stream_and_key() -> None:
    one = hook()
    events = [published(key) for key in ("a", "b", "a", "c")]
    assert len(through(one, replay(one, said={"stream": "a"}))) == 2
    assert len(through(one, replay(one, said={"key": "b"}))) == 1
    assert through(one, replay(one, said={"after": events[1].position, "to": events[2].position})) == [
        events[2].event_id
    ]
    since = events[3].time.isoformat()
    assert through(one, replay(one, said={"since": since}))[-1:] == [events[3].event_id]
    with pytest.raises(Refused, match="No event"):
        replay(one, said={"until": "2001-01-01T00:00:00+00:00"})


def test_what_was_handled_is_handled_again_only_when_asked() -> None:
    one = hook("inside", kind="internal")
    event = published("a")
    Handled.objects.create(subscription=one, source=event.source, event_id=event.event_id, at=timezone.now())
    through(one, replay(one))
    assert Handled.objects.count() == 1
    through(one, replay(one, again=True))
    assert Handled.objects.count() == 0


def test_nothing_is_replayed_into_a_service() -> None:
    published("a")
    with pytest.raises(Refused, match="reads its broker itself"):
        replay(hook("mint", kind="consumer"))


@pytest.mark.parametrize(
    ("at", "room", "says"),
    [
        (Progress(0, 0, 0, 0), pace.IN_HAND, ""),
        (Progress(0, 0, 0, 0, rate=10.0), 5, ""),
        (Progress(0, 0, 0, 0, rate=0.1), 1, ""),
        (Progress(9, 0, 0, pace.IN_HAND), 0, ""),
        (Progress(1, 0, 0, 0, canary=3), 2, ""),
        (Progress(3, 0, 0, 1, canary=3), 0, ""),
        (Progress(3, 0, 0, 0, canary=3), 0, "went well"),
        (Progress(3, 1, 0, 0, canary=3), 0, "1 of the first 3 failed"),
        (Progress(3, 1, 0, 0, canary=3, confirmed=True), pace.IN_HAND, ""),
        (Progress(50, 10, 10, 0), 0, "10 failed in a row"),
        (Progress(600, 1, 1, 500, 500), 0, "wait behind"),
        (Progress(0, 0, 0, 0, obstacle="closed for today"), 0, "closed for today"),
    ],
)
def test_how_a_job_goes_on(at: Progress, room: int, says: str) -> None:
    found = step(at)
    assert (
        found.room == room
        and says in (found.pause or found.confirm)
        and bool(says) == bool(found.pause or found.confirm)
    )
