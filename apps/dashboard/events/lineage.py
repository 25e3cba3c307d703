"""What led to an event and what came of it, as a tree. Pure but for ``read``, which asks the log.

Events name their cause (``causationid``) and the work they belong to (``correlationid``). A cause is looked for by its
id wherever it is; effects among the events of the same work, and of the causes' works.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.core.exceptions import ValidationError

from apps.events.models import Event
from services.kit.events.cloudevent import MAX_TEXT

MOST = 300
"""Events of one work that are looked at."""
HIGHEST = 20
"""Causes followed upwards."""
DEEPEST = 30
"""Levels drawn."""


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree. ``gap_s``: since its cause, None for the root; ``lost``: named and not in the log."""

    level: int
    event: Event | None
    gap_s: float | None = None
    here: bool = False
    lost: str = ""

    @property
    def indent(self) -> int:
        """Pixels."""
        return min(self.level, 12) * 18


@dataclass(frozen=True, slots=True)
class Tree:
    """``nodes`` in the order they are drawn; ``cut``: there may be more; ``beside``: of the same work, uncaused."""

    nodes: Sequence[Node]
    beside: Sequence[Event] = ()
    cut: bool = False


def read(event: Event) -> Tree:
    """The tree around ``event``. At most HIGHEST queries by id and two by correlation."""
    causes: list[Event] = []
    lost = ""
    seen = {str(event.event_id)}
    at = event
    while at.causation_id and len(causes) < HIGHEST:
        if at.causation_id in seen:
            break
        seen.add(at.causation_id)
        cause = by_id(at.causation_id, at.correlation_id)
        if cause is None:
            lost = at.causation_id
            break
        causes.append(cause)
        at = cause
    works = sorted({one.correlation_id for one in (event, *causes) if one.correlation_id})
    found = list(Event.objects.filter(correlation_id__in=works).order_by("-position")[: MOST + 1]) if works else []
    known = {one.pk: one for one in (*found[:MOST], *causes, event)}
    return grow(event, list(known.values()), lost, cut=len(found) > MOST)


def by_id(event_id: str, correlation_id: str = "") -> Event | None:
    """The event of this id; of several publishers' the one of this work. None for what no event is called."""
    found = all_by_id(event_id)
    return next((one for one in found if one.correlation_id == correlation_id), found[0] if found else None)


def all_by_id(event_id: str) -> list[Event]:
    """The events of this id, each of another publisher; none for what no event is called."""
    if not event_id or len(event_id) > MAX_TEXT or "\0" in event_id:
        return []
    try:
        return list(Event.objects.filter(event_id=event_id).order_by("pk")[:20])
    except ValidationError:
        return []


def grow(event: Event, known: Iterable[Event], lost: str = "", *, cut: bool = False) -> Tree:
    """The tree that ``event`` stands in, from its first cause that is ``known``; the older effect first."""
    events = sorted(known, key=lambda one: (one.time, one.pk))
    by_name = {str(one.event_id): one for one in events}
    effects: dict[str, list[Event]] = {}
    for one in events:
        if one.causation_id:
            effects.setdefault(one.causation_id, []).append(one)
    root, above = event, {event.pk}
    while (cause := by_name.get(root.causation_id)) is not None and cause.pk not in above:
        above.add(cause.pk)
        root = cause
    nodes: list[Node] = []
    drawn: set[int] = set()
    if lost:
        nodes.append(Node(0, None, lost=lost))
    pending: list[tuple[Event, int, Event | None]] = [(root, 1 if lost else 0, None)]
    while pending:
        one, level, cause = pending.pop()
        if one.pk in drawn:
            continue
        drawn.add(one.pk)
        gap = max(0.0, (one.time - cause.time).total_seconds()) if cause is not None else None
        nodes.append(Node(level, one, gap, here=one.pk == event.pk))
        if level < DEEPEST:
            pending += [(effect, level + 1, one) for effect in reversed(effects.get(str(one.event_id), ()))]
    beside = [one for one in events if one.pk not in drawn and one.correlation_id == event.correlation_id]
    return Tree(nodes, beside[:20], cut or len(beside) > 20)
