"""What is known of one event that a service parked, by its reports in whatever order, however often they come. Pure.

The service counts: a row is made at a time, has a number, and each of its changes has the next one. What says less than
is known already changes nothing, so all orders of the same reports end alike: as the newest says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

REDRIVING = "redriving"
ENDS = {"resolved", "discarded"}


class Stamp(NamedTuple):
    """Which change of which row a report tells; the later one is the greater. ``began``: when the row was made, in
    seconds of the wall clock, for a store that was lost and begun anew counts from one again."""

    began: float = 0.0
    row: int = 0
    """0: a service that does not count them yet, whose reports stand in the order of the log."""
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What the letter says by now. ``bare``: that it ended, and nothing else, for no earlier report has come."""

    state: str
    attempts: int
    stamp: Stamp
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the letter. ``facts``: the report's columns are taken over; ``newest``: so is its stamp."""

    state: str
    facts: bool = False
    newest: bool = True
    in_vain: bool = False
    """The try that somebody gave the word for has failed."""


def parked(known: Known | None, stamp: Stamp, state: str, attempts: int, *, died: bool) -> Change | None:
    """The service holds the event as a row (``failed`` or ``parked``); None when that is nothing new.

    ``died``: for it has ended the process too often, which a try that was cut off tells too.
    """
    if known is None:
        return Change(state, facts=True)
    if not _newer(stamp, known.stamp):
        return Change(known.state, facts=True, newest=False) if known.bare else None
    if known.state != REDRIVING:
        return Change(state, facts=True)
    in_vain = attempts > known.attempts or died
    return Change(state if in_vain else REDRIVING, facts=True, in_vain=in_vain)


def ended(known: Known | None, stamp: Stamp, state: str) -> Change | None:
    """The service has dealt with the event (``resolved`` or ``discarded``); None when that is nothing new. Without a
    row it only says that it has none."""
    if known is not None and (not _newer(stamp, known.stamp) or (not stamp.row and known.state in ENDS)):
        return None
    return Change(state)


def _newer(said: Stamp, known: Stamp) -> bool:
    return said > known or (said == known and not said.row)
