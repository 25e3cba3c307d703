"""What people do with dead letters: redrive, discard, resolve, note, and replay the log. Each is in the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby, islice
from typing import Any, Final

from auditlog.models import LogEntry
from django.db import transaction

from apps.events import nudges
from apps.events.actions import publish
from apps.events.letters import choice, queue
from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Subscription
from apps.lib import clock
from apps.lib.wire import SUBSCRIPTIONS_CHANNEL
from services.kit.events.reporting import DISCARD, MOST_NAMED, REDRIVE
from services.kit.problem import Problem, Refused

State, JobState = DeadLetter.State, RedriveJob.State


class What(StrEnum):
    """What happens to a job, as its events say it."""

    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    AWAITING = "awaiting"
    """Its canary went well: it awaits a confirmation."""
    DONE = "done"
    CANCELLED = "cancelled"


MAX_RATE: Final = 10_000.0
MAX_DISCARDED: Final = 10_000
"""Letters that are discarded at once."""
AT_ONCE: Final = 500
"""Of these in one transaction."""
MAX_JOBS: Final = 20
"""That are active at once."""


def refuse(slug: str, detail: str, status: int = 409, **extra: Any) -> Refused:
    """The refusal of an act, to raise."""
    return Refused(Problem(status, slug, detail, extra=extra))


def redrive(
    subscription: Subscription, said: dict[str, Any], *, actor: str, rate: float = 0.0, canary: int = 0, note: str = ""
) -> RedriveJob:
    """Begin to try again what ``said`` means. Refused when that is nothing, or the same is being done."""
    with transaction.atomic():
        _in_line(subscription)
        same = RedriveJob.objects.filter(subscription=subscription, kind="redrive", state__in=RedriveJob.ACTIVE)
        if running := next((one for one in same if one.filter == said), None):
            raise refuse(
                "already_running", f"Job {running.pk} of {running.actor} redrives exactly that.", job=running.pk
            )
        rows = choice.to_redrive(subscription, said)
        total, last = rows.count(), rows.order_by("-pk").values_list("pk", flat=True).first()
        if last is None:
            raise refuse("nothing_to_redrive", "No letter that was given up matches, or others redrive them already.")
        return _begin("redrive", subscription, said, actor, rate, note, total=total, last=last, canary=canary)


def replay(
    subscription: Subscription,
    said: dict[str, Any],
    *,
    actor: str,
    rate: float = 0.0,
    canary: int = 0,
    again: bool = False,
    note: str = "",
) -> RedriveJob:
    """Begin to deliver once more what ``said`` means of the log. Refused when that is nothing, or can't be."""
    check_replay(subscription)
    with transaction.atomic():
        _in_line(subscription)
        cursor, last = choice.span(said)
        total = choice.events(said, cursor, last).count()
        if not total:
            raise refuse("nothing_to_replay", "No event in the log matches.")
        return _begin(
            "replay",
            subscription,
            said,
            actor,
            rate,
            note,
            total=total,
            cursor=cursor,
            last=last,
            canary=canary,
            again=again,
        )


def check_replay(subscription: Subscription) -> None:
    """Refused for one that nothing can be replayed into."""
    if subscription.kind == Subscription.Kind.CONSUMER:
        raise refuse(
            "replay_not_possible",
            f"{subscription.name} reads its broker itself, and keeps what it has handled: a replay would do nothing. "
            "Redrive its dead letters, or follow the log with a webhook or an internal subscription.",
            422,
        )


def _begin(kind: str, subscription: Subscription, said: Any, actor: str, rate: float, note: str, **rest: Any) -> Any:
    if RedriveJob.objects.filter(state__in=RedriveJob.ACTIVE).count() >= MAX_JOBS:
        raise refuse("too_many_jobs", f"{MAX_JOBS} jobs are under way or paused: cancel or finish some first.")
    job = RedriveJob.objects.create(
        kind=kind,
        subscription=subscription,
        filter=said,
        actor=actor,
        rate=rate,
        note=note,
        created_at=_now(),
        **rest,
    )
    _tell(job, What.STARTED)
    return job


def _in_line(subscription: Subscription) -> None:
    """Who begins jobs of one subscription comes one after the other."""
    queue.hold(subscription.pk)


def pause(job: RedriveJob, actor: str) -> None:
    """Take nothing more until it is resumed; what is under way ends. Refused unless it runs."""
    _change(job, (JobState.RUNNING,), JobState.PAUSED, actor, What.PAUSED, reason=f"{actor} paused it.")


def resume(job: RedriveJob, actor: str) -> None:
    """Go on, with what followed the canary too. Refused unless it is paused or waits for a confirmation."""
    stopped = (JobState.PAUSED, JobState.CONFIRM)
    _change(job, stopped, JobState.RUNNING, actor, What.RESUMED, reason="", confirmed=True, failed_in_a_row=0)


def cancel(job: RedriveJob, actor: str) -> None:
    """End it; what it has not tried stays as it was. Refused when it has ended."""
    with transaction.atomic():
        queue.hold(job.subscription_id)
        _change(
            job,
            RedriveJob.ACTIVE,
            JobState.CANCELLED,
            actor,
            What.CANCELLED,
            reason=f"{actor} cancelled it.",
            ended_at=_now(),
        )
        let_go(job)


def let_go(job: RedriveJob) -> None:
    """Give back what the job has in hand; it has ended in this transaction, so no more comes to it."""
    rows = DeadLetter.objects.filter(job=job)
    if job.kind == RedriveJob.Kind.REPLAY:
        rows.filter(replay=job.pk, state__in=[State.REDRIVING, State.PARKED]).delete()
        return
    rows.filter(state=State.REDRIVING).update(state=State.FAILED, next_at=None)
    if job.subscription.kind != Subscription.Kind.CONSUMER:
        rows.filter(state=State.PARKED).update(state=State.RETRYING, next_at=_now(), job=None)


