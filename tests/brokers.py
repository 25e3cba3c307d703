"""The brokers that carry events, for the suite that all of them pass: each started when a test first asks for it.

What only a test does to a broker, past the Transport seam, is here too: put odd entries into it, and look into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import redis

from services.kit.events.transport import redis_wire
from tests import machine
from tests.redis_server import RedisServer


class Broker(Protocol):
    """A real broker in a process of its own, on its own data."""

    url: str

    def start(self) -> Any:
        """Start it (again), and wait until it answers."""

    def kill(self) -> None:
        """SIGKILL, and wait for it."""

    def put(self, topic: str, entries: list[Entry]) -> None:
        """Have somebody else's producer write ``entries``, in order, into one partition."""

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        """An event's attributes as its binary mode names them."""

    def seen(self, topic: str) -> list[Entry]:
        """What is in the topic, as another program reads it."""

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        """What the group put aside: the bytes, and what is noted with them."""


@dataclass(frozen=True)
class Entry:
    """A message as brokers know it: what Redis has no word for is left out there."""

    body: bytes
    headers: Mapping[str, str]
    key: str = ""


class Redis(RedisServer):
    """Redis, with its append-only file on."""

    def __init__(self, folder: Path, binary: str = "") -> None:
        super().__init__(folder, durable=True, binary=binary)

    def put(self, topic: str, entries: list[Entry]) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.sadd(redis_wire.TOPICS, topic)
            for entry in entries:
                fields: dict[Any, Any] = {"e": entry.body} if entry.body else {}
                client.xadd(redis_wire.stream_of((topic, 3)), fields | dict(entry.headers) or {"nothing": ""})

    def named(self, attributes: Mapping[str, str]) -> Mapping[str, str]:
        return attributes  # It has no binary mode: fields that nobody reads.

    def seen(self, topic: str) -> list[Entry]:
        found = []
        with redis.Redis.from_url(self.url) as client:
            for place in redis_wire.places_of(topic):
                rows: Any = client.xrange(redis_wire.stream_of(place))
                found += [Entry(fields[b"e"], {"t": fields[b"t"].decode()}) for _, fields in rows]
        return found

    def dead(self, group: str) -> list[tuple[bytes, Mapping[str, str]]]:
        with redis.Redis.from_url(self.url) as client:
            rows: Any = client.xrange(redis_wire.DEAD_PREFIX + group)
        return [
            (fields.pop(b"e"), {name.decode(): value.decode() for name, value in fields.items()}) for _, fields in rows
        ]


KINDS: dict[str, Callable[[Path], Broker]] = {
    "redis": Redis,
    "redis of the machine": lambda folder: Redis(folder, machine.redis() or ""),
}
MARKERS = {"redis of the machine": "redis"}
"""What the machine must have for it."""
