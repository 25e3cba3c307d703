"""What led to an event and what came of it, as a tree. Pure but for ``read``, which asks the log.

Events name their cause (``causationid``) and the work they belong to (``correlationid``). Causes and effects are
followed by what names them, into whatever work they were published; what else is of the same work stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.db.models import Q

from apps.events.models import Event
from services.kit.events.cloudevent import MAX_TEXT

MOST = 300
"""Events followed as effects, the earlier first; and as many of the same work, the newest."""
HIGHEST = 20
"""Causes followed upwards."""
DEEPEST = 12
"""Levels of effects followed below the first cause that is known and its way to the event."""
BESIDE = 20
"""Events shown of the same work that nobody names as a cause or an effect."""


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
    """``nodes`` in the order they are drawn; ``beside``: of the same work, uncaused; ``cut``: what is left out."""

    nodes: Sequence[Node]
    beside: Sequence[Event] = ()
    cut: str = ""


def read(event: Event) -> Tree:
    """The tree around ``event``: at most HIGHEST queries by id, DEEPEST by cause and one by correlation."""
    causes: list[Event] = []
    lost = ""
    seen = {str(event.event_id)}
    at = event
    cut = []
    while at.causation_id and at.causation_id not in seen:
        if len(causes) == HIGHEST:
            cut.append(f"causes beyond the nearest {HIGHEST}")
            break
        seen.add(at.causation_id)
        cause = by_id(at.causation_id, at.correlation_id)
        if cause is None:
            lost = at.causation_id
            break
        causes.append(cause)
        at = cause
    known = {one.pk: one for one in (*causes, event)}
    cut += _follow(known)
    if event.correlation_id:
        work = Event.objects.filter(correlation_id=event.correlation_id).exclude(pk__in=list(known))
        found = list(work.order_by("-position")[: MOST + 1])
        known |= {one.pk: one for one in found[:MOST]}
        if len(found) > MOST:
            cut.append(f"all but the newest {MOST} of the same work")
    return grow(event, list(known.values()), lost, cut)


def _follow(known: dict[int, Event]) -> list[str]:
    """Add the effects of ``known``, level by level; what had to be left out."""
    names, left = [str(one.event_id) for one in known.values()], MOST
    for _ in range(DEEPEST):
        # Said twice for the index, which has only events that name a cause.
        effects = Event.objects.filter(~Q(causation_id=""), causation_id__in=names).exclude(pk__in=list(known))
        found = list(effects.order_by("position", "pk")[: left + 1])
        if not found:
            return []
        if len(found) > left:
            known |= {one.pk: one for one in found[:left]}
            return [f"effects after the first {MOST}"]
        known |= {one.pk: one for one in found}
        names, left = [str(one.event_id) for one in found], left - len(found)
    return [f"effects below {DEEPEST} levels"]


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


def grow(event: Event, known: Iterable[Event], lost: str = "", cut: Sequence[str] = ()) -> Tree:
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
        pending += [(effect, level + 1, one) for effect in reversed(effects.get(str(one.event_id), ()))]
    beside = [one for one in events if one.pk not in drawn and one.correlation_id == event.correlation_id]
    left_out = [*cut, *([f"{len(beside) - BESIDE} more of the same work"] if len(beside) > BESIDE else [])]
    return Tree(nodes, beside[:BESIDE], ", ".join(left_out))
