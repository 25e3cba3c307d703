"""Works on redrive and replay jobs inside the relay process: a few letters at a time, as fast as the job may.

A job is a row with a lease; whoever has it takes a step, in one transaction, which says how far it is. What it took is
letters in the state ``redriving``, which delivery tries and counts. So a process that is killed loses nothing, and
another goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Count, F, Q
from opentelemetry import metrics

from apps.events import nudges
from apps.events.letters import actions, choice, pace, queue
from apps.events.letters.actions import What
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event, Handled, Subscription
from apps.lib import clock
from apps.lib.aio import end, in_thread
from services.kit.events.pump import Trouble

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
open_letters = meter.create_gauge("mc.letters.open", description="Dead letters that are open")
active_jobs = meter.create_gauge("mc.letters.jobs", description="Jobs that redrive or replay, by state")

POLL_S: Final = 5.0
LEASE_S: Final = 15.0
MEASURE_EVERY_S: Final = 10.0
MOST_SUBSCRIPTIONS: Final = 200
"""That a metric tells apart."""

State, JobState = DeadLetter.State, RedriveJob.State


class Jobs:
    """Runs until told to stop. Any number may run: a job is in one's hands."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.bell = asyncio.Event()
        self._stopping = False
        self._database = Trouble("The database", "redrives and replays stand still")
        self._not_before: dict[int, float] = {}
        self._measure_at = 0.0
        self._said: set[tuple[str, str]] = set()

    def stop(self) -> None:
        """End after the step in hand."""
        self._stopping = True
        self.bell.set()

    async def run(self) -> None:
        """Work on jobs until stopped."""
        listener = asyncio.create_task(nudges.listen(self._redis_url, self.bell), name="job nudges")
        try:
            while not self._stopping:
                self.bell.clear()
                try:
                    pause = await in_thread(self._turn)
                    await self._measure()
                    self._database.is_over()
                except DatabaseError as error:
                    pause = self._database.begins(error)
                await self._sleep(pause)
            await in_thread(release, self._holder)
        finally:
            await end(listener)

    def _turn(self) -> float:
        close_old_connections()
        now = clock.monotonic()
        running = claim(self._holder, clock.wall())
        self._not_before = {pk: at for pk, at in self._not_before.items() if pk in running}
        for pk in running:
            if self._not_before.get(pk, 0.0) <= now:
                self._not_before[pk] = clock.monotonic() + step(pk, self._holder)
        if not running:
            return POLL_S
        return max(min(self._not_before.values()) - clock.monotonic(), 0.0)

    async def _measure(self) -> None:
        if clock.monotonic() < self._measure_at:
            return
        self._measure_at = clock.monotonic() + MEASURE_EVERY_S
        found = await in_thread(counts)
        for name, state in self._said - found.keys():
            open_letters.set(0, {"subscription": name, "state": state})
        for (name, state), number in found.items():
            open_letters.set(number, {"subscription": name, "state": state})
        self._said = set(found)
        for state, number in (await in_thread(jobs_by_state)).items():
            active_jobs.set(number, {"state": state})

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0 or self._stopping:
            return
        # A nudge says that there may be a new job; a rate is kept all the same, by each job's own time.
        try:
            async with asyncio.timeout(seconds):
                await self.bell.wait()
        except TimeoutError:
            pass


def counts() -> dict[tuple[str, str], int]:
    """Open letters by subscription and state."""
    rows = DeadLetter.objects.filter(state__in=DeadLetter.OPEN).values_list("subscription__name", "state")
    found = rows.annotate(count=Count("pk")).order_by("-count")[:MOST_SUBSCRIPTIONS]
    return {(name, state): count for name, state, count in found}


def jobs_by_state() -> dict[str, int]:
    """Active jobs by state."""
    rows = RedriveJob.objects.filter(state__in=RedriveJob.ACTIVE).order_by().values_list("state")
    return dict.fromkeys(map(str, RedriveJob.ACTIVE), 0) | dict(rows.annotate(count=Count("pk")))


def claim(holder: str, now: float) -> list[int]:
    """The running jobs that are ``holder``'s now."""
    at = datetime.fromtimestamp(now, UTC)
    running = RedriveJob.objects.filter(state=JobState.RUNNING)
    if not running.exists():
        return []
    free = Q(holder="") | Q(holder=holder) | Q(leased_until__lt=at)
    running.filter(free).update(holder=holder, leased_until=at + timedelta(seconds=LEASE_S))
    return list(running.filter(holder=holder).order_by("pk").values_list("pk", flat=True))


def release(holder: str) -> None:
    """Let others go on at once."""
    RedriveJob.objects.filter(holder=holder).update(holder="", leased_until=None)


def step(pk: int, holder: str) -> float:
    """Take the job one step further; seconds until the next one."""
    with transaction.atomic():
        for subscription in RedriveJob.objects.filter(pk=pk).values_list("subscription", flat=True):
            queue.hold(subscription)
        job = RedriveJob.objects.select_for_update().filter(pk=pk, holder=holder, state=JobState.RUNNING).first()
        if job is None:
            return 0.0
        found = pace.step(_progress(job))
        if found.pause:
            _stop(job, JobState.PAUSED, found.pause, What.PAUSED)
            return 0.0
        if found.confirm:
            _stop(job, JobState.CONFIRM, found.confirm, What.AWAITING)
            return 0.0
        if found.room:
            taken, more = (_redrive if job.kind == RedriveJob.Kind.REDRIVE else _replay)(job, found.room)
            if not taken and not more and not _in_hand(job).exists():
                _stop(job, JobState.DONE, _summary(job), What.DONE)
                return 0.0
            return found.wait_s if taken or more else pace.WAIT_S
    return found.wait_s


