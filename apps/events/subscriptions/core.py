"""What a subscription does next: which event may go now, what waits behind what, and when an endpoint is left alone.

Pure: takes ``now`` (wall-clock seconds) and chance, and returns decisions. ``Desk`` holds the few events that one
subscription has read and not settled; ``after`` is the breaker of its endpoint.

Two kinds of failure. The *event's*: the endpoint answered that it won't take it, or did not answer it. It costs the
event an attempt, and later events of its key wait behind it. The *endpoint's*: it can't be reached, or says that it is
too busy. That costs no event anything: the endpoint rests, and everything for it stays where it is in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from services.kit.events.retry import Backoff

THRESHOLD: Final = 5
"""Failures in a row that open a breaker, of whatever kind."""
REST: Final = Backoff(first_s=1.0, most_s=300.0)
"""How long an endpoint is left alone: full jitter, by its failures in a row."""
MOST_REST_S: Final = 3600.0
"""The most that a ``Retry-After`` is believed."""

BURST_S: Final = 0.05
"""What a rate lets go at once after a pause: a timer wakes no more exactly."""


class Verdict(Enum):
    """What came of an attempt."""

    TAKEN = "taken"
    AGAIN = "again"
    """The event failed and is tried again."""
    NEVER = "never"
    """The event failed, and trying again can't help."""
    REST = "rest"
    """The endpoint failed."""
    GONE = "gone"
    """The endpoint wants nothing more (410)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt. ``reason``: its class, a slug of few."""

    verdict: Verdict
    reason: str
    error: str = ""
    at: float = 0.0
    """When it began."""
    took_s: float = 0.0
    status: int | None = None
    answer: str = ""
    stack: str = ""
    retry_after_s: float = 0.0


def judged(status: int) -> tuple[Verdict, str]:
    """What an HTTP answer means, and its class."""
    if 200 <= status <= 299:
        return Verdict.TAKEN, "delivered"
    if status == 410:
        return Verdict.GONE, "gone"
    if status in {429, 503}:
        return Verdict.REST, "busy"
    if 300 <= status <= 399:
        return Verdict.NEVER, "redirect"
    if status in {408, 425}:
        return Verdict.AGAIN, "http_4xx"
    if 400 <= status <= 499:
        return Verdict.NEVER, "http_4xx"
    return Verdict.AGAIN, "http_5xx"


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of an endpoint; all zero is a good one."""

    failures: int = 0
    since: float = 0.0
    """When the first of them was; 0 when there is none."""
    opened_until: float = 0.0
    """Its breaker: nothing goes before, and then one at a time until one is taken. 0 when it is closed."""

    @property
    def probing(self) -> bool:
        """Whether the next delivery only tries how the endpoint is."""
        return bool(self.opened_until)

    def most(self, now: float, concurrency: int) -> int:
        """How many deliveries may be under way."""
        if not self.opened_until:
            return concurrency
        return 0 if now < self.opened_until else 1


def after(health: Health, outcome: Outcome, now: float, chance: float) -> Health:
    """What is known of the endpoint when this has come of an attempt."""
    if outcome.verdict is Verdict.TAKEN:
        return Health()
    failures = health.failures + 1
    found = Health(failures, health.since or now, health.opened_until)
    if outcome.verdict is Verdict.REST:
        pause = min(outcome.retry_after_s, MOST_REST_S) or REST.pause(failures, chance)
    elif failures >= THRESHOLD:
        pause = REST.pause(failures - THRESHOLD + 1, chance)
    else:
        return found
    return replace(found, opened_until=max(now + pause, health.opened_until))


def dead(health: Health, now: float, max_age_s: float) -> bool:
    """Whether the endpoint has failed for so long that nothing more is tried."""
    return bool(health.opened_until) and now - health.since >= max_age_s


@dataclass(slots=True, eq=False)
class Item:
    """One event to deliver; ``letter`` when it was tried before."""

    key: str
    event: Any
    position: int = 0
    letter: Any = None
    flying: bool = False


@dataclass(slots=True)
class Desk:
    """What one subscription has read and not settled. The shell takes an item, and says what came of it:
    ``done``, ``fell`` or ``back``; ``settled`` once that is stored."""

    read: int
    """How far it has read in the log."""
    rate: float = 0.0
    """Deliveries a second at most; 0 is any."""
    _items: dict[int, Item] = field(default_factory=dict)
    """By position, in the order of the log: fresh ones."""
    _retries: list[Item] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    _held: set[str] = field(default_factory=set)
    """Keys of which one fell, and that is not stored yet: nothing more of them goes."""
    _letters: set[int] = field(default_factory=set)
    _free_at: float = 0.0

    @property
    def waiting(self) -> int:
        """How many are not under way."""
        return sum(not item.flying for item in (*self._items.values(), *self._retries))

    @property
    def flying(self) -> int:
        """How many are."""
        return sum(item.flying for item in (*self._items.values(), *self._retries))

    @property
    def position(self) -> int:
        """Up to where all is settled, once what has ended is stored."""
        first = next(iter(self._items), None)
        return self.read if first is None else first - 1

    def knows(self, letter: int) -> bool:
        """Whether this letter is here already."""
        return letter in self._letters

    def add(self, items: list[Item], read: int) -> list[Item]:
        """Take in what was read up to ``read``; gives back those that are to be parked instead."""
        parked = [item for item in items if item.key in self._held]
        self._items |= {item.position: item for item in items if item.key not in self._held}
        self.read = max(self.read, read)
        return parked

    def retry(self, item: Item) -> None:
        """Take in a letter whose time has come."""
        self._letters.add(item.letter.pk)
        self._retries.append(item)

    def next(self, now: float, most: int, *, probing: bool = False) -> Item | None:
        """The next to go, now under way; None when none may. ``most`` may be under way at the same time."""
        if self.flying >= most or (self.rate and now < self._free_at):
            return None
        for item in self._ready(probing=probing):
            item.flying = True
            self._busy.add(item.key)
            if self.rate:
                self._free_at = max(self._free_at, now - BURST_S) + 1.0 / self.rate
            return item
        return None

    def _ready(self, *, probing: bool) -> Iterator[Item]:
        """In the order in which they may go. A probe is a fresh event where there is one: a letter may be odd."""
        passed = self._busy | self._held
        fresh, old = list(self._items.values()), self._retries
        for item in (*fresh, *old) if probing else (*old, *fresh):
            if item.key not in passed:
                yield item
            passed.add(item.key)

    def wake(self, now: float) -> float | None:
        """When the rate lets something go that waits for it; None when nothing waits for that."""
        return self._free_at if self.rate and now < self._free_at and self.waiting else None

    def done(self, item: Item) -> None:
        """It was taken, or is parked for good: nothing waits for it."""
        self._off(item)

    def fell(self, item: Item) -> list[Item]:
        """It failed: its key is held until that is stored. Gives back what waits behind it, to be parked."""
        self._off(item)
        self._held.add(item.key)
        behind = [one for one in self._items.values() if one.key == item.key]
        for one in behind:
            del self._items[one.position]
        return behind

    def back(self, item: Item) -> None:
        """It was the endpoint's fault, or cut off: it goes again, in its place."""
        item.flying = False
        self._busy.discard(item.key)

    def settled(self, letters: set[int], keys: set[str]) -> None:
        """These outcomes are stored."""
        self._letters -= letters
        self._held -= keys

    def _off(self, item: Item) -> None:
        item.flying = False
        self._busy.discard(item.key)
        if item.letter is None:
            self._items.pop(item.position, None)
        else:
            self._retries.remove(item)
