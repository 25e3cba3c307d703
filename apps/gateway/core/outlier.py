"""Which instance of a service is worse than its peers, and for how long it is left out: outlier detection.

The terms are Envoy's and Istio's: an instance is *ejected* after failures in a row or at a high share of
them, for longer each time, never more than a share of the service at once, and comes back by itself. Two
things are stricter here. An ejection needs a peer that does better: when all fail alike it is the service
that fails, which is the breaker's to judge, and half the instances would only carry the load of all. And
one that comes back is on probation: its next failure ejects it again, its next success clears it.

An attempt counts here, a client's request in apps.gateway.core.breaker. Pure: ``now`` is monotonic
seconds, and changes go out through a listener.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from apps.gateway.core import config

INTERVAL_SECONDS = 10.0
"""Over how long a share of failures is counted; after as long in rotation, an ejection is forgotten."""

MINIMUM_ATTEMPTS = 20
"""Attempts in an interval before their share of failures says anything."""

MAX_SECONDS = 300.0
"""Longest ejection, unless the configured base is longer."""

VOUCHED = "The monitor saw it turn healthy."
SERVED = "Its time out is over."
GIVEN_UP = "Ejections were switched off."


@dataclass(frozen=True, slots=True)
class Ejection:
    """An instance left rotation (``until`` is when it returns) or came back (None); ``reason`` is for people."""

    instance: str
    until: float | None
    reason: str
    at: float


class Mark:
    """What is held against one instance."""

    __slots__ = ("attempts", "ejections", "failures", "name", "reason", "returned", "since", "streak", "until")

    def __init__(self, name: str) -> None:
        self.name = name
        self.streak = 0
        """Failed attempts since the last good one."""
        self.attempts = self.failures = 0
        """Of this interval."""
        self.ejections = 0
        self.since = self.until = 0.0
        """When it was ejected and when it returns; ``until`` is 0 in rotation."""
        self.returned = 0.0
        self.reason = ""

    def passed(self) -> None:
        """An attempt went well."""
        self.attempts += 1
        if self.streak:
            self.streak = 0


class Outliers:
    """The marks of one service's instances in one worker."""

    __slots__ = ("_due", "_listener", "config", "marks", "suspects")

    def __init__(self, settings: config.Outlier, listener: Callable[[Ejection], None], now: float = 0.0) -> None:
        self.config = settings
        self.marks: dict[str, Mark] = {}
        self.suspects: Collection[str] = ()
        """Instances that the monitor holds for unhealthy: no refuge for the load of an ejected one."""
        self._listener = listener
        self._due = now + INTERVAL_SECONDS

    def configure(self, settings: config.Outlier, names: Iterable[str], now: float) -> None:
        """Adopt changed settings and instances; what is known of those that stay is kept."""
        self.config = settings
        self.marks = {name: self.marks.get(name) or Mark(name) for name in names}
        out = sorted(self.ejected(), key=lambda mark: mark.until)
        for mark in out[: max(0, len(out) - self._most())]:
            self._return(mark, SERVED if settings.consecutive_failures else GIVEN_UP, now)

    def forget(self, name: str) -> None:
        """Another process answers by this name from now on."""
        self.marks.pop(name, None)

    def ejected(self) -> list[Mark]:
        """Who is out."""
        return [mark for mark in self.marks.values() if mark.until]

    def failed(self, mark: Mark, began: float, now: float) -> None:
        """An attempt that ``began`` then came to nothing: no connection, no answer in time, a broken answer, a 5xx."""
        if mark.until or began < mark.returned or self.marks.get(mark.name) is not mark:
            return  # it was sent before the ejection, or to an instance that is gone
        mark.attempts += 1
        mark.failures += 1
        mark.streak += 1
        if mark.streak >= self.config.consecutive_failures:
            self._eject(mark, f"{mark.streak} attempts in a row failed.", now)

    def restore(self, name: str, now: float) -> None:
        """The monitor saw it turn healthy: back at once, as with Envoy's active checks."""
        mark = self.marks.get(name)
        if mark is not None and mark.until:
            self._return(mark, VOUCHED, now)

    def tick(self, now: float) -> None:
        """Bring back whose time is over; at the end of an interval, judge by shares."""
        for mark in self.marks.values():
            if mark.until and mark.until <= now:
                self._return(mark, SERVED, now)
        if now < self._due:
            return
        self._due = now + INTERVAL_SECONDS
        seen = [mark for mark in self.marks.values() if mark.attempts >= MINIMUM_ATTEMPTS and not mark.until]
        for mark in sorted(seen, key=_share, reverse=True):
            if _share(mark) >= self.config.failure_rate:
                self._eject(mark, f"{mark.failures} of {mark.attempts} attempts failed.", now)
        for mark in self.marks.values():
            if mark.ejections and not mark.until and now - mark.returned >= INTERVAL_SECONDS:
                mark.ejections -= 1
            mark.attempts = mark.failures = 0

    def _eject(self, mark: Mark, reason: str, now: float) -> None:
        out = len(self.ejected())
        if out >= self._most() or not any(self._better(peer, mark) for peer in self.marks.values()):
            return
        mark.ejections += 1
        base = self.config.base_ejection_time
        mark.since, mark.reason = now, reason
        mark.until = now + min(base * mark.ejections, max(base, MAX_SECONDS))
        self._listener(Ejection(mark.name, mark.until, reason, now))

    def _return(self, mark: Mark, reason: str, now: float) -> None:
        mark.until = 0.0
        mark.returned = now
        mark.attempts = mark.failures = 0
        mark.streak = max(0, self.config.consecutive_failures - 1)  # on probation
        self._listener(Ejection(mark.name, None, reason, now))

    def _most(self) -> int:
        """How many may be out."""
        count = len(self.marks)
        if count < 2 or not self.config.consecutive_failures:
            return 0
        # One always stays, whatever share was set.
        return min(max(1, int(count * self.config.max_ejected)), count - 1)

    def _better(self, peer: Mark, mark: Mark) -> bool:
        """Whether the load of ``mark`` is in better hands with ``peer``: fit, and its last attempt did not fail."""
        return (
            peer is not mark
            and not peer.until
            and peer.name not in self.suspects
            and not peer.streak
            and _share(peer) < max(_share(mark), self.config.failure_rate)
        )


def _share(mark: Mark) -> float:
    return mark.failures / mark.attempts if mark.attempts else 0.0
