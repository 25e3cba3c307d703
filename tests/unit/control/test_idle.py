"""What an idle system does: the structure that keeps it from costing processor time (docs/decisions/0037)."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from django.conf import settings
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from apps.events import projector, sequencer
from apps.events.letters import jobs
from apps.health import monitor as health
from apps.lib import aio
from missioncontrol import monitor
from missioncontrol.beat import Scheduler
from missioncontrol.celery import app
from services.kit.events import pump

SELDOM_S = 60.0
"""A task costs a message, a look at each turn of the schedule, and a thread: nothing for what comes within seconds."""
OFTEN_S = 5.0
"""Without a nudge nobody looks more often than that."""


def test_beat_schedules_nothing_that_comes_within_a_minute() -> None:
    often = {name for name, entry in settings.CELERY_BEAT_SCHEDULE.items() if entry["schedule"] < SELDOM_S}
    assert often == set()


def test_the_schedule_names_tasks_that_there_are() -> None:
    app.loader.import_default_modules()
    assert {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()} <= set(app.tasks)
    assert all(name == entry["task"] for name, entry in settings.CELERY_BEAT_SCHEDULE.items()), "beat.py relies on it"


def test_what_follows_the_log_sleeps_until_it_grows() -> None:
    assert min(sequencer.POLL_S, projector.POLL_S, jobs.POLL_S, pump.POLL_S) >= OFTEN_S


def test_the_monitor_sleeps_until_something_is_due() -> None:
    assert min(health.LATEST_S, health.LOOK_AROUND_S, monitor.RECONCILE_S, monitor.BLOCK_S) >= OFTEN_S


@pytest.mark.django_db(transaction=True)
def test_schedules_of_an_earlier_release_end_and_those_of_people_stay() -> None:
    """Its rows would else go on to send tasks that nobody carries out, each second."""
    app.loader.import_default_modules()
    second = IntervalSchedule.objects.create(every=1, period="seconds")
    old = PeriodicTask.objects.create(name="health.probe_due", task="health.probe_due", interval=second)
    theirs = [
        PeriodicTask.objects.create(name="prune more often", task="health.prune", interval=second),
        PeriodicTask.objects.create(name="their own", task="theirs.report", interval=second, args=json.dumps([1])),
        PeriodicTask.objects.create(name="theirs.report", task="theirs.report", interval=second),
    ]
    Scheduler(app=app)
    left = set(PeriodicTask.objects.values_list("name", flat=True))
    assert old.name not in left
    assert left == {row.name for row in theirs} | set(settings.CELERY_BEAT_SCHEDULE)


def test_a_fault_of_one_part_is_said_and_it_goes_on(caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "AFTER_FAULT_S", 0.0)
    tries = []

    async def run() -> None:
        again = asyncio.Event()

        async def work() -> None:
            tries.append(1)
            if len(tries) == 1:
                raise ValueError("an odd row")
            again.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(monitor._keep("rounds", work))
        async with asyncio.timeout(5):
            await again.wait()
        await aio.end(task)

    asyncio.run(run())
    assert "an odd row" in caplog.text


def test_a_bell_that_rings_without_end_is_answered_a_few_times_a_second() -> None:
    turns: list[float] = []

    async def run() -> None:
        bell, enough, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

        def turn() -> float:
            turns.append(loop.time())
            loop.call_soon_threadsafe((bell if len(turns) < 3 else enough).set)
            return 5.0

        task = asyncio.create_task(monitor._repeat(turn, bell))
        async with asyncio.timeout(10):
            await enough.wait()
        await aio.end(task)

    asyncio.run(run())
    assert all(later - sooner >= monitor.EARLY_S for sooner, later in itertools.pairwise(turns))
