"""Events on RabbitMQ (3.10 or newer; quorum queues and streams): ``rabbit_wire`` draws the topology.

Published messages are persistent and confirmed. The attributes of an event are headers (``ce-``), its data the body:
CloudEvents' binary mode. ``rabbit_wire`` says what a URL may.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError
from pamqp.commands import Basic

from .base import ANSWER_S, PARTITIONS, Outgoing, Rejected, Start, Stats, TransportAway, Wanted, partition_of
from .bindings import CONTENT_TYPE, binary
from .rabbit_log import AT
from .rabbit_reading import RabbitReading
from .rabbit_wire import (
    EXCHANGE,
    GROUPS,
    MEMBERS,
    TOPIC,
    Address,
    Gone,
    ask,
    check_group,
    connect,
    declare,
    declare_topic,
    is_blocked,
    queue_of,
)

HEARTBEAT_S: Final = 10.0
NAMES_S: Final = 0.5
"""The names of groups have all come when none has come for so long."""
MEMBERS_S: Final = 0.5
"""How long the members of a group have to say what they hold."""

FULL: Final = (
    "RabbitMQ takes nothing: it has raised an alarm, for it lacks memory or disk "
    "(rabbitmq-diagnostics alarms says which)."
)


class RabbitMQ:
    """The Transport on RabbitMQ."""

    name = "rabbitmq"
    whole = TOPIC

    def __init__(self, url: str) -> None:
        self._address = Address.of(url)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._connecting = asyncio.Lock()
        self._exchanges: dict[str, str] = {}
        self._readings: set[RabbitReading] = set()
        self._stats = Stats()

    def stats(self) -> Stats:
        return replace(self._stats)

    async def close(self) -> None:
        for reading in self._readings:
            await reading.close()
        self._readings.clear()
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and not connection.is_closed:
            try:
                await ask(connection.close())
            except TransportAway:
                pass  # It is gone either way.

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        if not batch:
            return []
        try:
            return await ask(self._publish(batch))
        except TransportAway:
            full = (
                self._connection is not None and not self._connection.is_closed and await is_blocked(self._connection)
            )
            # Of what is under way nothing is known, and nothing more is to come of it.
            await self._drop()
            if full:
                raise Gone(FULL) from None
            raise

    async def _publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        channel = await self._ready()
        for topic in {out.topic for out in batch} - {""} - self._exchanges.keys():
            self._exchanges[topic] = await declare_topic(channel, topic)
        sends = [self._send(channel, out) for out in batch]
        # Each begins in its turn, and so each is written in its turn; the answers are waited for together.
        answers = await asyncio.gather(*sends, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, PublishError):
                self._stats.unrouted += 1
                raise Gone("RabbitMQ has no queue for an event: its log is gone, and will be made again.")
            if isinstance(answer, DeliveryError):
                raise Gone(f"RabbitMQ takes nothing: {answer}")
            if isinstance(answer, BaseException) and not isinstance(answer, Rejected):
                raise answer
        return [answer if isinstance(answer, Rejected) else None for answer in answers]

    async def _send(self, channel: AbstractChannel, out: Outgoing) -> None:
        event = out.event
        named, body = binary(event)
        content_type = named.pop(CONTENT_TYPE)
        headers: dict[str, Any] = {f"ce-{name}": value for name, value in named.items()}
        headers[AT] = int(time.time() * 1000)
        await channel.basic_publish(
            body,
            exchange=self._exchanges.get(out.topic, EXCHANGE),
            routing_key=f"{event.type}.p{partition_of(out)}",
            properties=Basic.Properties(delivery_mode=2, content_type=content_type, headers=headers),
            mandatory=True,
        )

    async def _ready(self) -> AbstractChannel:
        """The channel to publish by."""
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                await self._drop()
                self._exchanges.clear()
                self._connection = await connect(self._address, HEARTBEAT_S)
                self._channel = await self._connection.channel()
                await declare(self._channel)
            return self._channel

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> RabbitReading:
        wanted = Wanted(patterns, topics)
        reading = RabbitReading(self._address, self._stats, wanted, check_group(group), member, start, lease_s)
        self._readings = {one for one in self._readings if not one.closed} | {reading}
        await reading.begin()
        return reading

    def carriers(self, event_type: str) -> list[str]:
        return [self.name]

    async def groups(self) -> set[str]:
        return await ask(self._groups(), 2 * ANSWER_S)

    async def _groups(self) -> set[str]:
        channel = await (await self._ready()).connection.channel(publisher_confirms=False)
        names: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        found: set[str] = set()
        await channel.basic_qos(prefetch_count=1000)
        await channel.basic_consume(GROUPS, names.put, arguments={"x-stream-offset": "first"})
        try:
            while True:
                async with asyncio.timeout(NAMES_S):
                    message = await names.get()
                found.add(message.body.decode(errors="replace"))
                await channel.basic_ack(message.delivery_tag or 0, wait=False)
        except TimeoutError:
            pass
        await channel.close()
        return found

    async def lag(self, group: str) -> dict[str, int]:
        """As the seam says, but of the past that a group has ordered it counts what is in hand."""
        for reading in self._readings:
            if reading.group == group and reading.fault:
                # Its queues may be there, and yet it can't read them.
                raise Gone(reading.fault)
        await self._leave_blocked()
        try:
            return await ask(self._lag(check_group(group)), 2 * ANSWER_S)
        finally:
            await self._leave_blocked()

    async def _leave_blocked(self) -> None:
        """Drop a connection by which RabbitMQ hears nothing more; by another it answers until we say something."""
        if self._connection is not None and await is_blocked(self._connection):
            await self._drop()

    async def _lag(self, group: str) -> dict[str, int]:
        connection = (await self._ready()).connection
        channel = await connection.channel(publisher_confirms=False)
        found: dict[str, int] = {}
        members = 0
        try:
            for at in range(PARTITIONS):
                declared = await channel.queue_declare(queue_of(group, at), passive=True)
                found[f"{TOPIC}/{at}"] = declared.message_count or 0
                members = max(members, declared.consumer_count or 0)
        except ChannelNotFoundEntity:
            return {}
        told = await self._ask_members(channel, group, members)
        for held in told:
            for number, count in held.items():
                found[f"{TOPIC}/{number}"] += count
        if len(told) < members:
            # Who does not answer may have something of any of them in hand: none is known to be done with.
            found = {place: max(count, 1) for place, count in found.items()}
        if not await is_blocked(connection):
            await channel.close()
        return found

    async def _ask_members(self, channel: AbstractChannel, group: str, members: int) -> list[dict[str, int]]:
        """What each of the group's members has in hand, as far as they answer in time."""
        if not members:
            return []
        answers: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        reply_to = (await channel.queue_declare("", exclusive=True, auto_delete=True)).queue or ""
        await channel.basic_consume(reply_to, answers.put, no_ack=True)
        await channel.basic_publish(json.dumps({"ask": reply_to}).encode(), exchange=MEMBERS, routing_key=group)
        found: list[dict[str, int]] = []
        try:
            async with asyncio.timeout(MEMBERS_S):
                while len(found) < members:
                    found.append(json.loads((await answers.get()).body)["held"])
        except TimeoutError:
            pass
        return found
