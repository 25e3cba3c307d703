"""Which processes hang: they run, and have shown no life for long. Decides; asks and kills nobody itself.

supervisord sees an end and nothing else. A process that hangs holds its port and its place, and nobody does its work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from missioncontrol.launch.processes import Process

LATE = 3.0
"""So many pauses too late, the launcher itself did not run, and the others perhaps with it."""
MOST, WITHIN_S = 3, 3600.0
"""Kills of one process within so many seconds: one that hangs again and again is left to a person."""

Ask = Callable[[Process], bool | None]
"""Whether a process shows life; None when nobody can say."""


class Hangs:
    """Watches ``processes``, looking every ``pause_s``. One that is silent for ``limit_s`` hangs; 0 watches nobody.

    A process that has not shown life since it was started gets ``start_s`` more.
    """

    def __init__(self, processes: Sequence[Process], limit_s: float, start_s: float, pause_s: float) -> None:
        self._processes = list(processes) if limit_s else []
        self._limit_s, self._start_s, self._pause_s = limit_s, start_s, pause_s
        # So many a look that each is asked once within the limit; who was silent is asked at every look.
        self._at_once = math.ceil(len(self._processes) * pause_s / limit_s) if limit_s else 0
        self._pids: dict[str, int] = {}
        self._seen: dict[str, float] = {}
        self._new: set[str] = set()
        self._suspects: set[str] = set()
        self._kills: dict[str, list[float]] = {}
        self._left_at: float | None = None

    def look(self, clock: Callable[[], float], running: Mapping[str, int], ask: Ask) -> dict[str, float]:
        """Who hangs now, and for how long. ``running``: name → process id; ``clock`` never goes back."""
        now = clock()
        if self._left_at is not None and now - self._left_at > LATE * self._pause_s:
            self._seen = dict.fromkeys(self._seen, now)
        self._follow(running, now)
        due, self._processes = (
            self._processes[: self._at_once],
            [
                *self._processes[self._at_once :],
                *self._processes[: self._at_once],
            ],
        )
        asked = {process.name: process for process in self._processes if process.name in self._suspects}
        asked |= {process.name: process for process in due}
        for name, process in asked.items():
            if name not in running:
                continue
            if ask(process) is False:
                self._suspects.add(name)
            else:
                self._seen[name] = clock()
                self._new.discard(name)
                self._suspects.discard(name)
        self._left_at = now = clock()
        return {name: now - self._seen[name] for name in sorted(self._suspects) if self._is_over(name, now)}

    def killed(self, name: str, now: float) -> bool:
        """Note a kill before it is done; False when there were too many, and it is not to be done."""
        recent = [at for at in self._kills.get(name, []) if now - at < WITHIN_S]
        allowed = len(recent) < MOST
        self._kills[name] = [*recent, now] if allowed else recent
        # Its successor has a number of its own; until that is seen, there is no second kill.
        self._seen[name] = now
        return allowed

    def _follow(self, running: Mapping[str, int], now: float) -> None:
        for name, pid in running.items():
            if self._pids.get(name) != pid:
                self._seen[name] = now
                self._new.add(name)
                self._suspects.discard(name)
        self._suspects &= set(running)
        self._pids = dict(running)

    def _is_over(self, name: str, now: float) -> bool:
        return now - self._seen[name] > self._limit_s + (self._start_s if name in self._new else 0.0)
