"""Which events a subscription wants, and why not another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.events.subscriptions.condition import Condition, Odd, compiled
from services.kit.events import patterns
from services.kit.events.cloudevent import CloudEvent


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one subscription wants."""

    name: str
    patterns: tuple[str, ...]
    source: str = ""
    condition: Condition | None = None


def wanted_by(row: Any) -> Wanted:
    """What a subscription's row wants; ConditionError for a filter that is not understood (any more)."""
    return Wanted(row.name, tuple(row.patterns), row.source, compiled(row.filter) if row.filter else None)


@dataclass(frozen=True, slots=True)
class Match:
    """Whether an event is for a subscription, with the reason as a clause for people."""

    matched: bool
    why: str
    odd: bool = False
    """The filter had no answer, which counts as no match."""


def match(wanted: Wanted, event: CloudEvent, addressee: str = "") -> Match:
    """``addressee`` is the one subscription that the event is for, if it is for one alone."""
    if addressee and addressee != wanted.name:
        return Match(False, f"it is for {addressee} alone")
    if addressee:
        return Match(True, "it is for this one alone")
    found = next((one for one in wanted.patterns if patterns.matches(one, event.type)), None)
    if found is None:
        return Match(False, f"no pattern matches {event.type}")
    if wanted.source and wanted.source != event.source:
        return Match(False, f"its source is {event.source}, not {wanted.source}")
    if wanted.condition is not None:
        try:
            if not wanted.condition(event):
                return Match(False, "the filter says false")
        except Odd as odd:
            return Match(False, f"the filter has no answer: {odd}", odd=True)
    return Match(True, f"pattern {found} matches")


def chosen(wanted: Wanted, events: Sequence[Any]) -> tuple[list[Any], int]:
    """Those of ``events`` (rows of the log) that are wanted, and on how many the filter had no answer."""
    fit, odd = [], 0
    for event in events:
        found = match(wanted, event.as_cloudevent(), event.addressee)
        odd += found.odd
        if found.matched:
            fit.append(event)
    return fit, odd
