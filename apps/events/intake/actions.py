"""Stores what came in by REST: each event on its own merits, or all or none, and none twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import IntegrityError

from apps.events.actions import VersionConflict, check_draft, publish_all
from apps.events.intake import core
from apps.events.models import Event
from apps.events.schemas.checking import each
from apps.events.storing import Draft
from apps.lib import clock
from services.kit.events.cloudevent import EventError
from services.kit.problem import Problem, Refused

AT_ONCE = 400
"""Ids in one statement."""


@dataclass(slots=True)
class Outcome:
    """What became of one event of a request: ``event``, or the ``problem`` for which it was refused."""

    draft: Draft | None = None
    event: Event | None = None
    problem: Problem | None = None
    repeated: bool = False
    """It was in the log before."""


def take(
    items: Sequence[Any], login: str, *, whole: bool, expected_version: int | None = None, atomic: bool = False
) -> list[Outcome]:
    """Publish ``items`` in the name of ``login``, in the transaction that is open; an outcome each, in their order.

    Refused when nothing is stored: all are refused, one is and ``atomic`` was asked for, or the stream of the new ones
    is not at ``expected_version``.
    """
    outcomes = [_read(item, login, whole=whole) for item in items]
    try:
        return _store(outcomes, expected_version, atomic=atomic)
    except IntegrityError:
        # Somebody published one of these ids since we looked; now it is there to be compared with.
        return _store([_read(item, login, whole=whole) for item in items], expected_version, atomic=atomic)


def _read(item: Any, login: str, *, whole: bool) -> Outcome:
    try:
        draft = core.read(item, login, clock.wall(), settings.EVENT_DAYS, whole=whole)
        check_draft(draft)
    except EventError as error:
        return Outcome(problem=error.problem())
    except Refused as refused:
        return Outcome(problem=refused.problem)
    return Outcome(draft)


def _store(outcomes: list[Outcome], expected_version: int | None, *, atomic: bool) -> list[Outcome]:
    first = _find_repeats([one for one in outcomes if one.draft is not None])
    _check_schemas(first)
    good = [one for one in first if one.problem is None]
    if any(one.problem for one in outcomes) and (atomic or not (good or any(one.event for one in outcomes))):
        raise _refusal(outcomes)
    try:
        events = publish_all([one.draft for one in good if one.draft], expected_version=expected_version)
    except VersionConflict as conflict:
        extra = {"expected": conflict.expected, "actual": conflict.actual}
        raise Refused(Problem(409, "version_conflict", str(conflict), extra=extra)) from None
    for one, event in zip(good, events, strict=True):
        one.event = event
    _answer_twins(outcomes)
    return outcomes


def _find_repeats(wanted: list[Outcome]) -> list[Outcome]:
    """Settle those whose source and id are known, in the log or earlier in the request; the others."""
    names = [one.draft.id for one in wanted if one.draft and one.draft.id]
    sources = {one.draft.source for one in wanted if one.draft}
    stored: dict[tuple[str, str], Event] = {}
    for start in range(0, len(names), AT_ONCE):
        rows = Event.objects.filter(event_id__in=names[start : start + AT_ONCE], source__in=sources)
        stored |= {(row.source, row.event_id): row for row in rows}
    new: dict[tuple[str, str], Draft] = {}
    left = []
    for one in wanted:
        draft = one.draft
        assert draft is not None  # noqa: S101 - the caller chose them so
        name = (draft.source, draft.id)
        if (event := stored.get(name)) is not None:
            if core.says_the_same(event, draft):
                one.event, one.repeated = event, True
            else:
                one.problem = _id_taken(draft)
        elif draft.id and (twin := new.get(name)) is not None:
            one.repeated = twin == draft
            one.problem = None if one.repeated else _id_taken(draft)
        else:
            new[name] = draft
            left.append(one)
    return left


def _answer_twins(outcomes: list[Outcome]) -> None:
    """What came twice in one request gets the answer of the first."""
    first: dict[tuple[str, str], Outcome] = {}
    for one in outcomes:
        if one.draft is None or not one.draft.id:
            continue
        known = first.setdefault((one.draft.source, one.draft.id), one)
        if one.event is None and one.problem is None:
            one.event, one.problem = known.event, known.problem


def _id_taken(draft: Draft) -> Problem:
    detail = f"{draft.source} published another event of the id {draft.id!r}: an id is one event's for good."
    return Problem(409, "event_id_taken", detail)


def _check_schemas(wanted: list[Outcome]) -> None:
    drafts = [one.draft for one in wanted if one.draft]
    for one, found in zip(wanted, each((d.type, d.schema_version, d.data) for d in drafts), strict=True):
        if isinstance(found, EventError):
            one.problem = found.problem()


def _refusal(outcomes: list[Outcome]) -> Refused:
    if len(outcomes) == 1 and (problem := outcomes[0].problem) is not None:
        return Refused(problem)
    refused = {place: one.problem for place, one in enumerate(outcomes) if one.problem is not None}
    place, worst = next(iter(refused.items()))
    detail = f"{len(refused)} of {len(outcomes)} events can't be published, and none was; number {place + 1}: "
    extra = {"events": [{"index": n, "problem": problem.document()} for n, problem in refused.items()]}
    return Refused(Problem(422, "events_refused", detail + worst.detail, extra=extra))
