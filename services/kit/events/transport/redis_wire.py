"""What both sides of Redis Streams know: the names of keys, and which errors mean that the server is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import redis.asyncio
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import TimeoutError as RedisSilent

from .base import ANSWER_S, PARTITIONS, Place, Start, TransportAway
from .secure import BrokerError, hint, warn_unproven, why

STREAM_PREFIX: Final = "mc:events:"
TOPICS: Final = "mc:topics"
"""Set of the topics seen, so that a pattern over every domain finds its streams."""
GROUPS: Final = "mc:groups"
"""Hash of the groups that ever subscribed, each with where it began."""
MEMBERS_PREFIX: Final = "mc:members:"
"""Sorted set per group: its living members, by when they are given up."""
LEASE_PREFIX: Final = "mc:lease:"
"""String with expiry per group and partition: the member that reads it."""
DEAD_PREFIX: Final = "mc:dead:"
"""Stream per group: what its members put aside."""

TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
OPTIONS: Final = frozenset({"db", "protocol", "client_name", "max_connections", "health_check_interval"})
FALSE: Final = frozenset({"0", "f", "false", "n", "no"})

GONE = (RedisGone, RedisSilent, TimeoutError, OSError)
"""Redis does not answer."""
AWAY = (
    *GONE,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
    NoPermissionError,
)
"""Errors of the server as a whole, not of one command: gone, full, read-only, failing over, with no rights for us."""
AWAY_WORDS = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "LOADING", "BUSY ", "NOPERM", "NOAUTH")
ANY = (RedisError, TimeoutError, OSError)
"""Of a command of ours about the group: whatever its error is, it may be asked again."""

T = TypeVar("T")


def check_url(url: str) -> str:
    """Its scheme, when its options are ones that every client of Redis knows; BrokerError."""
    parts = urlsplit(url)
    secure = parts.scheme == "rediss"
    given = dict(parse_qsl(parts.query))
    for name in given.keys() - OPTIONS:
        if not name.startswith("ssl_"):
            raise BrokerError(f"A {parts.scheme}:// URL has no option {name}; of TLS it has {', '.join(TLS_OPTIONS)}.")
        if not secure:
            raise BrokerError(f"The option {name} is for TLS, so for rediss:// and not {parts.scheme}://.")
        if name not in TLS_OPTIONS:
            raise BrokerError(f"A rediss:// URL has no option {name}; of TLS it has {', '.join(TLS_OPTIONS)}.")
    if given.get("ssl_cert_reqs", "required") != "required" or given.get("ssl_check_hostname", "yes").lower() in FALSE:
        warn_unproven()
    return parts.scheme


def away(error: Exception, scheme: str = "") -> TransportAway:
    """What the seam's callers are told; ``scheme`` of the URL, while it isn't known to be the right one."""
    return TransportAway(f"Redis does not answer: {why(error)}{hint(error, scheme) if scheme else ''}")


async def ask(work: Awaitable[T]) -> T:
    """The answer; TransportAway when there is none in time, or an error of whatever kind."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await work
    except ANY as error:
        raise away(error) from None


def stream_of(place: Place) -> str:
    """The stream of a partition."""
    return f"{STREAM_PREFIX}{place[0]}:{place[1]}"


def places_of(topic: str) -> list[Place]:
    """Its partitions."""
    return [(topic, number) for number in range(PARTITIONS)]


def after(start: Start) -> str:
    """The entry after which to read: ids are milliseconds and a count."""
    if isinstance(start, str):
        return {"earliest": "0", "latest": "$"}[start]
    return f"{max(int(start * 1000) - 1, 0)}-{2**64 - 1}"


async def topics_of(client: redis.asyncio.Redis) -> set[str]:
    """The topics seen."""
    members: set[Any] = await client.smembers(TOPICS)
    return {topic.decode() for topic in members}
