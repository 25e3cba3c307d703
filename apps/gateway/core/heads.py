"""Heads as they are read: llhttp is given one head and not a byte more.

Owns the bound on a head's size and number of fields and the check of the protocol's version. llhttp, by
httptools and in its strict mode, does the reading; where the body ends is apps.gateway.core.framing's. A parser
that did not say by itself that its message was over at the head's end is replaced before the next message.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from apps.gateway.core.framing import FramingError, too_large
from apps.gateway.core.headers import MAX_FIELDS, MAX_HEAD, Fields

_END = b"\r\n\r\n"
_VERSION = re.compile(rb"HTTP/[0-9]+(\.[0-9]+)?")


class _Reader:
    """What both directions share."""

    __slots__ = ("_complete", "_parser", "_tail", "fields", "keep", "size", "whole")

    def __init__(self) -> None:
        self._parser: Any = self._make()
        self.begin()

    def _make(self) -> Any:
        raise NotImplementedError

    def begin(self) -> None:
        """Make ready for the next head."""
        self.fields: Fields = []
        self.size = 0
        """Bytes of this head so far."""
        self.whole = False
        self.keep = False
        """The sender would use the connection again, as far as the head can tell."""
        self._tail = b""
        self._complete = False

    def renew(self) -> None:
        """Make ready for another message after a whole one."""
        if not self._complete:
            self._parser = self._make()
        self.begin()

    def close(self) -> None:
        """The connection is gone. The parser holds our methods: the two would keep each other alive."""
        self._parser = None

    def feed(self, data: bytes, at: int) -> int:
        """Read from ``at`` to the end of the head, or of ``data``; where it stopped."""
        stop = self._stop(data, at)
        self.size += stop - at
        if self.size > MAX_HEAD:
            raise too_large("The head is")
        piece = data if stop - at == len(data) else data[at:stop]
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # An offer to switch protocols may be ignored (RFC 9110 section 7.8); this parser is past use.
            self._complete = False
        except httptools.HttpParserError:
            raise self._unreadable() from None
        if not self.whole:
            self._tail = (self._tail + piece)[-3:]
        elif len(self.fields) > MAX_FIELDS:
            raise FramingError(f"The head has over {MAX_FIELDS} fields.", 431, "headers_too_large")
        return stop

    def _stop(self, data: bytes, at: int) -> int:
        tail = self._tail
        if tail:
            found = (tail + data[at : at + 3]).find(_END)
            if found >= 0:
                return at + found + 4 - len(tail)
        found = data.find(_END, at)
        return len(data) if found < 0 else found + 4

    def _unreadable(self) -> FramingError:
        return FramingError("The message is not well-formed HTTP/1.1.")

    # -- httptools --------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self._complete = True


class RequestReader(_Reader):
    """Requests' heads."""

    __slots__ = ("_line", "method", "old", "target")

    def _make(self) -> Any:
        return httptools.HttpRequestParser(self)

    def begin(self) -> None:
        """See _Reader."""
        _Reader.begin(self)
        self.target = b""
        self.old = False
        """It speaks HTTP/1.0."""
        self._line: bytes | None = b""
        """The request line as far as it has come; None once its version has been seen."""

    def feed(self, data: bytes, at: int) -> int:
        """See _Reader. Only HTTP/1.0 and HTTP/1.1 are read: 505 for another version (RFC 9110 section 15.6.6)."""
        if self._line is not None:
            end = data.find(b"\r\n", at)
            if end > 8 and not self._line and data[end - 9 : end] == b" HTTP/1.1":
                self._line = None
            else:
                self._note(data, at)
        stop = _Reader.feed(self, data, at)
        if self.whole and self._line is not None:
            raise self._unreadable()
        return stop

    def _note(self, data: bytes, at: int) -> None:
        line = ((self._line or b"") + data[at : at + MAX_HEAD]).lstrip(b"\r\n")
        line, end, _ = line.partition(b"\r\n")
        self._line = line + end if end else line
        if end and line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
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

    __slots__ = ("status",)

    def _make(self) -> Any:
        return httptools.HttpResponseParser(self)

    @property
    def old(self) -> bool:
        """It speaks HTTP/1.0, or something older."""
        return bool(self._parser.get_http_version() != "1.1")

    def on_headers_complete(self) -> None:
        self.whole = True
        self.status: int = self._parser.get_status_code()
        self.keep = self._parser.should_keep_alive()
