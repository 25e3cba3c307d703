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
STEPS = 8
"""Steps to the right that are drawn."""
STRAIGHT = 4
"""Levels from which on only a branch is a step to the right."""
BESIDE = 20
"""Events shown of the same work that nobody names as a cause or an effect."""


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree. ``gap_s``: since its cause, None for the root; ``lost``: named and not in the log.

    ``step``: how far it is drawn to the right. A chain in which each has one effect stays below itself once it is long.
    """

    level: int
    event: Event | None
    gap_s: float | None = None
    here: bool = False
    lost: str = ""
    step: int = 0

    @property
    def indent(self) -> int:
        """Pixels."""
        return min(self.step, STEPS) * 16


@dataclass(frozen=True, slots=True)
class Tree:
    """``nodes`` in the order they are drawn; ``beside``: of the same work, uncaused; ``cut``: what is left out."""

    nodes: Sequence[Node]
    beside: Sequence[Event] = ()
    cut: str = ""


def read(event: Event) -> Tree:
    """The tree around ``event``: one query by correlation, at most HIGHEST by id and DEEPEST by cause, for what is not
    of the same work."""
    work, cut = _work(event)
    named = {str(one.event_id): one for one in work}
    causes: list[Event] = []
    lost, asked = "", 0
    seen = {str(event.event_id)}
    at = event
    while at.causation_id and at.causation_id not in seen:
        seen.add(at.causation_id)
        cause = named.get(at.causation_id)
        if cause is None:
            if asked == HIGHEST:
                cut.append(f"causes beyond the nearest {len(causes)}")
                break
            asked += 1
            cause = by_id(at.causation_id, at.correlation_id)
        if cause is None:
            lost = at.causation_id
            break
        causes.append(cause)
        at = cause
    known = {one.pk: one for one in (*causes, event)}
    cut = _follow(known, work) + cut
    known |= {one.pk: one for one in work}
    return grow(event, list(known.values()), lost, cut)


def _work(event: Event) -> tuple[list[Event], list[str]]:
    """The newest events of the same work, and what is left out of them."""
    if not event.correlation_id:
        return [], []
    rows = Event.objects.filter(correlation_id=event.correlation_id).exclude(pk=event.pk)
    found = list(rows.order_by("-position")[: MOST + 1])
    return found[:MOST], [f"all but the newest {MOST} of the same work"] if len(found) > MOST else []


def _follow(known: dict[int, Event], work: Sequence[Event]) -> list[str]:
    """Add the effects of ``known``, level by level; what had to be left out. Those of the same ``work`` are at hand."""
    effects: dict[str, list[Event]] = {}
    for one in work:
        effects.setdefault(one.causation_id, []).append(one)
    reached, left = list(known.values()), MOST
    for _ in range(DEEPEST):
        for one in reached:
            # Grows while it is gone through: the effects of effects too.
            more = [effect for effect in effects.get(str(one.event_id), ()) if effect.pk not in known]
            known |= {effect.pk: effect for effect in more}
            reached += more
        # Said twice for the index, which has only events that name a cause.
        asked = Event.objects.filter(~Q(causation_id=""), causation_id__in=[str(one.event_id) for one in reached])
        found = list(asked.exclude(pk__in=list(known)).order_by("position", "pk")[: left + 1])
        if not found:
            return []
        known |= {one.pk: one for one in found[:left]}
        if len(found) > left:
            return [f"effects after the first {MOST}"]
        reached, left = found, left - len(found)
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
    pending: list[tuple[Event, int, int, Event | None]] = [(root, 1 if lost else 0, 1 if lost else 0, None)]
    while pending:
        one, level, step, cause = pending.pop()
        if one.pk in drawn:
            continue
        drawn.add(one.pk)
        gap = max(0.0, (one.time - cause.time).total_seconds()) if cause is not None else None
        nodes.append(Node(level, one, gap, here=one.pk == event.pk, step=step))
        next_ones = effects.get(str(one.event_id), [])
        further = step + 1 if level < STRAIGHT or len(next_ones) > 1 else step
        pending += [(effect, level + 1, further, one) for effect in reversed(next_ones)]
    beside = [one for one in events if one.pk not in drawn and one.correlation_id == event.correlation_id]
    left_out = [*cut, *([f"{len(beside) - BESIDE} more of the same work"] if len(beside) > BESIDE else [])]
    return Tree(nodes, beside[:BESIDE], ", ".join(left_out))
