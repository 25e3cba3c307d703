"""One member's reading of RabbitMQ: which partitions it has, what it holds of them, and what becomes of it.

Every member consumes every queue of its group; RabbitMQ lets one of them have a queue's messages, and the next when
that one is gone. So that all get their share, members tell each other that they live, and one that has a queue which is
another's by their common order goes to the end of the row once nothing of it is in hand. A member that neither fetches
nor extends for the time of its lease lets go of its connection, and with it of everything.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pamqp.commands import Basic

from .base import ANSWER_S, PARTITIONS, Delivery, Place, Start, Stats, TransportAway, Wanted
from .bindings import unbound
from .rabbit_desk import Desk
from .rabbit_group import make_group
from .rabbit_log import GROUP, ORDER, Replay, headers_of, order
from .rabbit_members import Members
from .rabbit_wire import (
    DEAD,
    DEAD_KEEP,
    GROUPS,
    TOPIC,
    Address,
    Gone,
    ask,
    connect,
    declare,
    declare_dead,
    declare_dead_count,
    queue_of,
    usable,
)
from .reading import Connected

PREFETCH: Final = 50
"""Messages of a partition that are here and not acknowledged."""
LARGE_HEADERS: Final = 64 * 1024
"""Headers that are larger are not kept with what is put aside: the reason must fit into the same frame."""


class RabbitReading(Connected):
    """One member's reading of RabbitMQ."""

    def __init__(
        self,
        address: Address,
        stats: Stats,
        wanted: Wanted,
        group: str,
        member: str,
        start: Start,
        lease_s: float,
    ) -> None:
        super().__init__(stats, wanted, group, member, lease_s)
        self._address, self._start = address, start
        self._members = Members(group, member, lease_s, self._share_out, self._held)
        self._desks: dict[int, Desk] = {}
        self._connection: AbstractConnection | None = None
        self._speaker: AbstractConnection | None = None
        """A connection of its own for all that is said: with an alarm RabbitMQ hears nothing more from one that
        publishes, and would not hear our acknowledgements."""
        self._control: AbstractChannel | None = None
        self._telling: AbstractChannel | None = None
        """As the control, and nobody waits for an answer."""
        self._ever_joined = False
        self._deleted = False

    @property
    def _is_joined(self) -> bool:
        return self._connection is not None

    async def _leave(self) -> None:
        try:
            await self._members.tell(alive=False)
        except TransportAway:
            pass  # Then the others miss it.
        await super()._leave()

    # -- reading ---------------------------------------------------------------------------------

    async def _round(self, most: int, deadline: float) -> list[Delivery]:
        await self._look()
        # A replay is finished by whoever began it, or another would begin it anew.
        yielding = {desk.place for desk in self._desks.values() if desk.yields and desk.replay is None}
        found = self._hands.take(most, time.monotonic(), but=yielding)
        if not found:
            due = self._hands.due() if self._hands.in_hand < most else None
            await self._sleep_until(min(deadline, self._members.beat_at, due or deadline))
        return found

    async def _look(self) -> None:
        """Have a connection, a desk for each partition, and on them what came."""
        if self._deleted:
            self._deleted = False
            raise Gone("a queue of the group was deleted, and is made again")
        if self._connection is None or self._connection.is_closed:
            await self._prepare()
        await self._members.beat()
        for number in range(PARTITIONS):
            desk = self._desks.get(number)
            if desk is not None and desk.channel.is_closed:
                self._lose(number)
                desk = None
            if desk is not None and desk.yields and self._hands.idle(desk.place) and desk.replay is None:
                self._lose(number)
                await ask(desk.channel.close())
                desk = None
            if desk is None and self._hands.may_return((TOPIC, number)):
                await self._open(number)

    async def _arrived(self, desk: Desk) -> None:
        """Something came, whether anybody fetches or not."""
        try:
            await self._sort(desk)
        except TransportAway:
            pass  # Whoever fetches next meets it too, and sees to it.
        self._changed.set()

    async def _sort(self, desk: Desk) -> None:
        """Put what came onto the desk, in order; an order for the past comes before what is behind it."""
        async with desk.sorting:
            while await self._past_is_done(desk) and desk.inbox:
                await self._sort_one(desk, desk.inbox.popleft())

    async def _past_is_done(self, desk: Desk) -> bool:
        """Go on with the replay under way; whether there is none (any more)."""
        replay = desk.replay
        if replay is None:
            return True
        for position, message in await replay.entries():
            if not self._put(desk, position, message, replayed=True):
                await replay.settle(position)
        if not replay.done:
            return False
        await replay.end()
        await self._pass(desk, replay.asked)
        desk.replay = None
        return True

    async def _sort_one(self, desk: Desk, message: DeliveredMessage) -> None:
        headers = headers_of(message)
        if ORDER in headers and headers.get(GROUP) == self.group:
            replay = Replay(self.group, desk.number, message, partial(self._arrived, desk))
            await replay.begin(self._connected())
            desk.replay = replay
        elif ORDER in headers or not self._put(desk, f"{desk.name}.{message.delivery_tag}", message):
            await self._pass(desk, message)

    def _put(self, desk: Desk, position: str, message: DeliveredMessage, *, replayed: bool = False) -> bool:
        """Make a delivery of it; False for what this subscription has no use for."""
        headers, properties = headers_of(message), message.header.properties
        read = unbound(headers.items(), "ce-", properties.content_type or "", message.body, self._wanted)
        if read is None:
            return False
        if read[0] is None and replayed and not headers.get("ce-type"):
            # Nobody's queue can have had it by its type; who should get it now?
            return False
        attempt = 1
        if not replayed and message.delivery is not None:
            again = bool(getattr(message.delivery, "redelivered", False))
            attempt += max(int(headers.get("x-delivery-count", 0)), int(again))
        desk.held[position] = message
        self._stock(Delivery(*desk.place, position, attempt, message.body, *read))
        return True

    async def _pass(self, desk: Desk, message: DeliveredMessage) -> None:
        """Nobody is to get it."""
        await ask(desk.channel.basic_ack(message.delivery_tag or 0, wait=False))

    # -- connection and partitions ---------------------------------------------------------------

    async def _prepare(self) -> None:
        await self._drop()
        self._connection = await connect(self._address, self._lease_s / 2)
        self._speaker = await connect(self._address, self._lease_s / 2)
        self._control = await ask(self._speaker.channel())
        self._telling = await ask(self._speaker.channel(publisher_confirms=False))
        await ask(self._make(self._connection, self._control), 6 * ANSWER_S)
        await asyncio.gather(
            *(self._open(number) for number in range(PARTITIONS) if self._hands.may_return((TOPIC, number)))
        )
        self._members.beat_at = 0.0
        await self._members.beat()
        if self._closed.is_set():
            await self._drop()

    def _connected(self) -> AbstractConnection:
        if self._connection is None or self._connection.is_closed:
            raise Gone("There is no connection to RabbitMQ.")
        return self._connection

    def _speaking(self) -> AbstractChannel:
        """The channel for all that is not a partition's."""
        return usable(self._control)

    async def _make(self, connection: AbstractConnection, control: AbstractChannel) -> None:
        """What the group needs, once for all its members; and what this member hears the others by."""
        await declare(control)
        await declare_dead(control, self.group)
        # Whoever joined once and finds its group gone has missed what came since: from the beginning.
        start: Start = "earliest" if self._ever_joined else self._start
        await make_group(connection, control, self.group, self._wanted.patterns, start)
        self._ever_joined = True
        # Not to be waited for: with an alarm it would not be answered.
        await usable(self._telling).basic_publish(self.group.encode(), routing_key=GROUPS)
        await self._members.listen(control, usable(self._telling))

    async def _open(self, number: int) -> None:
        """Get into the row of those who consume the partition."""
        channel = await ask(self._connected().channel(publisher_confirms=False))
        desk = Desk(number, channel, self._arrived)
        await ask(channel.basic_qos(prefetch_count=PREFETCH))
        self._desks[number] = desk
        self._hands.hold(desk.place)
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        await ask(channel.basic_consume(queue_of(self.group, number), desk.arrived))
        channel.closing.add_done_callback(lambda _: self._changed.set())

    def _cancelled(self, _: object) -> None:
        """RabbitMQ gives us a queue no more: somebody deleted it."""
        self._deleted = True
        self._changed.set()

    def _lose(self, number: int) -> None:
        self._desks.pop(number, None)
        self._hands.lose((TOPIC, number))

    async def _drop(self) -> None:
        for number in list(self._desks):
            self._lose(number)
        self._members.forget()
        self._control = self._telling = None
        connections, self._connection, self._speaker = (self._connection, self._speaker), None, None
        for connection in connections:
            if connection is not None and not connection.is_closed:
                try:
                    await ask(connection.close())
                except TransportAway:
                    pass  # It is gone either way.

    def _share_out(self) -> None:
        """Members came or went. What is another's now is let go once: then ours is the end of its row."""
        for desk in self._desks.values():
            desk.yields = self._members.is_anothers(desk.number)
        self._changed.set()

    def _held(self) -> dict[int, int]:
        """What is here and not acknowledged, by partition."""
        return {
            desk.number: len(desk.held) + sum(ORDER not in headers_of(message) for message in desk.inbox)
            for desk in self._desks.values()
        }

    # -- settling --------------------------------------------------------------------------------

    async def _renew(self) -> None:
        await super()._renew()
        if self._connection is not None and not self._connection.is_closed:
            await self._members.beat()
        self._lose_closed()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._is_there(deliveries)
        await super().ack(deliveries)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._is_there([delivery])
        await super().dead_letter(delivery, reason)

    def _is_there(self, deliveries: Sequence[Delivery]) -> None:
        """Gone when it was the broker that went. Who was silent has no connection either, and is merely late."""
        if deliveries and (self._tries or self._connection is not None):
            self._connected()

    def _mine(self, deliveries: Sequence[Delivery]) -> dict[Place, list[Delivery]]:
        self._lose_closed()
        return super()._mine(deliveries)

    def _lose_closed(self) -> None:
        for number, desk in list(self._desks.items()):
            if desk.channel.is_closed:
                self._lose(number)

    async def _acknowledge(self, mine: dict[Place, list[Delivery]]) -> None:
        # A partition may be lost while another's are acknowledged.
        for desk, some in [(self._desks[number], some) for (_, number), some in mine.items()]:
            await self._settle(desk, some)

    async def _settle(self, desk: Desk, deliveries: list[Delivery]) -> None:
        self._hands.settle(desk.place, deliveries)
        tags = []
        for delivery in deliveries:
            message = desk.held.pop(delivery.position)
            if desk.replay is not None and delivery.position.startswith("log."):
                await desk.replay.settle(delivery.position)
            else:
                tags.append(message.delivery_tag or 0)
        rest = {message.delivery_tag or 0 for position, message in desk.held.items() if not position.startswith("log.")}
        rest |= {message.delivery_tag or 0 for message in desk.inbox}
        if desk.replay is not None:
            rest.add(desk.replay.asked.delivery_tag or 0)
        oldest = min(rest, default=None)
        done = [tag for tag in tags if oldest is None or tag < oldest]
        if done:
            # One word for all up to there: nothing that is older is left.
            await ask(desk.channel.basic_ack(max(done), multiple=True, wait=False))
        for tag in tags:
            if tag not in done:
                await ask(desk.channel.basic_ack(tag, wait=False))
        if desk.replay is not None:
            # The order itself is to be acknowledged with the last of what it brought, and not when somebody looks.
            await self._sort(desk)

    async def _put_aside(self, delivery: Delivery, noted: dict[str, str]) -> None:
        desk = self._desks[delivery.partition]
        message = desk.held[delivery.position]
        told: dict[str, Any] = {f"mc-{name}": value for name, value in noted.items()}
        headers = headers_of(message)
        if sum(len(name) + len(str(value)) for name, value in headers.items()) <= LARGE_HEADERS:
            told = headers | told
        else:
            told["mc-headers"] = "too many to be kept"
        properties = Basic.Properties(
            delivery_mode=2, headers=told, content_type=message.header.properties.content_type
        )
        control = self._speaking()
        kept = await ask(declare_dead_count(control, self.group))
        await ask(
            control.basic_publish(
                message.body, exchange=DEAD, routing_key=self.group, properties=properties, mandatory=True
            )
        )
        self._stats.lost += int(kept >= DEAD_KEEP)
        await self._settle(desk, [delivery])

    async def _go_to(self, start: Start) -> None:
        self._connected()
        control = self._speaking()
        for number in range(PARTITIONS):
            await ask(control.queue_purge(queue_of(self.group, number)))
            desk = self._desks.get(number)
            if desk is not None:
                if desk.replay is not None:
                    await desk.replay.end()
                    desk.replay = None
                desk.inbox.clear()
                desk.held.clear()
                # Number 0 is all that this channel was given.
                await ask(desk.channel.basic_ack(0, multiple=True))
            if start != "latest":
                await ask(order(control, self.group, number, secrets.token_hex(8), start))
                await ask(order(control, self.group, number, secrets.token_hex(8), None))
