"""Which letters somebody means, and which events of the log: filters as they are asked for and kept with a job."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.db.models import Max, Min, Q, QuerySet

from apps.events import queries
from apps.events.letters.models import DeadLetter
from apps.events.models import Event

State = DeadLetter.State
REDRIVABLE: Final = (State.FAILED, State.RETRYING)
"""Heads of their keys that are not under way. What is parked behind one follows it."""
MAX_IDS: Final = 1000


def letters(said: dict[str, Any], rows: QuerySet[DeadLetter] | None = None) -> QuerySet[DeadLetter]:
    """Those that ``said`` (``fingerprint type key reason since until state ids``) means. PatternError."""
    rows = DeadLetter.objects.all() if rows is None else rows
    for name in ("fingerprint", "reason", "key", "state"):
        if said.get(name):
            rows = rows.filter(**{name: said[name]})
    if said.get("ids"):
        rows = rows.filter(pk__in=said["ids"])
    if said.get("type"):
        rows = queries.matching(rows, [said["type"]])
    if said.get("since"):
        rows = rows.filter(last_failed_at__gte=_moment(said["since"]))
    if said.get("until"):
        rows = rows.filter(last_failed_at__lt=_moment(said["until"]))
    return rows


def to_redrive(subscription: Any, said: dict[str, Any]) -> QuerySet[DeadLetter]:
    """Those of them that a redrive tries: given up, or, when it says so, between two tries."""
    state = State.RETRYING if said.get("state") == State.RETRYING else State.FAILED
    return letters({**said, "state": state}, DeadLetter.objects.filter(subscription=subscription))


def span(said: dict[str, Any]) -> tuple[int, int]:
    """The positions, the last one included, between which everything lies that ``said`` means; as of now."""
    first, last = int(said.get("after") or 0), queries.head()
    if said.get("to"):
        last = min(last, int(said["to"]))
    if said.get("since") or said.get("until"):
        timed = Event.objects.filter(_when(said), position__isnull=False).aggregate(Min("position"), Max("position"))
        if timed["position__min"] is None:
            return first, first
        first, last = max(first, timed["position__min"] - 1), min(last, timed["position__max"])
    return first, max(first, last)


def events(said: dict[str, Any], after: int, last: int) -> QuerySet[Event]:
    """The events in the log that ``said`` (``types stream key since until``) means, in order. PatternError."""
    rows = Event.objects.filter(_when(said), position__gt=after, position__lte=last, addressee="")
    if said.get("stream"):
        rows = rows.filter(stream=said["stream"])
    if said.get("key"):
        # Of others' events the stream is "@source/key".
        rows = rows.filter(Q(stream=said["key"]) | Q(stream__startswith="@", stream__endswith=f"/{said['key']}"))
    types = said.get("types") or ["#"]
    kinds = queries.kinds_like(types)
    return (rows if kinds is None else rows.filter(type__in=kinds)).order_by("position")


def _when(said: dict[str, Any]) -> Q:
    found = Q()
    if said.get("since"):
        found &= Q(time__gte=_moment(said["since"]))
    if said.get("until"):
        found &= Q(time__lt=_moment(said["until"]))
    return found


def _moment(said: str) -> datetime:
    return datetime.fromisoformat(said)
