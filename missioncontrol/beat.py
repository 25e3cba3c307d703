"""The scheduler of Celery beat: django-celery-beat's, with a heartbeat and without idle work.

Four differences: every turn of the schedule refreshes ``mc:alive:beat``, so a beat that hangs is
seen; a turn does only what it must (the database is asked for changed schedules every ten seconds
and not at every turn, an interval's clock skips time zones); a broker that is away is one line in
the log and not a stack trace a turn; what an earlier release scheduled, and no task carries out any
more, is forgotten at the start.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from celery import schedules
from celery.beat import SchedulingError
from django.conf import settings
from django.db.models import F
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

from apps.lib import alive, clock

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
OURS = r"^(events|gateway|health)\."
"""Names of tasks of ours, of any release."""


def _now() -> datetime:
    return datetime.now(UTC)


class Entry(ModelEntry):
    """One schedule. An interval has no use for the local time that crontabs are read in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if type(self.schedule) is schedules.schedule:
            self.schedule.nowfun = _now


class Scheduler(DatabaseScheduler):
    """See the module."""

    Entry = Entry

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._beat_at = self._look_at = 0.0
        self._broker_away = False
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        # Settings name a schedule as its task; those that people made in admin have names of their own.
        ours = PeriodicTask.objects.filter(name=F("task"), task__regex=OURS)
        ours.exclude(task__in=list(self.app.tasks)).delete()
        super().setup_schedule()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        now = clock.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + alive.EVERY_S
            alive.refresh(settings.REDIS_URL, settings.WIRE, "beat")
        return min(float(super().tick(*args, **kwargs)), alive.EVERY_S)

    def schedule_changed(self) -> bool:
        now = clock.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        return bool(super().schedule_changed())

    def schedules_equal(self, old: Any, new: Any) -> bool:
        # The parent replaces the whole schedule when the database's changed, and says so; comparing
        # every entry at every turn would find nothing else.
        stale, self._heap_invalidated = self._heap_invalidated, False
        return old is not None and not stale

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as error:
            if not self._broker_away:
                self._broker_away = True
                log.warning("%s. Schedules go on when the broker is back.", error)
        else:
            if self._broker_away:
                self._broker_away = False
                log.warning("The task broker is back.")
