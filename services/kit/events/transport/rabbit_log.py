"""What a group gets that its queue does not have: the past, from a partition's log.

RabbitMQ's queues forget what is acknowledged. So whoever wants the past puts an order into the group's queue: a message
that says from where to read the log. It is carried out by whoever holds the partition when its turn comes, and
acknowledged when all that was read is settled; until then the queue behind it waits. The order goes into the log as
well, and ends where the group's next message to itself stands there: a mark that is written after the order, once the
queue receives what is published. What stands in both log and queue is delivered twice, the log's first.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic

from .base import Start
from .rabbit_wire import EXCHANGE, ask, control_key, log_of

ORDER: Final = "mc-order"
"""Header: the id of an order or mark."""
GROUP: Final = "mc-group"
AT: Final = "mc-at"
"""Header of everything that we publish: when, in milliseconds. A log is found by time only roughly."""
PREFETCH: Final = 50
OVERDUE_MS: Final = 60_000
"""An entry so much younger than the order ends it too, should the log have lost its mark."""


def headers_of(message: DeliveredMessage) -> dict[str, Any]:
    """Of a message; none where there are none."""
    return message.header.properties.headers or {}


async def order(channel: AbstractChannel, group: str, number: int, identity: str, start: Start | None) -> None:
    """Put an order into the group's queue and log, or with None for ``start`` a mark. The channel confirms."""
    now = int(time.time() * 1000)
    properties = Basic.Properties(delivery_mode=2, headers={ORDER: identity, GROUP: group, AT: now})
    body = json.dumps({"start": start, "at": now}).encode()
    await channel.basic_publish(
        body, exchange=EXCHANGE, routing_key=control_key(group, number), properties=properties, mandatory=True
    )


class Replay:
    """One order being carried out."""

    def __init__(
        self, group: str, number: int, asked: DeliveredMessage, arrived: Callable[[], Awaitable[None]]
    ) -> None:
        told = json.loads(asked.body)
        self.asked = asked
        """The order; acknowledge it when all is ``done``."""
        self._identity = headers_of(asked)[ORDER]
        self._start: Start | None = told["start"]
        self._at: int = told["at"]
        self._group, self._number, self._look = group, number, arrived
        self._channel: AbstractChannel | None = None
        self._inbox: deque[DeliveredMessage] = deque()
        self._tags: dict[str, int] = {}
        self._kept: list[tuple[str, DeliveredMessage]] = []
        self._met = False
        # A mark orders nothing.
        self._ended = self._start is None

    @property
    def done(self) -> bool:
        """The log is read to the order's end, and all that was read is settled."""
        return self._ended and not self._tags and not self._kept

    async def begin(self, connection: AbstractConnection) -> None:
        """Read, from now on; Gone."""
        if self._ended:
            return
        offset: Any = "first"
        if not isinstance(self._start, str) and self._start is not None:
            offset = datetime.fromtimestamp(int(self._start), UTC)
        self._channel = channel = await ask(connection.channel(publisher_confirms=False))
        await ask(channel.basic_qos(prefetch_count=PREFETCH))
        await ask(channel.basic_consume(log_of(self._number), self._arrived, arguments={"x-stream-offset": offset}))

    async def _arrived(self, message: DeliveredMessage) -> None:
        self._inbox.append(message)
        await self._look()

    async def entries(self) -> list[tuple[str, DeliveredMessage]]:
        """What came, with positions; each is to be ``settle``d. Gone.

        The last is kept back until what follows it is here, so that with the last of all it is known that it was.
        """
        found: list[tuple[str, DeliveredMessage]] = []
        while self._inbox and not self._ended:
            message = self._inbox.popleft()
            headers = headers_of(message)
            at = headers.get(AT, 0)
            if headers.get(GROUP) == self._group and ORDER in headers:
                self._ended = self._met
                self._met = self._met or headers[ORDER] == self._identity
            elif isinstance(at, int) and at > self._at + OVERDUE_MS:
                self._ended = True
            elif ORDER not in headers and not self._is_before(at):
                found += self._kept
                self._kept = [(f"log.{headers['x-stream-offset']}", message)]
                continue
            await self._ack(message.delivery_tag or 0)
        if self._ended:
            found, self._kept = found + self._kept, []
        self._tags |= {position: message.delivery_tag or 0 for position, message in found}
        return found

    def _is_before(self, at: object) -> bool:
        """An entry from before the time that was asked for; one that is not ours is taken for what it may be."""
        return isinstance(self._start, float | int) and isinstance(at, int) and 0 < at < self._start * 1000

    async def settle(self, position: str) -> None:
        """It is dealt with."""
        tag = self._tags.pop(position, None)
        if tag is not None:
            await self._ack(tag)

    async def _ack(self, tag: int) -> None:
        # To a stream this says only that more may come.
        if self._channel is not None:
            await ask(self._channel.basic_ack(tag, wait=False))

    async def end(self) -> None:
        """Read no more."""
        self._ended = True
        self._kept.clear()
        self._tags.clear()
        if self._channel is not None and not self._channel.is_closed:
            await ask(self._channel.close())
