"""One member's reading as far as it is the same for every broker: what is in hand, fetching, waiting and trying again.

A broker's own reading fills in the seam: how it joins its group, one step of reading, and what it says to its broker
when something is settled, put aside, sought or let go. All of that answers TransportAway when the broker does not.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from ..retry import Backoff
from .base import Delivery, Place, Start, Stats, TransportAway, TransportError, Wanted
from .hands import Hands

log = logging.getLogger(__name__)

PAUSES: Final = Backoff(first_s=0.4, most_s=5.0)
SAY_AGAIN_S: Final = 60.0
SURE_TRIES: Final = 3


class Reading(ABC):
    """One member's Subscription."""

    def __init__(self, stats: Stats, wanted: Wanted, group: str, lease_s: float) -> None:
        self.group = group
        self.fault = ""
        """Why it has not been able to read, at several tries."""
        self._stats, self._wanted, self._lease_s = stats, wanted, lease_s
        self._hands = Hands()
        self._tries = 0
        self._said_at = 0.0
        self._changed = asyncio.Event()
        """Set when there may be something to do before the time for it."""
        self._closed = asyncio.Event()

    # -- the seam --------------------------------------------------------------------------------

    @abstractmethod
    async def _prepare(self) -> None:
        """Make what the group needs on the broker, and join it."""

    @abstractmethod
    async def _round(self, most: int, deadline: float) -> list[Delivery]:
        """One step: see to what is due, give out what is there, or wait for a while."""

    @abstractmethod
    async def _start_over(self) -> None:
        """The broker was away: the next round makes anew what it may have forgotten."""

    @abstractmethod
    async def _leave(self) -> None:
        """Give all partitions to the others. Never TransportAway: then they get them when the lease runs out."""

    @abstractmethod
    async def _renew(self) -> None:
        """Renew the lease, and lose what is not ours any more."""

    @abstractmethod
    async def _acknowledge(self, mine: dict[Place, list[Delivery]]) -> None:
        """Tell the broker, and settle them in our hands."""

    @abstractmethod
    async def _put_aside(self, delivery: Delivery, noted: dict[str, str]) -> None:
        """Into the group's dead topic, with its origin and the reason ``noted``; then as acknowledged."""

    @abstractmethod
    async def _go_to(self, start: Start) -> None:
        """Have the group go on from there. Nothing is in hand."""

    # -- reading ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Prepare, so that what is published from now on is the group's; if the broker is away, ``fetch`` does it."""
        try:
            await self._prepare()
        except TransportAway as error:
            await self._says_away(error)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    async def close(self) -> None:
        if not self.closed:
            self._closed.set()
            self._changed.set()
            await self._leave()

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        deadline = time.monotonic() + wait_s
        while not self.closed:
            self._changed.clear()
            found: list[Delivery] = []
            try:
                found = await self._round(most, deadline)
                if self._tries:
                    log.warning("Group %s reads again.", self.group)
                self._tries, self.fault = 0, ""
            except TransportAway as error:
                if self._closed.is_set():
                    break
                await self._says_away(error)
                pause = PAUSES.pause(self._tries, random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                await self._sleep_until(min(deadline, time.monotonic() + pause))
            if found or time.monotonic() >= deadline:
                return found
        return []

    async def _says_away(self, error: TransportAway) -> None:
        now = time.monotonic()
        if not self._tries or now >= self._said_at + SAY_AGAIN_S:
            self._said_at = now
            log.warning("Group %s waits: %s", self.group, error)
        self._stats.breaks += not self._tries
        self._tries += 1
        self.fault = str(error) if self._tries >= SURE_TRIES else ""
        await self._start_over()

    async def _sleep_until(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.001)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _stock(self, delivery: Delivery) -> None:
        """It came from the broker, and waits to be given out."""
        self._stats.malformed += delivery.event is None
        self._hands.stock([delivery])

    # -- settling --------------------------------------------------------------------------------

    def _mine(self, deliveries: Sequence[Delivery]) -> dict[Place, list[Delivery]]:
        """Those that are in hand; what is not is late."""
        mine = self._hands.mine(deliveries)
        self._stats.late += len(deliveries) - sum(map(len, mine.values()))
        return mine

    async def extend(self) -> set[Place]:
        await self._renew()
        return self._hands.told()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        await self._acknowledge(self._mine(deliveries))
        self._changed.set()

    async def nack(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        # On the broker they stay ours: another member gets them only with the partition.
        for place, some in self._mine(deliveries).items():
            self._hands.give_back(place, some, time.monotonic() + delay_s)
        self._changed.set()

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        if self._mine([delivery]):
            noted = {"topic": delivery.topic, "partition": str(delivery.partition), "position": delivery.position}
            await self._put_aside(delivery, noted | {"reason": reason[:1000]})
            self._changed.set()

    async def seek(self, start: Start) -> None:
        if self._hands.in_hand:
            raise TransportError("Settle what is in hand before you seek.")
        await self._go_to(start)
        self._hands.clear()
        self._changed.set()


class Connected(Reading):
    """A reading whose broker takes a connection for a living member: that it fetches or extends is watched here, and
    one that has not for the time of its lease lets go."""

    def __init__(self, stats: Stats, wanted: Wanted, group: str, member: str, lease_s: float) -> None:
        super().__init__(stats, wanted, group, lease_s)
        self._renewed = time.monotonic()
        self._watching = asyncio.create_task(self._watch(), name=f"lease of {member} in {group}")

    @property
    @abstractmethod
    def _is_joined(self) -> bool:
        """Whether there is something to let go of."""

    @abstractmethod
    async def _drop(self) -> None:
        """Let go of everything: what is here goes back, in order, to whoever comes next."""

    async def _leave(self) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self._drop()

    async def _start_over(self) -> None:
        await self._drop()

    async def fetch(self, most: int, wait_s: float) -> list[Delivery]:
        # However long it takes to connect and join: that is no silence.
        self._renewed = float("inf")
        try:
            return await super().fetch(most, wait_s)
        finally:
            self._renewed = time.monotonic()

    async def _renew(self) -> None:
        # Not while it fetches: then it is not silent anyway.
        self._renewed = max(self._renewed, time.monotonic())

    async def _watch(self) -> None:
        while True:
            left = min(self._renewed + self._lease_s - time.monotonic(), self._lease_s)
            if left <= 0 and self._is_joined:
                log.warning("Group %s: a member was silent for %.0f s and lets go.", self.group, self._lease_s)
                await self._drop()
            await asyncio.sleep(max(left, self._lease_s / 20))
