"""What both sides of Kafka know: what a URL says, names, and which errors mean that the broker is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from . import secure as secured
from .base import ANSWER_S, MAX_BYTES, PARTITIONS, TransportAway
from .secure import BrokerError

TOPIC_PREFIX: Final = "mc.events."
DEAD_PREFIX: Final = "mc.dead."
MESSAGE_BYTES: Final = 2 * MAX_BYTES
"""What our topics take: the most of an event, its headers' names and a batch's frame."""
COPIES: Final = 3
"""Of each topic, where there are so many brokers."""
ANSWER_MS: Final = int(ANSWER_S * 1000) - 500
"""The driver gives up by itself a little before we do."""

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
"""Of SASL: how a user and password are shown."""

AWAY = (KafkaError, OSError, TimeoutError)

# That a broker is away we say ourselves, once; the driver says it at every try.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

T = TypeVar("T")


class Starts(Protocol):
    """A producer, consumer or administrator of the driver."""

    async def start(self) -> None:
        """Connect."""


@dataclass(frozen=True)
class Address:
    """Where the brokers are, and how they are spoken to: the driver's own options."""

    options: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> Address:
        """``kafka://user:password@host:port,host:port?sasl=SCRAM-SHA-256``, ``kafkas://`` for TLS. BrokerError."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        secure = parts.scheme == "kafkas"
        given = secured.options(parts, {"sasl"}, secure=secure)
        if not hosts:
            raise BrokerError("A Kafka URL is kafka://host:port,host:port, or kafkas:// for TLS.")
        options: dict[str, Any] = {
            "bootstrap_servers": hosts.split(","),
            "security_protocol": ("SASL_" if login else "") + ("SSL" if secure else "PLAINTEXT"),
        }
        if "sasl" in given and (given["sasl"] not in MECHANISMS or not login):
            raise BrokerError(
                f"The option sasl is one of {', '.join(MECHANISMS)}, with user:password@ before the host."
            )
        if login:
            user, _, password = login.partition(":")
            options["sasl_mechanism"] = given.get("sasl", "PLAIN")
            options["sasl_plain_username"], options["sasl_plain_password"] = unquote(user), unquote(password)
        if secure:
            options["ssl_context"] = secured.context(given)
        return cls(options)

    async def start(self, client: Starts) -> None:
        """Start it; TransportAway with the reason, of which the driver says only that there is one."""
        try:
            await client.start()
        except KafkaConnectionError as error:
            first = await self._first_error() or error
            scheme = "kafkas" if "ssl_context" in self.options else "kafka"
            raise TransportAway(f"{away(first)}{secured.hint(first, scheme)}") from None

    async def _first_error(self) -> BaseException | None:
        """Why the first of the brokers can't be spoken to; None when it can be, now."""
        host, port, _ = collect_hosts(self.options["bootstrap_servers"])[0]
        ours = {name: value for name, value in self.options.items() if name != "bootstrap_servers"}
        try:
            connection = await create_conn(host, port, request_timeout_ms=ANSWER_MS // 2, **ours)
        except AWAY as error:
            return error
        connection.close()
        return None


async def ask(work: Awaitable[T], within: float = ANSWER_S) -> T:
    """The answer; TransportAway when there is none within so many seconds."""
    try:
        async with asyncio.timeout(within):
            return await work
    except AWAY as error:
        raise away(error) from None


def away(error: BaseException) -> TransportAway:
    """What the seam's callers are told."""
    return TransportAway(f"Kafka does not answer: {secured.why(error)}")


async def make_topics(admin: AIOKafkaAdminClient, names: Collection[str], partitions: int = PARTITIONS) -> None:
    """Make those that are not there; KafkaError."""
    if not names:
        return
    brokers = (await admin.describe_cluster())["brokers"]
    configuration = {"max.message.bytes": str(MESSAGE_BYTES)}
    wanted = [
        NewTopic(name, partitions, min(COPIES, len(brokers)), topic_configs=configuration) for name in sorted(names)
    ]
    answer = await admin.create_topics(wanted, timeout_ms=ANSWER_MS)
    for _, code, *why in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise error(*why)
