"""When is an instance healthy? The transition table. Pure: one instance's memory in, the next one out.

A check passes or fails; ``rise`` passes in a row make an instance healthy, ``fall`` failures in a row
make it unhealthy. The one exception is the first word about an unknown instance: a pass is believed
at once (it serves, so let it), a failure still has to repeat.

    state        check   streak reaches   next state
    ---------    -----   --------------   ----------
    unknown      pass    1                healthy
    unknown      fail    fall             unhealthy
    healthy      pass    -                healthy
    healthy      fail    fall             unhealthy
    unhealthy    pass    rise             healthy
    unhealthy    fail    -                unhealthy

A streak ends when the other outcome shows up, and starts anew with every change of state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["unknown", "healthy", "unhealthy"]
UNKNOWN: State = "unknown"
HEALTHY: State = "healthy"
UNHEALTHY: State = "unhealthy"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many checks in a row it takes to change a verdict; both at least 1."""

    rise: int
    fall: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of one instance: its verdict and the streak that may overturn it."""

    state: State = UNKNOWN
    passes: int = 0
    failures: int = 0


# state → outcome of the check (True passed) → (the state that this outcome works towards, its threshold).
TABLE: dict[State, dict[bool, tuple[State, Literal["at once", "rise", "fall"]]]] = {
    UNKNOWN: {True: (HEALTHY, "at once"), False: (UNHEALTHY, "fall")},
    HEALTHY: {True: (HEALTHY, "at once"), False: (UNHEALTHY, "fall")},
    UNHEALTHY: {True: (HEALTHY, "rise"), False: (UNHEALTHY, "at once")},
}


def after(standing: Standing, passed: bool, thresholds: Thresholds) -> Standing:
    """The standing after one more check. Streaks stop counting where they can no longer matter."""
    goal, needs = TABLE[standing.state][passed]
    if goal == standing.state:
        return Standing(standing.state)
    streak = (standing.passes if passed else standing.failures) + 1
    needed = {"at once": 1, "rise": thresholds.rise, "fall": thresholds.fall}[needs]
    if streak >= needed:
        return Standing(goal)
    return Standing(standing.state, passes=streak, failures=0) if passed else Standing(standing.state, 0, streak)
