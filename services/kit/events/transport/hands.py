"""What one subscription holds: its partitions, what of them is in hand, and what waits to be given out.

Pure: takes ``now`` (monotonic seconds) and does no I/O. The same for every broker, so that all keep one semantics.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from .base import Delivery, Place

HOLDS: Final = 64 * 1024 * 1024
"""Bytes of deliveries in hand, about: they are of one size mostly, and brokers count them only by number."""


@dataclass(slots=True)
class _Shelf:
    """One partition. Everything in hand came before everything that waits."""

    hand: dict[str, Delivery] = field(default_factory=dict)
    waits: OrderedDict[str, Delivery] = field(default_factory=OrderedDict)
    not_before: float = 0.0


class Hands:
    """The bookkeeping of one subscription."""

    def __init__(self) -> None:
        self._shelves: dict[Place, _Shelf] = {}
        self._lost: dict[Place, set[str]] = {}
        self._size = HOLDS / 256
        """Of late, of one delivery: until something came it is thought to be large."""

    # -- partitions --------------------------------------------------------------------------------

    @property
    def places(self) -> list[Place]:
        """The partitions held, the one least recently taken from first."""
        return list(self._shelves)

    def hold(self, place: Place) -> None:
        """The partition is ours."""
        self._shelves.setdefault(place, _Shelf())

    def holds(self, place: Place) -> bool:
        """Whether it is."""
        return place in self._shelves

    def lose(self, place: Place) -> None:
        """It is somebody else's; ``told`` will say so if anything of it is in hand."""
        shelf = self._shelves.pop(place, None)
        if shelf and shelf.hand:
            self._lost[place] = set(shelf.hand)

    def may_return(self, place: Place) -> bool:
        """Whether the partition may be held (again): its loss was told, or none of it is in hand."""
        return place not in self._lost

    @property
    def untold(self) -> bool:
        """Whether some loss has not been told of."""
        return bool(self._lost)

    def told(self) -> set[Place]:
        """The partitions lost with something in hand; said once."""
        lost, self._lost = set(self._lost), {}
        return lost

    def idle(self, place: Place) -> bool:
        """Whether nothing of it is in hand."""
        return not self._shelves[place].hand

    # -- deliveries --------------------------------------------------------------------------------

    @property
    def in_hand(self) -> int:
        """Deliveries given out and not settled."""
        return sum(len(shelf.hand) for shelf in self._shelves.values())

    def waiting(self, place: Place) -> int:
        """Deliveries of the partition that wait to be given out."""
        return len(self._shelves[place].waits)

    def knows(self, place: Place, position: str) -> bool:
        """Whether the entry is here already, in hand or waiting."""
        shelf = self._shelves[place]
        return position in shelf.hand or position in shelf.waits

    def first(self, place: Place, but: Collection[str] = ()) -> str | None:
        """The position of the oldest entry that is not settled, and not among ``but``."""
        shelf = self._shelves[place]
        return next((position for position in shelf.hand if position not in but), next(iter(shelf.waits), None))

    def room(self, most: int) -> int:
        """How many more to ask a broker for while no more than ``most`` are in hand, nor much more than ``HOLDS``."""
        return min(most, max(int(HOLDS / self._size), 1)) - self.in_hand

    def stock(self, deliveries: Iterable[Delivery]) -> None:
        """They came from the broker, for partitions that are held."""
        for delivery in deliveries:
            self._shelves[delivery.place].waits[delivery.position] = delivery
            self._size += (len(delivery.raw) + 1 - self._size) / 16

    def take(self, most: int, now: float, but: Collection[Place] = ()) -> list[Delivery]:
        """Give out what may be, while no more than ``most`` are in hand: in order, the partitions taking turns, and
        nothing of those named in ``but``."""
        room = most - self.in_hand
        out: list[Delivery] = []
        for place in self.places:
            shelf = self._shelves[place]
            if room <= len(out):
                break
            if not shelf.waits or shelf.not_before > now or place in but:
                continue
            while shelf.waits and room > len(out):
                position, delivery = shelf.waits.popitem(last=False)
                shelf.hand[position] = delivery
                out.append(delivery)
            # To the end of the row.
            self._shelves[place] = self._shelves.pop(place)
        return out

    def due(self) -> float | None:
        """When the next partition whose deliveries were given back with a delay may go on; None without any."""
        return min((shelf.not_before for shelf in self._shelves.values() if shelf.waits), default=None)

    def mine(self, deliveries: Sequence[Delivery]) -> dict[Place, list[Delivery]]:
        """Those that are in hand, by partition. The rest are late."""
        found: dict[Place, list[Delivery]] = {}
        for delivery in deliveries:
            shelf = self._shelves.get(delivery.place)
            if shelf is not None and delivery.position in shelf.hand:
                found.setdefault(delivery.place, []).append(delivery)
                continue
            lost = self._lost.get(delivery.place)
            if lost is not None:
                lost.discard(delivery.position)
                if not lost:
                    del self._lost[delivery.place]
        return found

    def settle(self, place: Place, deliveries: Iterable[Delivery]) -> None:
        """They are dealt with."""
        shelf = self._shelves.get(place)
        if shelf is not None:
            for delivery in deliveries:
                shelf.hand.pop(delivery.position, None)

    def give_back(self, place: Place, deliveries: Iterable[Delivery], not_before: float) -> None:
        """Everything in hand from the first of them on waits again, for another attempt and not before then."""
        shelf = self._shelves[place]
        positions = {delivery.position for delivery in deliveries}
        rest = list(shelf.hand.values())
        start = next((at for at, delivery in enumerate(rest) if delivery.position in positions), len(rest))
        for delivery in reversed(rest[start:]):
            del shelf.hand[delivery.position]
            shelf.waits[delivery.position] = replace(delivery, attempt=delivery.attempt + 1)
            shelf.waits.move_to_end(delivery.position, last=False)
        shelf.not_before = not_before

    def clear(self) -> None:
        """Forget what waits and what is in hand; the partitions stay."""
        for place in self._shelves:
            self._shelves[place] = _Shelf()
