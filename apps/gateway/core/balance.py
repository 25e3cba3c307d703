"""Which instance takes the next attempt. Pure: randomness comes in as a function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, Literal, Protocol, TypeVar


class Target(Protocol):
    """What choosing needs to know of an instance."""

    weight: int
    in_flight: int
    avoid_until: float
    """It could not be reached a moment ago: others are asked first until then."""


T = TypeVar("T", bound=Target)


class Rotation(Generic[T]):
    """The instances of one service that may be chosen now, and whose turn it is."""

    __slots__ = ("_order", "_random", "_turn", "targets")

    def __init__(
        self, targets: Sequence[T], method: Literal["round_robin", "least_request"], random: Callable[[int], int]
    ) -> None:
        """``random(n)`` gives a number in [0, n)."""
        self.targets = tuple(targets)
        self._random = random
        self._order = spread(self.targets) if method == "round_robin" else ()
        self._turn = 0

    def choose(self, now: float, tried: Collection[T] = ()) -> T | None:
        """The next instance: one that was neither tried nor lately out of reach while there is one, else one that
        was not tried, else any; None when there is nothing to choose."""
        targets = self.targets
        if len(targets) == 1:
            return targets[0]
        if not targets:
            return None
        if not self._order:
            untried = [target for target in targets if target not in tried] or targets
            return self._less_busy([target for target in untried if target.avoid_until <= now] or untried)
        order, at = self._order, self._turn
        second_best: T | None = None
        for _ in order:
            at = (at + 1) % len(order)
            target = order[at]
            if target in tried:
                continue
            if target.avoid_until <= now:
                break
            second_best = second_best or target
        else:
            target = second_best or order[at]
        if not tried:
            # A retry takes nobody's turn: else the next request would begin with the one that just failed.
            self._turn = at
        return target

    def _less_busy(self, targets: Sequence[T]) -> T:
        """The power of two choices: two at random, the less busy of them for its weight."""
        first = targets[self._random(len(targets))]
        second = targets[self._random(len(targets))]
        return first if first.in_flight * second.weight <= second.in_flight * first.weight else second


def in_rotation(targets: Sequence[T], fit: Callable[[T], bool], panic_threshold: float) -> tuple[list[T], bool]:
    """Who may be chosen: the fit ones, or everyone when too few are fit; and whether that is so (panic, as Envoy says).

    The threshold is rounded down to whole instances, in favour of the verdicts: of two or three, one fit
    instance serves alone; of ten at 0.5, four fit ones are too few to believe that the others are down.
    """
    fitting = [target for target in targets if fit(target)]
    if len(fitting) < max(1, int(len(targets) * panic_threshold)):
        return list(targets), bool(targets)
    return fitting, False


def spread(targets: Sequence[T]) -> tuple[T, ...]:
    """One round in which each target has ``weight`` turns, as evenly apart as they go (smooth weighted round robin)."""
    credit = [0] * len(targets)
    total = sum(target.weight for target in targets)
    order = []
    for _ in range(total):
        for index, target in enumerate(targets):
            credit[index] += target.weight
        best = max(range(len(targets)), key=credit.__getitem__)
        credit[best] -= total
        order.append(targets[best])
    return tuple(order)
