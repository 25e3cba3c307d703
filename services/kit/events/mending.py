"""The part of a consumer that keeps it whole: when to compare, when to fetch, and what to say until that is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

from .repair import Doubt, Repair
from .retry import Away
from .transport.base import Delivery

log = logging.getLogger(__name__)

COMPARE_EVERY_S: Final = 30.0
AGAIN_S: Final = 5.0
"""While something is open: a doubt, or a key that has not come as far as its publisher."""


class Mended(Protocol):
    """What a consumer shows to its mender."""

    stopping: asyncio.Event

    @property
    def idle(self) -> bool:
        """Whether the broker has nothing more for it, as far as it knows."""

    def breaks(self) -> int:
        """How often its reading was cut off."""

    async def offer(self, deliveries: Sequence[Delivery]) -> None:
        """Handle them as the broker's are handled; returns when all are settled, or at a stop."""

    async def sleep_until(self, bell: asyncio.Event, seconds: float) -> None:
        """Wait for ``bell``, or so long, but not past a stop."""


class Mender:
    """Compares and mends, until the consumer stops."""

    def __init__(self, repair: Repair) -> None:
        self._repair = repair
        self._doubt = Doubt()
        self._compare_at = 0.0
        self._compared = False
        self.bell = asyncio.Event()
        """Rung when something is known to be missing, or somebody asks."""

    async def run(self, consumer: Mended) -> None:
        """Mend until ``consumer`` stops."""
        # What was cut off before this began is found by the first comparison.
        self._doubt.begin(consumer.breaks())
        while not consumer.stopping.is_set():
            self.bell.clear()
            try:
                await self._turn(consumer)
            except Away as error:
                log.warning("what is missing can't be fetched now: %s", error)
            soon = self._doubt.open or self._repair.waiting
            await consumer.sleep_until(self.bell, AGAIN_S if soon else self._compare_at - time.monotonic())

    def ask(self) -> None:
        """Compare and fetch now."""
        self._compare_at = 0.0
        self.bell.set()

    def meets(self, breaks: int) -> None:
        """Reading was cut off so often."""
        if self._doubt.met(breaks):
            self.ask()

    @property
    def said(self) -> list[str]:
        """Why the consumer may not be whole, for people; nothing when it is, as far as anyone can know."""
        said = [] if self._compared else ["it has not compared itself with its publishers yet"]
        if self._repair.behind:
            said.append(f"{self._repair.behind:,} events that were published did not come and are being fetched")
        if self._doubt.open:
            why = f" ({self._repair.fault})" if self._repair.fault else ""
            said.append(f"the bus was cut off, and what it may have lost is being looked for{why}")
        return said

    async def _turn(self, consumer: Mended) -> None:
        self.meets(consumer.breaks())
        began = time.monotonic()
        if began >= self._compare_at or self._doubt.unsure:
            self._compare_at = began + COMPARE_EVERY_S
            await self._repair.compare()
            self._compared = True
            if not self._repair.fault:
                self._doubt.compared(began)
        await self._repair.mend(consumer.offer, idle=consumer.idle)
        if not self._repair.waiting:
            self._doubt.settled()
