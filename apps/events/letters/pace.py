"""How a job goes on: how many more now, or why it stops. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IN_HAND: Final = 500
"""Events of one job that are under way at most."""
FAILURES: Final = 10
"""In a row; then it pauses by itself."""
STEP_S: Final = 0.5
"""The longest that what a rate lets go is held together."""
WAIT_S: Final = 1.0
"""While nothing can be taken."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job is. ``under_way``: taken and not ended; ``stuck``: of these, behind one that failed."""

    taken: int
    failed: int
    failed_in_a_row: int
    under_way: int
    stuck: int = 0
    canary: int = 0
    confirmed: bool = False
    rate: float = 0.0
    obstacle: str = ""
    """Why nothing can be delivered now, for people."""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Take up to ``room`` more, and look again after ``wait_s``; ``pause`` and ``confirm`` say why it stops."""

    room: int = 0
    wait_s: float = WAIT_S
    pause: str = ""
    confirm: str = ""


def step(at: Progress) -> Step:
    """What to do now."""
    if at.obstacle:
        return Step(pause=at.obstacle)
    if at.failed_in_a_row >= FAILURES:
        return Step(pause=f"{at.failed_in_a_row} failed in a row, the last: {at.last_error or 'without a word'}")
    room = IN_HAND - at.under_way
    if at.canary and not at.confirmed:
        left = at.canary - at.taken
        if left <= 0 and at.under_way > at.stuck:
            return Step()
        if left <= 0 and at.failed:
            return Step(pause=f"{at.failed} of the first {at.taken} failed, the last: {at.last_error}")
        if left <= 0:
            return Step(confirm=f"The first {at.taken} went well.")
        room = min(room, left)
    if room <= 0:
        full = at.stuck >= IN_HAND
        return Step(pause=f"{at.stuck} wait behind events that failed: deal with those first.") if full else Step()
    if not at.rate:
        return Step(room, 0.0)
    room = min(room, max(int(at.rate * STEP_S), 1))
    return Step(room, room / at.rate)