def _in_hand(job: RedriveJob) -> Any:
    rows = DeadLetter.objects.filter(job=job)
    if job.kind == RedriveJob.Kind.REPLAY:
        # What lies behind one that failed is not waited for when everything else is through.
        return rows.filter(state=State.REDRIVING)
    return rows.filter(state__in=[State.REDRIVING, State.PARKED])


def _progress(job: RedriveJob) -> pace.Progress:
    rows = dict(DeadLetter.objects.filter(job=job).order_by().values_list("state").annotate(count=Count("pk")))
    going, behind = rows.get(State.REDRIVING, 0), rows.get(State.PARKED, 0)
    replayed = job.kind == RedriveJob.Kind.REPLAY
    failed = DeadLetter.objects.filter(job=job, state=State.FAILED).order_by("-last_failed_at")
    return pace.Progress(
        taken=job.taken,
        failed=job.failed,
        failed_in_a_row=job.failed_in_a_row,
        under_way=going + (behind if replayed else 0),
        stuck=behind if replayed and not going else 0,
        canary=job.canary,
        confirmed=job.confirmed,
        rate=job.rate,
        obstacle=_obstacle(job.subscription),
        last_error=(failed.values_list("error", flat=True).first() or "") if job.failed else "",
    )


def _obstacle(subscription: Subscription) -> str:
    if subscription.kind == Subscription.Kind.CONSUMER:
        return ""
    if subscription.state != Subscription.State.ACTIVE:
        return f"{subscription.name} is {subscription.state}: {subscription.reason or 'somebody said so'}."[:500]
    if subscription.opened_until and subscription.opened_until.timestamp() > clock.wall():
        return f"{subscription.name} can't be reached, its breaker is open: {subscription.last_error}"[:500]
    return ""


def _redrive(job: RedriveJob, room: int) -> tuple[int, bool]:
    """Take up to ``room`` letters: those freed by what the job redrove, then the next ones."""
    heirs = list(
        DeadLetter.objects.filter(job=job, state=State.PARKED).order_by("pk").values_list("pk", flat=True)[:room]
    )
    rows = choice.to_redrive(job.subscription, job.filter).filter(pk__gt=job.cursor, pk__lte=job.last)
    chosen = list(rows.order_by("pk").values_list("pk", "state")[: room - len(heirs)])
    taken = 0
    if heirs:
        taken += actions.try_now(job.subscription, heirs, [State.PARKED], job=job, actor=job.actor)
    if chosen:
        pks = [pk for pk, _ in chosen]
        taken += actions.try_now(job.subscription, pks, {state for _, state in chosen}, job=job, actor=job.actor)
        job.cursor = pks[-1]
    _moved(job, taken)
    return taken, bool(chosen)


def _replay(job: RedriveJob, room: int) -> tuple[int, bool]:
    """Put up to ``room`` events of the log into lanes of the job's own, which hold up nothing live."""
    found = list(choice.events(job.filter, job.cursor, job.last)[:room])
    if not found:
        job.cursor = job.last
        _moved(job, 0)
        return 0, False
    now = datetime.fromtimestamp(clock.wall(), UTC)
    lanes = {event.pk: f"replay/{job.pk}/{event.stream}" for event in found}
    keys = set(lanes.values())
    blocked = DeadLetter.objects.filter(subscription=job.subscription, key__in=keys, state__in=DeadLetter.OPEN)
    held = set(blocked.values_list("key", flat=True))
    letters = []
    for event in found:
        lane = lanes[event.pk]
        letters.append(_letter(job, event, lane, now, waits=lane in held))
        held.add(lane)
    DeadLetter.objects.bulk_create(letters, ignore_conflicts=True)
    if job.again:
        _forget_handled(job.subscription, found)
    job.cursor = found[-1].position or job.cursor
    _moved(job, len(found))
    transaction.on_commit(actions.wake)
    return len(found), True


def _letter(job: RedriveJob, event: Event, lane: str, now: datetime, *, waits: bool) -> DeadLetter:
    return DeadLetter(
        subscription=job.subscription,
        source=event.source,
        event_id=event.event_id,
        type=event.type,
        key=lane,
        wire_key=event.partition_key,
        place=event.position,
        stored=event,
        state=State.PARKED if waits else State.REDRIVING,
        next_at=None if waits else now,
        created_at=now,
        replay=job.pk,
        job=job,
        actor=job.actor,
    )


def _forget_handled(subscription: Subscription, events: list[Event]) -> None:
    named = Q()
    for event in events:
        named |= Q(source=event.source, event_id=event.event_id)
    Handled.objects.filter(named, subscription=subscription).delete()


def _moved(job: RedriveJob, taken: int) -> None:
    RedriveJob.objects.filter(pk=job.pk).update(cursor=job.cursor, taken=F("taken") + taken)


def _stop(job: RedriveJob, state: str, why: str, what: What) -> None:
    """The job says that it stops, and why."""
    done = state == JobState.DONE
    at = datetime.fromtimestamp(clock.wall(), UTC) if done else None
    RedriveJob.objects.filter(pk=job.pk).update(state=state, reason=why[:500], ended_at=at, holder="")
    job.refresh_from_db()
    if done and job.kind == RedriveJob.Kind.REDRIVE:
        actions.let_go(job)
    log.warning("%s: %s", job, why)
    actions.ended(job, what)


def _summary(job: RedriveJob) -> str:
    if not job.succeeded and not job.failed:
        return "Nothing was left to try."
    return (
        f"{job.succeeded} of {job.succeeded + job.failed} went well."
        if job.failed
        else f"All {job.succeeded} went well."
    )