def _change(job: RedriveJob, before: Any, after: str, actor: str, what: What, **said: Any) -> None:
    with transaction.atomic():
        changed = RedriveJob.objects.filter(pk=job.pk, state__in=before).update(state=after, **said)
        job.refresh_from_db()
        if not changed:
            raise refuse("job_state", f"Job {job.pk} is {job.get_state_display().lower()}: it can't be {what}.")
        audit(job, state=after, actor=actor)
        _tell(job, what)


def _tell(job: RedriveJob, what: What) -> None:
    """On the bus and in the log; whoever works on jobs is woken by it."""
    publish(
        f"system.{job.kind}.{what}",
        {
            "job": job.pk,
            "subscription": job.subscription.name,
            "actor": job.actor,
            "reason": job.reason,
            "total": job.total,
            "succeeded": job.succeeded,
            "failed": job.failed,
        },
        stream=f"job/{job.pk}",
    )


def ended(job: RedriveJob, what: What) -> None:
    """The job says of itself what became of it."""
    _tell(job, what)


def discard(rows: Any, *, actor: str, note: str) -> int:
    """Nobody wants these any more; what waits behind them goes on. How many; Refused for too many at once. Should this
    end in between, some hundreds are discarded and the others are not."""
    chosen = list(rows.filter(state__in=DeadLetter.OPEN).select_related("subscription")[: MAX_DISCARDED + 1])
    if len(chosen) > MAX_DISCARDED:
        raise refuse("too_many", f"At most {MAX_DISCARDED:,} letters are discarded at once: narrow the filter.", 422)
    # Of each key the last first, so that nothing is tried that is given up a moment later.
    chosen.sort(key=lambda one: (one.subscription_id, -one.place))
    done = 0
    for _, some in groupby(chosen, key=lambda one: one.subscription_id):
        while part := list(islice(some, AT_ONCE)):
            done += _discard(part, actor, note)
    return done


def _discard(letters: list[DeadLetter], actor: str, note: str) -> int:
    """Letters of one subscription, which delivers nothing meanwhile."""
    done = 0
    with transaction.atomic():
        for letter in letters:
            if queue.close(letter, State.DISCARDED, clock.wall(), actor=actor, note=note or letter.note):
                audit(letter, state=State.DISCARDED, note=note, actor=actor)
                done += 1
        if letters[0].subscription.kind == Subscription.Kind.CONSUMER:
            command(DISCARD, letters)
        transaction.on_commit(wake)
    return done


def resolve(letter: DeadLetter, *, actor: str, note: str) -> None:
    """It was mended elsewhere. Refused when it is closed, and for a service's, which only the service can end."""
    if letter.subscription.kind == Subscription.Kind.CONSUMER:
        raise refuse("not_ours", "Only the service itself can say that: redrive or discard it.", 422)
    with transaction.atomic():
        if not queue.close(letter, State.RESOLVED, clock.wall(), actor=actor, note=note or letter.note):
            raise closed(letter)
        audit(letter, state=State.RESOLVED, note=note, actor=actor)
        transaction.on_commit(wake)


def annotate(letter: DeadLetter, *, actor: str, note: str) -> None:
    """Leave a note on it."""
    with transaction.atomic():
        DeadLetter.objects.filter(pk=letter.pk).update(note=note, actor=actor)
        audit(letter, note=note, actor=actor)
    letter.refresh_from_db()


def closed(letter: DeadLetter) -> Refused:
    """The refusal for a letter that has ended."""
    letter.refresh_from_db()
    return refuse("letter_closed", f"Letter {letter.pk} is {letter.state} already.")


def command(type: str, letters: list[DeadLetter], **more: Any) -> None:
    """Say it to the service whose letters these are."""
    group = letters[0].subscription.name
    for start in range(0, len(letters), MOST_NAMED):
        part = letters[start : start + MOST_NAMED]
        events = [{"source": one.source, "event_id": one.event_id} for one in part]
        publish(type, {"group": group, "events": events, **more}, stream=f"control/{group}")


def try_now(subscription: Subscription, pks: list[int], before: Any, *, job: RedriveJob | None, actor: str) -> int:
    """Give the word for those of ``pks`` that are still in a state of ``before``: nobody else's word counts then."""
    rows = DeadLetter.objects.filter(pk__in=pks, state__in=before)
    if job is not None:
        # Told apart from those that somebody else took a moment ago.
        taken = rows.update(state=State.REDRIVING, next_at=_now(), job=job, actor=actor)
    else:
        taken = rows.update(state=State.REDRIVING, next_at=_now(), job=None, actor=actor)
    if taken and subscription.kind == Subscription.Kind.CONSUMER:
        mine = DeadLetter.objects.filter(pk__in=pks, state=State.REDRIVING, job=job).select_related("subscription")
        command(REDRIVE, list(mine.order_by("place", "pk")))
    if taken:
        transaction.on_commit(wake)
    return taken


def wake() -> None:
    """There are letters to try."""
    nudges.nudge(SUBSCRIPTIONS_CHANNEL)


def audit(row: Any, *, actor: str, **changes: Any) -> None:
    """An entry of the audit trail; the middleware adds who and from where, when there is a request."""
    said = {name: ["", str(value)] for name, value in {**changes, "actor": actor}.items()}
    LogEntry.objects.log_create(row, force_log=True, action=LogEntry.Action.UPDATE, changes=said)


def _now() -> datetime:
    return datetime.fromtimestamp(clock.wall(), UTC)
