"""Two connections at one queue: whoever reads and whoever closes meet, and no letter is left alone behind nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections, transaction

from apps.events.letters import actions, jobs, queue
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Subscription
from apps.events.subscriptions import store
from apps.events.subscriptions.matching import wanted_by
from apps.lib import clock
from tests.unit.events.letters.delivery import HOLDER, deliver, failed, hook, published, work
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

State = DeadLetter.State


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def state(event: Any) -> str:
    return DeadLetter.objects.get(event_id=event.event_id).state


def waits_for_us() -> bool:
    """Whether somebody waits for a lock; SQLite, where one writes at a time, tells nobody."""
    if connection.vendor == "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def beside(act: Callable[[], Any], other: Callable[[], Any]) -> None:
    """``act`` in a transaction that another connection's ``other`` falls into, and meets if they can."""

    def alone() -> None:
        try:
            other()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            act()
            done: Future[None] = pool.submit(alone)
            until(lambda: done.done() or waits_for_us(), 10, what="the other connection")
        done.result(30)


def test_one_that_is_parked_while_its_head_is_closed_is_tried() -> None:
    subscription = hook()
    head, later = failed(subscription, "a"), published("a")
    assert queue.blocked(subscription, ["a"]) == {"a"}
    beside(
        lambda: queue.close(head, State.DISCARDED, clock.wall()),
        lambda: queue.park(subscription, later, clock.wall()),
    )
    assert deliver(subscription) == [later.event_id]


def test_one_that_is_parked_before_its_head_is_closed_is_tried() -> None:
    subscription = hook()
    head, later = failed(subscription, "a"), published("a")
    beside(
        lambda: queue.park(subscription, later, clock.wall()),
        lambda: queue.close(head, State.DISCARDED, clock.wall()),
    )
    assert deliver(subscription) == [later.event_id]


def test_a_head_and_its_heir_that_are_closed_at_once_leave_nobody_behind() -> None:
    subscription = hook()
    head = failed(subscription, "a", behind=2)
    heir, last = DeadLetter.objects.filter(state=State.PARKED).order_by("pk")
    beside(
        lambda: queue.close(heir, State.DISCARDED, clock.wall()),
        lambda: queue.close(head, State.DISCARDED, clock.wall()),
    )
    assert deliver(subscription) == [last.event_id]


def test_what_is_read_behind_a_letter_that_is_just_closed_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    subscription = hook()
    head, later = failed(subscription, "a"), published("a")
    seen, asked = threading.Event(), queue.blocked

    def blocked(*given: Any) -> set[str]:
        found = asked(*given)
        if not seen.is_set():
            seen.set()
            queue.close(head, State.DISCARDED, clock.wall())
        return found

    monkeypatch.setattr(queue, "blocked", blocked)
    read = store.read(subscription, wanted_by(subscription), store.Tail(), head.place, 10, 0, clock.wall())
    assert seen.is_set() and read.fresh == [] and deliver(subscription) == [later.event_id]


def test_a_replayed_event_behind_one_that_is_just_taken_is_tried() -> None:
    subscription = hook()
    for _ in range(2):
        published("a")
    job = actions.replay(subscription, {"types": ["test.#"]}, actor="ann", rate=2)
    work()
    [first] = DeadLetter.objects.all()
    RedriveJob.objects.filter(pk=job.pk).update(holder=HOLDER)
    beside(lambda: queue.resolve(first, clock.wall()), lambda: jobs.step(job.pk, HOLDER))
    assert len(deliver(subscription)) == 1


def test_a_job_that_is_cancelled_while_a_letter_ends_gives_no_deadlock() -> None:
    subscription = hook()
    failed(subscription, "a", behind=1)
    job = actions.redrive(subscription, {}, actor="ann")
    work()
    [letter] = queue.due(subscription, clock.wall() + 1, 9)

    def ends() -> None:
        # As the engine does: the subscription first.
        Subscription.objects.filter(pk=subscription.pk).update(delivered=1)
        queue.resolve(letter, clock.wall())

    beside(ends, lambda: actions.cancel(job, "ann"))
    job.refresh_from_db()
    assert (job.state, job.succeeded) == ("cancelled", 1)
    assert len(deliver(subscription)) == 1, "what was behind it goes on by itself"


def test_one_that_is_redriven_while_it_is_under_way_counts_for_the_job() -> None:
    subscription = hook()
    letter = failed(subscription, "a")
    DeadLetter.objects.filter(pk=letter.pk).update(state=State.RETRYING, next_at=letter.last_failed_at)
    [under_way] = queue.due(subscription, clock.wall() + 1, 9)
    job = actions.redrive(subscription, {"state": "retrying"}, actor="ann")
    work()
    queue.resolve(under_way, clock.wall())
    work()
    job.refresh_from_db()
    assert (job.state, job.succeeded) == ("done", 1)
