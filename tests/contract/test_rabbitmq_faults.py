"""A RabbitMQ that lives and does not do its work: an alarm, limits that somebody set, a queue not ours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.kit.checks import Unwell
from services.kit.events.transport import rabbit_wire
from services.kit.events.transport.base import Outgoing, TransportAway
from tests.brokers import Broker
from tests.contract.bus import Lane, param
from tests.contract.shop import Shop
from tests.contract.test_transport_hostile import on_rabbitmq
from tests.waiting import patient

pytestmark = pytest.mark.parametrize("broker", [param("rabbitmq")], indirect=True)


@pytest.fixture
async def shop(broker: Broker, tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(broker, tmp_path)
    yield made
    await made.stop()


async def says(part: Any, words: str) -> bool:
    """Whether the part of a service says so in its health."""
    try:
        await part.probe()
    except Unwell as unwell:
        return words in str(unwell)
    return False


async def well(part: Any) -> bool:
    try:
        await part.probe()
    except Unwell:
        return False
    return True


async def test_with_an_alarm_nothing_is_taken_and_that_is_said_while_what_is_there_is_read(shop: Shop) -> None:
    server: Any = shop.broker
    await shop.start()
    await shop.publish(600)
    await shop.until(shop.all_sent, "RabbitMQ has them")
    server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        began = time.monotonic()
        with pytest.raises(TransportAway, match="alarm"):
            await shop.sends.publish([Outgoing(Lane(server).event())])
        assert time.monotonic() - began < patient(12)
        # Whoever reads makes room: nothing may hinder it.
        shop.open.set()
        # More than it is given before it acknowledges.
        await shop.until(shop.all_seen, "what is there is handled and acknowledged")
        await shop.publish(64)
        await shop.until(partial(says, shop.outbox, "alarm"), "health says why events wait", 30)
        assert await shop.waiting() == 64 and await well(shop.consumer)
    finally:
        server.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    await shop.until(shop.all_seen, "what waited comes")
    await shop.in_order_once()


async def test_a_queue_with_other_arguments_is_named_with_what_to_do_until_it_is_gone(shop: Shop) -> None:
    queue = rabbit_wire.queue_of(shop.group, 3)

    async def declare(channel: Any) -> None:
        await channel.queue_declare(queue, durable=True, arguments={"x-max-length": 5})

    async def delete(channel: Any) -> None:
        await channel.queue_delete(queue)

    await on_rabbitmq(shop.broker.url, declare)
    shop.open.set()
    await shop.start()
    await shop.publish(64)
    await shop.until(partial(says, shop.consumer, f"for queue '{queue}'"), "health names the queue", 30)
    await shop.until(partial(says, shop.consumer, "delete it"), "and says what to do")
    await on_rabbitmq(shop.broker.url, delete)
    await shop.until(shop.all_seen, "everything comes")
    await shop.in_order_once()
    await shop.until(partial(well, shop.consumer), "it is well", 30)


async def test_a_policy_that_bounds_our_queues_makes_events_wait_and_loses_none(shop: Shop) -> None:
    server: Any = shop.broker
    server.ctl("set_policy", "--apply-to", "queues", "short", rf"^mc\.{shop.group}\.\d$", '{"max-length":20}')
    try:
        await shop.start()
        # Far more than its queues may hold, while nobody reads.
        for _ in range(4):
            await shop.publish(500)
        await shop.until(partial(says, shop.outbox, "takes nothing"), "health says why events wait", 30)
        assert await shop.waiting()
        shop.open.set()
    finally:
        server.ctl("clear_policy", "short")
    await shop.until(shop.all_seen, "all come")
    await shop.in_order_once()
