"""How a consumer does: whether it reads, how far behind it is, and what it holds; as metrics, and in words."""

from __future__ import annotations

import math
import time
from typing import Final

from opentelemetry import metrics

from ..checks import Unwell
from . import losses
from .inbox import Inbox, Kept
from .mending import Mender
from .retry import Away
from .transport.base import Transport, TransportAway

meter = metrics.get_meter(__name__)
behind = meter.create_gauge("mc.bus.lag", description="Events that a group has not acknowledged")
parked = meter.create_gauge("mc.bus.parked", description="Events that a group holds as rows, failed or behind one")
missing = meter.create_gauge("mc.bus.missing", description="Events that a group knows it did not get")

SILENT_S: Final = 10.0
"""A bus that has not answered for so long is unwell."""
LATE_S: Final = 60.0
"""A consumer whose newest event is older than that, while more wait, is behind."""


class Condition:
    """Of the consumer of ``group``, as at the last look."""

    def __init__(self, group: str, transport: Transport, inbox: Inbox, mender: Mender | None) -> None:
        self._group, self._transport, self._inbox, self._mender = group, transport, inbox, mender
        self._answered_at = -math.inf
        self._why = ""
        """It did not answer the last time."""
        self._lagging_since = math.inf
        self.kept = Kept()
        self.lag = 0
        self.newest_at = time.time()
        """When the last event happened that was handled (wall clock)."""

    async def look(self) -> None:
        """Learn how far behind the group is, and what it keeps; ``Away`` and ``TransportAway``."""
        try:
            self.lag = sum((await self._transport.lag(self._group)).values())
        except TransportAway as error:
            self._why = str(error)
            raise
        self._answered_at = time.monotonic()
        self._lagging_since = min(self._lagging_since, self._answered_at) if self.lag else math.inf
        before, self.kept = self.kept.missing, await self._inbox.kept()
        if self._mender is not None:
            self._mender.meets(self._transport.stats().breaks)
            if self.kept.missing > before:
                self._mender.bell.set()
        where = {"group": self._group}
        behind.set(self.lag, where)
        parked.set(self.kept.parked + self.kept.odd + self.kept.forged, where)
        missing.set(self.kept.missing, where)
        losses.tell(self._transport)

    def reads(self) -> None:
        """Unwell when reading does not work: what is kept by it grows stale."""
        if time.monotonic() - self._answered_at > SILENT_S:
            raise Unwell(f"events can't be read from the bus{': ' * bool(self._why)}{self._why}")

    async def whole(self) -> None:
        """Unwell when it works and is not whole: behind, with events parked, or with a hole."""
        said = []
        late = time.time() - self.newest_at
        if min(late, time.monotonic() - self._lagging_since) > LATE_S:
            said.append(f"it is {late:.0f} s behind, with {self.lag} events to go")
        if self.kept.parked:
            said.append(f"it holds {self.kept.parked} parked events")
        if self.kept.odd:
            said.append(f"it was sent {self.kept.odd} entries that are no events")
        if self.kept.forged:
            said.append(f"it refused {self.kept.forged} forged events")
        # As it is now: a hole that was known a moment ago must not be passed over.
        try:
            self.kept = await self._inbox.kept()
        except Away as error:
            raise Unwell(str(error)) from None
        if self.kept.missing:
            said.append(f"{self.kept.missing:,} events never came")
        if self._mender is not None:
            self._mender.meets(self._transport.stats().breaks)
            said += self._mender.said
        if said:
            raise Unwell("; ".join(said))
