"""Delivery as tests need it: takes what is due and says what becomes of it, beside the queue's real tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection

from apps.events.actions import publish
from apps.events.letters import jobs, queue
from apps.events.letters.core import Failure
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, Subscription
from apps.events.sequencer import number
from apps.lib import clock

HOLDER = "test"
FAILURE = Failure("http_4xx", "422 from the endpoint", "File x", permanent=True)


def hook(name: str = "hook", **changes: Any) -> Subscription:
    return Subscription.objects.create(**({"name": name, "patterns": ["#"], "max_attempts": 3} | changes))


def published(key: str, data: dict[str, Any] | None = None, type: str = "test.thing.done") -> Event:
    """One event, with its position."""
    event = publish(type, data or {"key": key}, stream=key)
    numbered()
    event.refresh_from_db()
    return event


def numbered() -> None:
    """Everything has its position."""
    while connection.vendor != "sqlite" and number():
        pass


def failed(subscription: Subscription, key: str, behind: int = 0) -> DeadLetter:
    """A letter that was given up, and so many behind it."""
    letter = queue.fail(subscription, published(key), FAILURE, clock.wall())
    for _ in range(behind):
        queue.park(subscription, published(key), clock.wall())
    return letter


def deliver(subscription: Subscription, takes: Callable[[Event], bool] = lambda event: True) -> list[str]:
    """Try everything that is due, once; the ids in order."""
    tried = []
    for letter in queue.due(subscription, clock.wall() + 1, 10_000):
        tried.append(letter.event_id)
        if takes(letter.event):
            queue.resolve(letter, clock.wall())
        else:
            queue.fail(subscription, letter.event, FAILURE, clock.wall(), letter)
    return tried


def work(times: int = 1) -> None:
    """Take every running job so many steps further."""
    for _ in range(times):
        for pk in jobs.claim(HOLDER, clock.wall()):
            jobs.step(pk, HOLDER)


def through(
    subscription: Subscription, job: RedriveJob, takes: Callable[[Event], bool] = lambda event: True, turns: int = 60
) -> list[str]:
    """Work and deliver until the job stops; what was tried, in order."""
    tried: list[str] = []
    for _ in range(turns):
        work()
        tried += deliver(subscription, takes)
        job.refresh_from_db()
        if job.state != RedriveJob.State.RUNNING:
            return tried
    raise AssertionError(f"{job} goes on and on")
