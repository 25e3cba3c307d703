"""Heads as they are read: llhttp is given one head and not a byte more.

Owns the bound on a head's size and number of fields and the check of the protocol's version. llhttp, by
httptools and in its strict mode, does the reading; where the body ends is apps.gateway.core.framing's. A parser
that did not say by itself that its message was over at the head's end is replaced before the next message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httptools

from apps.gateway.core.framing import FramingError, too_large
from apps.gateway.core.headers import MAX_FIELDS, MAX_HEAD, Fields

_END = b"\r\n\r\n"
_VERSION = re.compile(rb"HTTP/[0-9]+(\.[0-9]+)?")


class _Reader:
    """What both directions share."""

    PARSER: Callable[[object], Any]

    keep: bool
    """The sender would use the connection again, as far as a whole head can tell."""
    old: bool
    """It speaks HTTP/1.0."""

    __slots__ = ("_complete", "_line", "_parser", "_tail", "fields", "keep", "old", "size", "whole")

    def __init__(self) -> None:
        self._parser: Any = None
        self._complete = False
        self._tail = b""
        """The last bytes that came, while a head is not whole: its end may have begun."""
        self._line: bytes | None = None
        """A request line as far as it has come; None when its version has been seen."""
        self.renew()

    def renew(self) -> None:
        """Make ready for the next head, after a whole one."""
        if not self._complete:
            self._parser = self.PARSER(self)
        self.fields: Fields = []
        self.size = 0
        """Bytes of this head so far."""
        self.whole = self._complete = False

    def close(self) -> None:
        """The connection is gone. The parser holds our methods: the two would keep each other alive."""
        self._parser = None

    def feed(self, data: bytes, at: int) -> int:
        """Read from ``at`` to the end of the head, or of ``data``; where it stopped."""
        end = len(data)
        stop = self._stop(data, at) if self._tail else data.find(_END, at) + 4
        if stop < 4 and not self._tail:
            stop = end
        self.size += stop - at
        if self.size > MAX_HEAD:
            raise too_large("The head is")
        piece = data if stop - at == end else data[at:stop]
        line = self._line
        if line is not None:
            found = piece.find(b"\r\n")
            if not line and found > 8 and piece[found - 9 : found] == b" HTTP/1.1":
                self.old = False
                self._line = None
            else:
                self._note(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # An offer to switch protocols may be ignored (RFC 9110 section 7.8); this parser is past use.
            self._complete = False
        except httptools.HttpParserError:
            raise self._unreadable() from None
        if not self.whole:
            self._tail = (self._tail + piece)[-3:]
            return stop
        self._tail = b""
        if self._line is not None:
            raise self._unreadable()
        if len(self.fields) > MAX_FIELDS:
            raise FramingError(f"The head has over {MAX_FIELDS} fields.", 431, "headers_too_large")
        return stop

    def _stop(self, data: bytes, at: int) -> int:
        """Where the head, or else the data, ends, when its last line may have begun in the piece before."""
        tail = self._tail
        found = (tail + data[at : at + 3]).find(_END)
        if found >= 0:
            return at + found + 4 - len(tail)
        found = data.find(_END, at)
        return len(data) if found < 0 else found + 4

    def _note(self, piece: bytes) -> None:
        """Look at the version as soon as it is there."""
        raise NotImplementedError

    def _unreadable(self) -> FramingError:
        return FramingError("The message is not well-formed HTTP/1.1.")

    # -- httptools --------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self._complete = True


class RequestReader(_Reader):
    """Requests' heads. Only HTTP/1.0 and HTTP/1.1 are read: 505 for another version (RFC 9110 section 15.6.6)."""

    PARSER = httptools.HttpRequestParser

    __slots__ = ("method", "target")

    def renew(self) -> None:
        """See _Reader."""
        if not self._complete:
            self._parser = self.PARSER(self)
        self.fields = []
        self.size = 0
        self.whole = self._complete = False
        self.target = b""
        self._line = b""

    def _note(self, piece: bytes) -> None:
        line, found, _ = ((self._line or b"") + piece).lstrip(b"\r\n").partition(b"\r\n")
        self._line = line + found
        if found and line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            self.old = line.endswith(b"0")
            self._line = None

    def _unreadable(self) -> FramingError:
        version = (self._line or b"").rstrip(b"\r\n").rpartition(b" ")[2]
        if _VERSION.fullmatch(version) and version not in {b"HTTP/1.0", b"HTTP/1.1"}:
            return FramingError("Only HTTP/1.1 and HTTP/1.0 are spoken here.", 505, "version_unsupported")
        return FramingError("The request is not well-formed HTTP/1.1.")

    def on_url(self, data: bytes) -> None:
        self.target += data

    def on_headers_complete(self) -> None:
        self.whole = True
        self.method: bytes = self._parser.get_method()
        self.keep = self._parser.should_keep_alive()


class ResponseReader(_Reader):
    """Answers' heads."""

    PARSER = httptools.HttpResponseParser

    __slots__ = ("status",)

    def ancient(self) -> bool:
        """It speaks HTTP/1.0, or something older."""
        return bool(self._parser.get_http_version() != "1.1")

    def on_headers_complete(self) -> None:
        self.whole = True
        self.status: int = self._parser.get_status_code()
        self.keep = self._parser.should_keep_alive()
