"""One partition's deliveries in one consumer's hands: which may be handled now, and what becomes of each. Pure.

Order is kept per key: an event that failed waits for its next try, the later ones of its key wait behind it,
and every other key goes on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .cloudevent import CloudEvent
from .retry import Backoff
from .transport.base import Delivery

RETRY: Final = Backoff(first_s=0.2, most_s=5.0, attempts=5, age_s=30.0)
"""In place, while the key alone waits; afterwards the event is parked."""

Key = tuple[str, str]
"""What keeps events in order with each other: their source and its partition key."""


def key_of(event: CloudEvent) -> Key:
    """An event without a partition key has no order to keep, and is a key of its own: no key begins like that."""
    return (event.source, event.partition_key or f"\x1f{event.id}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler's side says of one event.

    ``handled`` (now), ``duplicate`` (before), ``parked`` (behind an earlier one of its key), ``obeyed`` (it was said to
    the consumer and not to its handler): dealt with. ``failed``:
    to be tried again, unless ``permanent``. ``held``: an earlier event of its key failed just now. ``later``: the
    batch ended before it.
    """

    what: Literal["handled", "duplicate", "parked", "obeyed", "failed", "held", "later"]
    reason: str = ""
    kind: str = ""
    """The class of the error, to group by."""
    permanent: bool = False
    stack: str = field(default="", compare=False)
    """Where it went wrong, for people."""


@dataclass(frozen=True, slots=True)
class Park:
    """A delivery that was tried as often as it may be: ``tries`` times, the first of them ``since`` seconds ago."""

    delivery: Delivery
    tries: int
    since: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a batch: deliveries to acknowledge, and those to park before the lane goes on."""

    done: list[Delivery]
    park: list[Park]


@dataclass(slots=True)
class _Stuck:
    """A key whose first event failed; ``queue`` holds it and what came after it."""

    first_at: float
    due: float
    tries: int = 0
    queue: deque[Delivery] = field(default_factory=deque)


class Lane:
    """The deliveries of one partition, in order."""

    def __init__(self, careful: int = 0) -> None:
        self._ready: deque[Delivery] = deque()
        self._stuck: dict[Key, _Stuck] = {}
        self._careful = careful

    def __len__(self) -> int:
        return len(self._ready) + sum(len(stuck.queue) for stuck in self._stuck.values())

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """They came from the broker, after all that came before."""
        for delivery in deliveries:
            stuck = self._stuck.get(key_of(delivery.event)) if delivery.event is not None else None
            (self._ready if stuck is None else stuck.queue).append(delivery)

    def take(self, now: float, most: int) -> list[Delivery]:
        """What to handle now, in order: a failed event that is due, alone, else up to ``most`` new ones."""
        due = [stuck for stuck in self._stuck.values() if stuck.due <= now]
        if due:
            return [min(due, key=lambda stuck: stuck.due).queue[0]]
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def careful(self, batch: Sequence[Delivery]) -> bool:
        """Whether to count, before it is handled, that it is: the first ones of a partition that was taken over may
        be what ended the process that had it, and so may what was delivered before."""
        return self._careful > 0 or any(delivery.attempt > 1 for delivery in batch)

    def wakes_at(self) -> float:
        """When there is something to take by itself; infinity for never."""
        return -math.inf if self._ready else min((stuck.due for stuck in self._stuck.values()), default=math.inf)

    def settle(
        self, batch: Sequence[Delivery], outcomes: Sequence[Outcome], now: float, chance: Callable[[], float]
    ) -> Verdict:
        """What becomes of ``batch``, which ``take`` gave."""
        verdict = Verdict([], [])
        again: list[Delivery] = []
        stuck_before = set(self._stuck)
        self._careful = max(self._careful - sum(outcome.what != "later" for outcome in outcomes), 0)
        for delivery, outcome in zip(batch, outcomes, strict=True):
            assert delivery.event is not None  # noqa: S101 - odd entries have no outcome
            key = key_of(delivery.event)
            stuck = self._stuck.get(key)
            if outcome.what == "failed":
                self._failed(key, delivery, outcome, now, chance, verdict)
            elif outcome.what in {"held", "later"}:
                if stuck is None:
                    again.append(delivery)
                elif stuck.queue[0] is not delivery:
                    stuck.queue.append(delivery)
            else:
                verdict.done.append(delivery)
                self._free(key, delivery)
        self._ready.extendleft(reversed(again))
        if fresh := set(self._stuck) - stuck_before:
            self._hold(fresh)
        return verdict

    def parked(self, delivery: Delivery) -> None:
        """It is a row now: what follows it in its key is handled, which parks it behind."""
        assert delivery.event is not None  # noqa: S101 - only events are parked
        self._free(key_of(delivery.event), delivery)

    def put_back(self, batch: Sequence[Delivery]) -> None:
        """Nothing became of ``batch``: it is taken again as it was."""
        stuck = {id(entry.queue[0]) for entry in self._stuck.values() if entry.queue}
        self._ready.extendleft(reversed([delivery for delivery in batch if id(delivery) not in stuck]))

    def _failed(
        self,
        key: Key,
        delivery: Delivery,
        outcome: Outcome,
        now: float,
        chance: Callable[[], float],
        verdict: Verdict,
    ) -> None:
        stuck = self._stuck.get(key)
        if stuck is None:
            stuck = self._stuck[key] = _Stuck(first_at=now, due=now)
            stuck.queue.append(delivery)
        stuck.tries += 1
        again = None if outcome.permanent else RETRY.again_at(stuck.tries, stuck.first_at, now, chance())
        if again is None:
            # Until it is parked the key stays as it is; nothing of it may overtake.
            stuck.due = math.inf
            verdict.park.append(Park(delivery, stuck.tries, now - stuck.first_at, outcome))
        else:
            stuck.due = again

    def _hold(self, keys: set[Key]) -> None:
        """What has come of these keys waits as well."""
        rest: deque[Delivery] = deque()
        for delivery in self._ready:
            key = key_of(delivery.event) if delivery.event is not None else None
            (self._stuck[key].queue if key in keys else rest).append(delivery)
        self._ready = rest

    def _free(self, key: Key, delivery: Delivery) -> None:
        stuck = self._stuck.get(key)
        if stuck is not None and stuck.queue[0] is delivery:
            stuck.queue.popleft()
            del self._stuck[key]
            # Before anything of the key that comes later: those are at the end, or not here yet.
            self._ready.extendleft(reversed(stuck.queue))
