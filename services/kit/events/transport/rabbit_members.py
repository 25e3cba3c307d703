"""What the members of a group tell each other by RabbitMQ: that they live, and what they hold.

From it each knows by the same order which partitions are whose by right. Whoever wants to know the group's lag asks
here too: what a member has and has not acknowledged RabbitMQ counts for administrators alone.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Final

from aiormq.abc import AbstractChannel, DeliveredMessage

from .base import TransportAway
from .rabbit_wire import MEMBERS, ask, usable

LONGEST_S: Final = 600.0
"""Nobody is believed for longer after one word."""
UNHEARD: Final = 1000
"""What others said and we have not read: the oldest goes first."""


class Members:
    """The living members of a group, as one of them, ``me``, knows them."""

    def __init__(
        self, group: str, member: str, lease_s: float, changed: Callable[[], None], held: Callable[[], dict[int, int]]
    ) -> None:
        self._group, self._lease_s, self._changed, self._held = group, lease_s, changed, held
        self._me = f"{member}|{secrets.token_hex(8)}"
        self._until: dict[str, float] = {}
        """Whom we heard, and when they are given up."""
        self._row: list[str] = []
        self._telling: AbstractChannel | None = None
        self.beat_at = 0.0
        """When to say that we live."""

    async def listen(self, control: AbstractChannel, telling: AbstractChannel) -> None:
        """Hear the others by ``control``; tell them by ``telling``, where nobody waits for an answer. Gone."""
        self._telling = telling
        told = await control.queue_declare("", exclusive=True, auto_delete=True, arguments={"x-max-length": UNHEARD})
        await control.queue_bind(told.queue or "", MEMBERS, self._group)
        await control.basic_consume(told.queue or "", self._told, no_ack=True)

    def forget(self) -> None:
        """The connection is gone, and what was heard by it is of no worth."""
        self._until.clear()
        self._row = []
        self._telling = None

    def is_anothers(self, number: int) -> bool:
        """Whether a partition is another's by the common order."""
        return self._me in self._row and self._row[number % len(self._row)] != self._me

    async def beat(self) -> None:
        """Give up those who were silent for too long, and say in time that we live; Gone."""
        now = time.monotonic()
        for member in [member for member, until in self._until.items() if until < now]:
            self._hears(member, 0.0)
        if now >= self.beat_at:
            self.beat_at = now + self._lease_s / 3
            await self.tell(alive=True)

    async def tell(self, *, alive: bool) -> None:
        """Say it to all; Gone."""
        body = json.dumps({"member": self._me, "alive": alive, "lease": self._lease_s}).encode()
        await ask(usable(self._telling).basic_publish(body, exchange=MEMBERS, routing_key=self._group))

    async def _told(self, message: DeliveredMessage) -> None:
        try:
            told = json.loads(message.body)
            if "ask" in told:
                await self._answer(str(told["ask"]))
            else:
                self._hears(str(told["member"]), float(told["lease"]) if told["alive"] else 0.0)
        except (ValueError, TypeError, KeyError):
            return  # Not by one of us.

    def _hears(self, member: str, lease_s: float) -> None:
        """One lives for so long, or with 0 not any more."""
        if lease_s:
            self._until[member] = time.monotonic() + min(LONGEST_S, lease_s)
        else:
            self._until.pop(member, None)
        row = sorted(self._until)
        if row == self._row:
            return
        if lease_s and member != self._me:
            # So that the new one knows of us before our next beat.
            self.beat_at = 0.0
        self._row = row
        self._changed()

    async def _answer(self, queue: str) -> None:
        body = json.dumps({"members": len(self._until), "held": self._held()}).encode()
        try:
            await ask(usable(self._telling).basic_publish(body, routing_key=queue))
        except TransportAway:
            pass  # Whoever asked does not wait for long.
