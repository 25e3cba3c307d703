"""What both sides of Kafka know: what a URL says, names, and which errors mean that the broker is away."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Collection
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from .base import ANSWER_S, MAX_BYTES, PARTITIONS, TransportAway

TOPIC_PREFIX: Final = "mc.events."
DEAD_PREFIX: Final = "mc.dead."
MESSAGE_BYTES: Final = 2 * MAX_BYTES
"""What our topics take: the most of an event, its headers' names and a batch's frame."""
COPIES: Final = 3
"""Of each topic, where there are so many brokers."""
ANSWER_MS: Final = int(ANSWER_S * 1000) - 500
"""The driver gives up by itself a little before we do."""

AWAY = (KafkaError, OSError, TimeoutError)

# That a broker is away we say ourselves, once; the driver says it at every try.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

T = TypeVar("T")


class UrlError(ValueError):
    """The URL says something that Kafka has no use for."""


@dataclass(frozen=True)
class Place:
    """Where the brokers are, and how they are spoken to: the driver's own options."""

    options: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> Place:
        """``kafka://user:password@host:port,host:port?sasl=SCRAM-SHA-256``, ``kafkas://`` for TLS, whose options are
        ``cafile``, ``certfile`` and ``keyfile``. UrlError."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        query = dict(parse_qsl(parts.query))
        if not hosts or query.keys() - {"sasl", "cafile", "certfile", "keyfile"}:
            raise UrlError(
                "A Kafka URL is kafka://host:port,host:port with the options sasl, cafile, certfile, keyfile."
            )
        secure = parts.scheme == "kafkas"
        options: dict[str, Any] = {
            "bootstrap_servers": hosts.split(","),
            "security_protocol": ("SASL_" if login else "") + ("SSL" if secure else "PLAINTEXT"),
        }
        if login:
            user, _, password = login.partition(":")
            options["sasl_mechanism"] = query.get("sasl", "PLAIN")
            options["sasl_plain_username"], options["sasl_plain_password"] = unquote(user), unquote(password)
        if secure:
            context = ssl.create_default_context(cafile=query.get("cafile"))
            if "certfile" in query:
                context.load_cert_chain(query["certfile"], query.get("keyfile"))
            options["ssl_context"] = context
        return cls(options)


async def ask(work: Awaitable[T], within: float = ANSWER_S) -> T:
    """The answer; TransportAway when there is none within so many seconds."""
    try:
        async with asyncio.timeout(within):
            return await work
    except AWAY as error:
        raise away(error) from None


def away(error: BaseException) -> TransportAway:
    """What the seam's callers are told."""
    return TransportAway(f"Kafka does not answer: {error or type(error).__name__}")


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
