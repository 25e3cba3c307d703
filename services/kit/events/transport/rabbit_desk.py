"""One partition of RabbitMQ as a member consumes it."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

from aiormq.abc import AbstractChannel, DeliveredMessage

from .base import Place
from .rabbit_log import Replay
from .rabbit_wire import TOPIC


class Desk:
    """A channel of its own, so that letting go returns all of it, in order."""

    def __init__(self, number: int, channel: AbstractChannel, look: Callable[[Desk], Awaitable[None]]) -> None:
        self.number, self.channel, self._look = number, channel, look
        self.name = secrets.token_hex(3)
        self.inbox: deque[DeliveredMessage] = deque()
        self.held: dict[str, DeliveredMessage] = {}
        """By position, from the queue or from a replay."""
        self.replay: Replay | None = None
        self.sorting = asyncio.Lock()
        self.yields = False
        """It became another member's by right: to be let go when nothing of it is in hand."""

    @property
    def place(self) -> Place:
        return (TOPIC, self.number)

    async def arrived(self, message: DeliveredMessage) -> None:
        self.inbox.append(message)
        await self._look(self)
