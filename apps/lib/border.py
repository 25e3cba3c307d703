"""The one border between Redis and what a process believes: opened, decoded to a frozen value, or passed over.

Redis holds what several releases of ours write, and whatever else anybody put there. A message that is not sealed
for its place is refused; one that is, and doesn't read, is malformed; a key of another type than ours is cleared
away, since its owner could not write to it either. Each is counted by name and costs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import redis
import redis.asyncio
import redis.exceptions

from apps.lib import clock, wire
from services.kit.seal import Opened, Refused, Seal, place

T = TypeVar("T")

REFUSED = "mc.redis.refused"
MALFORMED = "mc.redis.malformed"

FUTURE = 86_400.0
"""Seconds by which a stream may run ahead of our clock: the ids of its entries are times."""

Text = bytes | str


class Border:
    """What one process says on Redis and takes from there, under one seal."""

    def __init__(self, seal: Seal, count: Callable[[str, str], None]) -> None:
        """``count`` adds one to a metric (REFUSED or MALFORMED) for a name of apps.lib.wire."""
        self._seal = seal
        self._count = count
        self.passed_over = 0
        """Messages that were refused or malformed since the start."""

    # -- saying ---------------------------------------------------------------------------------------

    def close(self, message: msgspec.Struct, name: str, field: str = "") -> bytes:
        """``message`` sealed for its place: the key or channel ``name``, and the field or entry in it."""
        return self._seal.close(place(name, field), msgspec.json.encode(message), clock.wall())

    # -- believing ------------------------------------------------------------------------------------

    def open(
        self, shape: type[T], data: Text | None, name: str, field: Text = "", *, within: float | None = None
    ) -> T | None:
        """The message under ``name``; None when there is none to believe. ``within``: seconds for which it counts."""
        if data is None:
            return None
        try:
            found = self._seal.open(place(name, text(field)), data)
            if within is not None and not abs(clock.wall() - found.at) <= within:
                raise Refused("too old")
        except Refused:
            self.pass_over(REFUSED, name)
            return None
        return self._decode(shape, found, name)

    def open_all(self, shape: type[T], entries: Mapping[Text, Text], name: str) -> dict[str, T]:
        """The believable entries of the hash ``name``, by field."""
        found = {}
        for field, data in entries.items():
            message = self.open(shape, data, name, field)
            if message is not None:
                found[text(field)] = message
        return found

    def pass_over(self, metric: str, name: str) -> None:
        """Count something that is not believed."""
        self.passed_over += 1
        self._count(metric, name)

    def _decode(self, shape: type[T], found: Opened, name: str) -> T | None:
        try:
            return msgspec.json.decode(found.body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.pass_over(MALFORMED, name)
            return None

    # -- keys that are not what they should be ----------------------------------------------------------

    def clear(self, client: redis.Redis) -> None:
        """Delete our keys that have another type than ours, and streams whose next entry has no number left."""
        with client.pipeline(transaction=False) as pipe:
            _look(pipe)
            wrong = self._wrong(pipe.execute(raise_on_error=False))
        if wrong:
            client.delete(*wrong)

    async def clear_async(self, client: redis.asyncio.Redis) -> None:
        """The same, on a loop."""
        pipe = client.pipeline(transaction=False)
        _look(pipe)
        wrong = self._wrong(await pipe.execute(raise_on_error=False))
        if wrong:
            await client.delete(*wrong)

    def _wrong(self, found: list[Any]) -> list[str]:
        now = clock.wall()
        wrong = []
        for name, kind, newest in zip(wire.TYPES, found[::2], found[1::2], strict=True):
            if isinstance(kind, Exception):
                raise kind
            other = text(kind) not in {"none", wire.TYPES[name]}
            if other or (isinstance(newest, list) and any(out_of_reach(text(entry), now) for entry, _ in newest)):
                self.pass_over(MALFORMED, name)
                wrong.append(name)
        return wrong


def _look(pipe: Any) -> None:
    for name in wire.TYPES:
        pipe.type(name)
        pipe.xrevrange(name, count=1)  # refused where it is no stream


def is_spoilt(error: Exception) -> bool:
    """Whether Redis refused a command because of what stands under the key: no outage, and it won't pass by itself."""
    return isinstance(error, redis.exceptions.ResponseError) and any(
        words in str(error) for words in ("WRONGTYPE", "exhausted the last possible ID", "equal or smaller than")
    )


def out_of_reach(entry: str, now: float) -> bool:
    """Whether no entry of ours can come after this one for days: a stranger has brought the stream to its end."""
    return stream_time(entry) > (now + FUTURE) * 1000


def stream_time(entry: str) -> int:
    """The milliseconds in a stream entry's id."""
    return int(entry.partition("-")[0])


def text(value: Text) -> str:
    """A name as Redis gave it; what is no UTF-8 becomes something that is no name of ours."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
