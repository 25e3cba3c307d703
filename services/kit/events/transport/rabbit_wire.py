"""What both sides of RabbitMQ know: names, the topology, and which errors mean that the broker is away.

Events go through a topic exchange, by their type and their partition (``business.transaction.recorded.p3``). A group
has a durable quorum queue per partition with a single active consumer, bound once for each of its patterns. Beside them
each partition has a log, a stream: what a queue no longer has, a new group and one that seeks get from there.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, ChannelPreconditionFailed
from yarl import URL

from . import secure as secured
from .base import ANSWER_S, PARTITIONS, TransportAway, TransportError

EXCHANGE: Final = "mc.events"
"""Topic exchange: every event goes through it. A topic of its own has one that feeds it, ``mc.events.<topic>``."""
DEAD: Final = "mc.dead"
"""Direct exchange: what is put aside, by group."""
MEMBERS: Final = "mc.members"
"""Direct exchange: what members of a group tell each other."""
GROUPS: Final = "mc.groups"
"""Stream: the name of each group, written by each member whenever it connects: RabbitMQ lists queues to administrators
alone."""
TOPIC: Final = "events"
"""What partitions are called here: they are those of the exchange, whatever the topic."""

LOG_BYTES: Final = 500_000_000
LOG_AGE: Final = "7D"
"""What each partition's log keeps."""
LOG_SEGMENT: Final = 50_000_000
DELIVERY_LIMIT: Final = 1000
"""Times that a lost connection may bring a message back before RabbitMQ itself puts it aside."""
DEAD_KEEP: Final = 10_000

AWAY = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)
"""Connection or channel are gone, or nothing answers."""

# That a broker is away we say ourselves, once; the driver says it at every try, with its traceback.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

T = TypeVar("T")


class Gone(TransportAway):
    """The connection or channel that was asked is of no use any more."""


def queue_of(group: str, number: int) -> str:
    """The group's queue of a partition."""
    return f"mc.{group}.{number}"


def log_of(number: int) -> str:
    """The log of a partition."""
    return f"mc.log.{number}"


def check_group(group: str) -> str:
    """The group, when its name can be part of a routing key; TransportError else."""
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", group):
        raise TransportError(f"A group is called by letters, digits and _ . : - (100 at most), not {group!r}.")
    return group


async def ask(work: Awaitable[T], within: float = ANSWER_S) -> T:
    """The answer; Gone when the broker doesn't give one within so many seconds."""
    try:
        async with asyncio.timeout(within):
            return await work
    except AWAY as error:
        raise Gone(f"RabbitMQ does not answer: {secured.why(error)}{_advice(error)}") from None
    except asyncio.CancelledError:
        # A connection that closes cancels whoever waits for it. That is not our own end.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Gone("RabbitMQ closed the connection.") from None


def _advice(error: BaseException) -> str:
    """What to do about a queue that is not as it has to be, or that RabbitMQ knows of and can't find: nobody can make
    or delete that one by AMQP. It is so after a kill within seconds of a queue's making (3.10), and while the node that
    has it is down."""
    if isinstance(error, ChannelPreconditionFailed):
        return (
            ". Somebody else made it, or another version of ours did: delete it when it is read empty (rabbitmqctl "
            "delete_queue), and it is made as it has to be"
        )
    if "is down or inaccessible" not in str(error):
        return ""
    return (
        ". If all its nodes run, it was killed just after that queue was made and lost its name: make its virtual host "
        "anew (rabbitmqctl delete_vhost, add_vhost, set_permissions)"
    )


@dataclass(frozen=True)
class Address:
    """Where RabbitMQ is, and how it is spoken to."""

    url: URL
    context: ssl.SSLContext | None
    """None without TLS."""

    @classmethod
    def of(cls, url: str) -> Address:
        """``amqp://user:password@host:port/vhost?heartbeat=10``, ``amqps://`` for TLS. BrokerError."""
        parts = urlsplit(url)
        secure = parts.scheme == "amqps"
        given = secured.options(parts, {"heartbeat"}, secure=secure)
        if not parts.hostname:
            raise secured.BrokerError("RabbitMQ's URL is amqp://user:password@host:port/vhost, or amqps:// for TLS.")
        if not given.get("heartbeat", "1").isdecimal():
            raise secured.BrokerError(f"The option heartbeat is whole seconds, not {given['heartbeat']!r}.")
        kept = {name: value for name, value in given.items() if name == "heartbeat"}
        return cls(URL(url).with_query(kept), secured.context(given) if secure else None)


