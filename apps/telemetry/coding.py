"""Content codings of HTTP bodies: gzip, deflate, lz4 (frame) and zstd; what comes out is bounded.

Pure. Knows nothing of HTTP beyond the names in Content-Encoding and Accept-Encoding.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STEP = 1024 * 1024
SLICE = 64 * 1024
"""Bytes given to zlib at once: what a member leaves unread is copied at its end."""
MOST_MEMBERS = 4096
"""Streams in one body; each costs what many bytes of one do."""


class CodingError(ValueError):
    """The body is not what its Content-Encoding says."""


class TooLarge(CodingError):
    """The body unpacks to more than the bound."""


class Unsupported(CodingError):
    """A coding that is not spoken here."""


def decode(data: bytes, coding: str, limit: int) -> bytes:
    """Unpack ``data``; never holds more than ``limit`` + 1 MiB of output."""
    coding = coding.strip().lower()
    if coding in {"", "identity"}:
        return data
    try:
        if coding in {"gzip", "x-gzip", "deflate"}:
            return _inflate(data, 47 if coding != "deflate" else 15, limit)
        if coding == "lz4":
            return _drain(lz4.frame.LZ4FrameDecompressor(), data, limit)
        if coding == "zstd":
            return _drain(zstd.ZstdDecompressor(), data, limit)
    except (zlib.error, RuntimeError, EOFError, zstd.ZstdError) as error:
        raise CodingError(f"The body is not valid {coding}: {error}.") from None
    raise Unsupported(f"Content-Encoding {coding!r} is not supported; use gzip, deflate, lz4 or zstd.")


def encode(data: bytes, coding: str) -> bytes:
    """Pack ``data`` by one of the codings that ``choose`` returns."""
    return _ENCODERS[coding](data)


def choose(accepted: str) -> str:
    """The cheapest coding that ``Accept-Encoding`` allows, or an empty string (RFC 9110 section 12.5.3)."""
    names = {
        part.partition(";")[0].strip().lower()
        for part in accepted.split(",")
        if part.partition(";")[2].replace(" ", "") not in {"q=0", "q=0.0"}
    }
    return next((name for name in ("lz4", "zstd", "gzip", "deflate") if name in names), "")


_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "lz4": lambda data: bytes(lz4.frame.compress(data)),
    "zstd": lambda data: bytes(zstd.compress(data, 1)),
    "gzip": lambda data: gzip.compress(data, compresslevel=1),
    "deflate": lambda data: zlib.compress(data, 1),
}


def _inflate(data: bytes, window: int, limit: int) -> bytes:
    parts: list[bytes] = []
    size, members, read = 0, 1, 0
    machine, waiting = zlib.decompressobj(window), b""
    while True:
        if not waiting:
            waiting = data[read : read + SLICE]
            read += len(waiting)
        part = machine.decompress(waiting, STEP)
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body unpacks to more than {limit} bytes.")
        parts.append(part)
        if not machine.eof:
            waiting = machine.unconsumed_tail
            if not part and not waiting and read == len(data):
                raise EOFError("it ends too early")
            continue
        waiting = machine.unused_data
        if not waiting and read == len(data):
            return b"".join(parts)
        members += 1
        if members > MOST_MEMBERS:
            raise TooLarge(f"The body has more than {MOST_MEMBERS} streams.")
        machine = zlib.decompressobj(window)  # RFC 1952 section 2.2: members follow one another.


def _drain(machine: Any, data: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        part = machine.decompress(data, max_length=STEP)
        data = b""
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body unpacks to more than {limit} bytes.")
        parts.append(part)
        if machine.eof:
            return b"".join(parts)
        if machine.needs_input and not part:
            raise EOFError("it ends too early")
