"""``manage.py events redrive|replay|jobs``: the jobs on dead letters and the log, from a terminal.

The words are those of REST, and so are the checks.
"""

from __future__ import annotations

import argparse
import getpass
import json
import time
from typing import Any, Final

from apps.events.letters import actions, queries
from apps.events.letters.models import RedriveJob
from apps.events.letters.serializers import RedriveSerializer, ReplaySerializer, plain
from services.kit.problem import Refused

LOOK_EVERY_S: Final = 1.0
FILTERS: Final = ("fingerprint", "type", "key", "reason", "since", "until", "state")
RANGES: Final = ("stream", "key", "since", "until", "after", "to")


class Wrong(Exception):
    """What was asked for can't be; the message says why."""


def add(commands: Any) -> None:
    """The subcommands of this room."""
    redrive = commands.add_parser("redrive", help="Try again what a subscription did not take.")
    replay = commands.add_parser("replay", help="Deliver events of the log once more to one subscription.")
    for parser, names in ((redrive, FILTERS), (replay, RANGES)):
        parser.add_argument("subscription")
        for name in names:
            parser.add_argument(f"--{name}")
        parser.add_argument("--rate", type=float, default=0.0, help="Events a second; 0: as fast as it goes.")
        parser.add_argument("--canary", type=int, default=0, help="Stop for a confirmation after so many.")
        parser.add_argument("--note", default="")
        parser.add_argument("--dry-run", action="store_true", help="Say what would happen.")
        parser.add_argument("--follow", action="store_true", help="Show the progress until it stops.")
    redrive.add_argument("--ids", type=int, nargs="+")
    redrive.set_defaults(handle=_redrive)
    replay.add_argument("--types", nargs="+", help="Patterns; those of the subscription unless said.")
    replay.add_argument("--again", action="store_true", help="Have a handler handle again what it has handled.")
    replay.set_defaults(handle=_replay)
    jobs = commands.add_parser("jobs", help="List jobs, or pause, resume or cancel one.")
    jobs.add_argument("act", nargs="?", choices=["pause", "resume", "cancel"])
    jobs.add_argument("job", nargs="?", type=int)
    jobs.set_defaults(handle=_jobs)


def _redrive(said: argparse.Namespace, out: Any) -> None:
    wanted = _checked(RedriveSerializer, said, (*FILTERS, "ids"), {})
    subscription, chosen = wanted["subscription"], plain(wanted["filter"])
    if wanted["dry_run"]:
        return _show(queries.plan_redrive(subscription, chosen), out)
    job = _refusing(
        actions.redrive,
        subscription,
        chosen,
        actor=_who(),
        **{name: wanted[name] for name in ("rate", "canary", "note")},
    )
    return _begun(job, said.follow, out)


def _replay(said: argparse.Namespace, out: Any) -> None:
    wanted = _checked(ReplaySerializer, said, (*RANGES, "types"), {"again": said.again})
    subscription = wanted["subscription"]
    chosen = {"types": list(subscription.patterns)} | plain(wanted["filter"])
    _refusing(actions.check_replay, subscription)
    if wanted["dry_run"]:
        return _show(queries.plan_replay(chosen), out)
    given = {name: wanted[name] for name in ("rate", "canary", "note", "again")}
    return _begun(_refusing(actions.replay, subscription, chosen, actor=_who(), **given), said.follow, out)


def _checked(kind: Any, said: argparse.Namespace, names: Any, more: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: value for name in names if (value := getattr(said, name)) is not None}
    given = {"subscription": said.subscription, "rate": said.rate, "canary": said.canary, "note": said.note}
    asked = kind(data={**given, "filter": chosen, "dry_run": said.dry_run, **more})
    if not asked.is_valid():
        raise Wrong(json.dumps(asked.errors))
    return dict(asked.validated_data)


def _refusing(call: Any, *args: Any, **rest: Any) -> Any:
    try:
        return call(*args, **rest)
    except Refused as refused:
        raise Wrong(refused.problem.detail) from None


def _show(plan: queries.Plan, out: Any) -> None:
    out.write(f"{plan.total} events, {plan.waiting} wait behind them, {plan.redriving} are under way.")
    for name, count in plan.by_type.items():
        out.write(f"  {count:>8}  {name}")


def _begun(job: RedriveJob, follow: bool, out: Any) -> None:
    out.write(f"Job {job.pk} has begun with {job.total} events.")
    while follow and job.state == RedriveJob.State.RUNNING:
        time.sleep(LOOK_EVERY_S)
        job.refresh_from_db()
        out.write(_line(job))


def _jobs(said: argparse.Namespace, out: Any) -> None:
    if said.act:
        job = RedriveJob.objects.select_related("subscription").filter(pk=said.job).first()
        if job is None:
            raise Wrong(f"There is no job {said.job}.")
        _refusing(getattr(actions, said.act), job, _who())
        out.write(_line(job))
        return
    for job in queries.jobs()[:50]:
        out.write(_line(job))


def _line(job: RedriveJob) -> str:
    why = f" ({job.reason})" if job.reason else ""
    return (
        f"{job.pk} {job.kind} {job.subscription.name}: {job.state}{why}; "
        f"{job.taken} taken of {job.total}, {job.succeeded} went well, {job.failed} failed"
    )


def _who() -> str:
    """Whoever has this terminal has the machine; the audit trail says which login it was."""
    return f"{getpass.getuser()} at the terminal"