async def connect(address: Address, heartbeat_s: float) -> AbstractConnection:
    """A connection that the broker gives up when it has heard nothing for twice ``heartbeat_s``, unless the URL says
    otherwise; Gone."""
    url = address.url
    if "heartbeat" not in url.query:
        url = url.update_query(heartbeat=str(min(max(int(heartbeat_s), 1), 60)))
    try:
        return await ask(aiormq.connect(url, context=address.context))
    except Gone as error:
        raise Gone(f"{error}{secured.hint(error, url.scheme)}") from None


def usable(channel: AbstractChannel | None) -> AbstractChannel:
    """The channel; Gone when there is none."""
    if channel is None or channel.is_closed:
        raise Gone("There is no connection to RabbitMQ.")
    return channel


async def is_blocked(connection: AbstractConnection) -> bool:
    """Whether RabbitMQ said that it takes nothing by this connection: it does so with an alarm for memory or disk."""
    if connection.is_closed:
        return False
    try:
        async with asyncio.timeout(0.1):
            await connection.ready()
    except TimeoutError:
        return True
    return False


async def declare(channel: AbstractChannel) -> None:
    """What publishers and readers share."""
    for exchange, kind in ((EXCHANGE, "topic"), (DEAD, "direct"), (MEMBERS, "direct")):
        await channel.exchange_declare(exchange, exchange_type=kind, durable=True)
    for number in range(PARTITIONS):
        arguments: dict[str, Any] = {
            "x-queue-type": "stream",
            "x-max-length-bytes": LOG_BYTES,
            "x-stream-max-segment-size-bytes": LOG_SEGMENT,
            "x-max-age": LOG_AGE,
        }
        await channel.queue_declare(log_of(number), durable=True, arguments=arguments)
        await channel.queue_bind(log_of(number), EXCHANGE, f"#.p{number}")
    names: dict[str, Any] = {
        "x-queue-type": "stream",
        "x-max-length-bytes": 2_000_000,
        "x-stream-max-segment-size-bytes": 1_000_000,
    }
    await channel.queue_declare(GROUPS, durable=True, arguments=names)


async def declare_topic(channel: AbstractChannel, topic: str) -> str:
    """The exchange of a topic of its own, which feeds that of all; its name."""
    name = f"{EXCHANGE}.{topic}"
    await channel.exchange_declare(name, exchange_type="topic", durable=True)
    await channel.exchange_bind(EXCHANGE, name, routing_key="#")
    return name


async def declare_dead(channel: AbstractChannel, group: str) -> str:
    """Where the group puts things aside; the queue's name."""
    name = f"mc.{group}.dead"
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-max-length": DEAD_KEEP}
    await channel.queue_declare(name, durable=True, arguments=arguments)
    await channel.queue_bind(name, DEAD, group)
    return name


async def declare_dead_count(channel: AbstractChannel, group: str) -> int:
    """How much the group's dead queue holds."""
    declared = await channel.queue_declare(f"mc.{group}.dead", passive=True)
    return declared.message_count or 0


async def declare_queue(channel: AbstractChannel, group: str, number: int) -> None:
    """The group's queue of a partition, bound for what only it is told."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": group,
        # Only together are these not at most once.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    await channel.queue_declare(queue_of(group, number), durable=True, arguments=arguments)
    await channel.queue_bind(queue_of(group, number), EXCHANGE, control_key(group, number))


def control_key(group: str, number: int) -> str:
    """The routing key of what a group's queue and its log are told, and nobody else."""
    return f"mc-control.{group}.p{number}"
