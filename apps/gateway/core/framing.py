"""Where a message's body ends (RFC 9112 sections 6 and 7): by length, by chunks, or with the connection.

Ours, and not the parser's, because a parser that also looks for the next message decides by itself where this
one ends: llhttp ends it at the head when the head offers an upgrade. Here a body takes what is its own and
says where it stopped. Whatever is not body (chunk extensions, trailers) is paid from one budget.
"""

from __future__ import annotations

import re
from typing import Protocol

from apps.gateway.core.headers import FramingError, too_large

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
_FIELD_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_SIZE_LINE_PLAIN = 18
"""Bytes of a size line that need no budget: sixteen digits and the line's end."""


class Body(Protocol):
    """A body as it comes in."""

    done: bool
    size: int
    """Bytes of content so far."""

    def feed(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Take this body's own of ``data`` from ``at``, content into ``out``; where it stopped."""


class Sized:
    """``Content-Length`` says how much."""

    __slots__ = ("_left", "done", "size")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.size = 0

    def feed(self, data: bytes, at: int, out: list[bytes]) -> int:
        """See Body."""
        there = len(data) - at
        left = self._left
        if there < left:
            if there:
                out.append(data[at:] if at else data)
            self._left = left - there
            self.size += there
            return len(data)
        if left:
            out.append(data[at : at + left])
        self._left = 0
        self.size += left
        self.done = True
        return at + left


class Endless:
    """The connection's end is the body's (RFC 9112 section 6.3, a response without length or chunks)."""

    __slots__ = ("done", "size")

    def __init__(self) -> None:
        self.done = False
        self.size = 0

    def feed(self, data: bytes, at: int, out: list[bytes]) -> int:
        """See Body."""
        if at < len(data):
            out.append(data[at:] if at else data)
            self.size += len(data) - at
        return len(data)


_LINE, _DATA, _DATA_END, _TRAILERS = range(4)


class Chunked:
    """The chunked coding (RFC 9112 section 7.1). Extensions and trailers are read, paid for and dropped."""

    __slots__ = ("_at", "_budget", "_left", "_line", "done", "size")

    def __init__(self, budget: int) -> None:
        """``budget``: most bytes of extensions and trailers."""
        self.done = False
        self.size = 0
        self._budget = budget
        self._at = _LINE
        self._left = 0
        self._line = bytearray()
        """The part of a line that has come."""

    def feed(self, data: bytes, at: int, out: list[bytes]) -> int:
        """See Body."""
        end = len(data)
        while at < end:
            if self._at == _DATA:
                stop = min(end, at + self._left)
                out.append(data[at:stop])
                self.size += stop - at
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._at = _DATA_END
                continue
            stop = data.find(b"\n", at) + 1
            if not stop:
                self._line += data[at:]
                self._afford(len(self._line) - _SIZE_LINE_PLAIN)
                return end
            line = data[at:stop]
            at = stop
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            if self._take(line):
                self.done = True
                return at
        return at

    def _take(self, line: bytes) -> bool:
        """One line; True when it was the last."""
        if self._at == _DATA_END:
            if line != b"\r\n":
                raise FramingError("A chunk is longer than it said.")
            self._at = _LINE
        elif self._at == _LINE:
            found = _SIZE_LINE.fullmatch(line)
            if found is None:
                raise FramingError("A chunk's size can't be read.")
            self._spend(len(found[2]))
            self._left = int(found[1], 16)
            self._at = _DATA if self._left else _TRAILERS
        elif line == b"\r\n":
            return True
        else:
            self._spend(len(line))
            if _FIELD_LINE.fullmatch(line) is None:
                raise FramingError("A trailer field can't be read.")
        return False

    def _spend(self, cost: int) -> None:
        self._afford(cost)
        self._budget -= cost

    def _afford(self, cost: int) -> None:
        if cost > self._budget:
            raise too_large("Chunk extensions and trailers are")


def request_body(length: bytes | None, coding: bytes | None, *, old: bool, budget: int) -> Body | None:
    """How a request's body is framed; None when it has none (RFC 9112 section 6.3). ``old``: HTTP/1.0."""
    if coding is not None:
        if length is not None:
            raise FramingError("The request has both Content-Length and Transfer-Encoding.")
        check_chunked(coding, old=old)
        return Chunked(budget)
    if length is None:
        return None
    size = content_length(length)
    return Sized(size) if size else None


def response_body(
    status: int, length: bytes | None, coding: bytes | None, *, head_only: bool, old: bool, budget: int
) -> Body | int:
    """How an answer's body is framed: so many bytes, 0 when it has none, or by what it says (RFC 9112 section 6.3)."""
    if coding is not None and length is not None:
        raise FramingError("The answer has both Content-Length and Transfer-Encoding.")
    size = content_length(length) if length is not None else 0
    if head_only or status == 204 or status == 304:
        return 0
    if coding is not None:
        check_chunked(coding, old=old)
        return Chunked(budget)
    return Endless() if length is None else size


def content_length(value: bytes) -> int:
    """The length; FramingError for anything but digits (RFC 9110 section 8.6)."""
    if not value.isdigit() or len(value) > 18:
        raise FramingError("The Content-Length can't be read.")
    return int(value)


def check_chunked(coding: bytes, *, old: bool) -> None:
    """Let a body pass that is chunked and nothing else, which is all that can be carried on unchanged.

    FramingError: 400 where the end of the body can't be told (RFC 9112 section 6.3) or in HTTP/1.0, which knows no
    transfer codings (section 6.1); 501 for a coding below chunked, which would be lost on the way (section 6.1).
    """
    if old:
        raise FramingError("HTTP/1.0 has no Transfer-Encoding.")
    if coding.lower() == b"chunked":
        return
    codings = [each.strip(b" \t").lower() for each in coding.split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise FramingError("The Transfer-Encoding does not end in one chunked coding.")
    raise FramingError("No transfer coding but chunked is understood here.", 501, "coding_unsupported")
