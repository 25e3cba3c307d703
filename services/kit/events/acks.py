"""Acknowledgements of several partitions, made as one: what is settled while one is on its way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .transport.base import Delivery, TransportAway


class Settles(Protocol):
    """Where deliveries came from, and are given an end: a Subscription, or who fetched them."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """They are dealt with."""

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """It is not to be kept here."""


@dataclass(slots=True)
class _Parcel:
    """What goes together."""

    deliveries: list[Delivery] = field(default_factory=list)
    gone: bool = False
    error: str = ""


class Together:
    """Settles for the partitions of one subscription. Whoever asks learns how it went with what went together."""

    def __init__(self, subscription: Settles) -> None:
        self._subscription = subscription
        self._parcel = _Parcel()
        self._way = asyncio.Lock()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        parcel = self._parcel
        parcel.deliveries += deliveries
        # Partitions that share a commit are settled in one turn of the loop.
        await asyncio.sleep(0)
        async with self._way:
            if not parcel.gone:
                await self._send(parcel)
        if parcel.error:
            raise TransportAway(parcel.error)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        await self._subscription.dead_letter(delivery, reason)

    async def _send(self, parcel: _Parcel) -> None:
        self._parcel, parcel.gone, parcel.error = _Parcel(), True, "whoever acknowledged for several was cut off"
        try:
            await self._subscription.ack(parcel.deliveries)
        except TransportAway as error:
            parcel.error = str(error)
        else:
            parcel.error = ""
