"""What Twisted, below Daphne and Django, refuses by itself: with a problem document instead of nothing.

Owns four hooks of ``twisted.web.http``. Twisted offers no other way in from here: Daphne builds
the channel, and what is refused never becomes a request.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.web.http import HTTPChannel, Request

from apps.lib import refused
from services.kit.problem import CONTENT_TYPE, Problem

LONGEST_BODY = 16 * 1024 * 1024
"""Bytes of any request to the control process; past it nothing more is read. The API's own limit is lower."""

TOO_LARGE = Problem(413, "body_too_large", f"The body is larger than the {LONGEST_BODY:,} bytes that are read here.")


def install() -> None:
    """Set the hooks, once, before the first connection."""
    HTTPChannel.lineLengthExceeded = _line_too_long
    HTTPChannel._respondToBadRequestAndDisconnect = _bad_request
    HTTPChannel.allHeadersReceived = _headers_read(HTTPChannel.allHeadersReceived)
    Request.handleContentChunk = _chunk_read(Request.handleContentChunk)


def _line_too_long(channel: Any, line: bytes) -> None:
    first = bool(getattr(channel, "_HTTPChannel__first_line", False))
    what, status, slug = ("The address", 414, "uri_too_long") if first else ("A header", 431, "headers_too_large")
    refuse(channel, Problem(status, slug, f"{what} is longer than the {channel.MAX_LENGTH:,} bytes that are read."))


def _bad_request(channel: Any) -> None:
    if getattr(channel, "_receivedHeaderSize", 0) > channel.totalHeadersSize:
        detail = f"The headers are longer than the {channel.totalHeadersSize:,} bytes that are read."
        refuse(channel, Problem(431, "headers_too_large", detail))
    elif getattr(channel, "_receivedHeaderCount", 0) > channel.maxHeaders:
        detail = f"There are more than the {channel.maxHeaders} headers that are read."
        refuse(channel, Problem(431, "headers_too_large", detail))
    else:
        refuse(channel, Problem(400, "malformed", "This is not a well-formed HTTP request (RFC 9112)."))


def _headers_read(then: Any) -> Any:
    def read(channel: Any) -> None:
        if channel.length is not None and channel.length > LONGEST_BODY:
            refuse(channel, TOO_LARGE)
        else:
            then(channel)

    return read


def _chunk_read(then: Any) -> Any:
    def read(request: Any, data: bytes) -> None:
        if request.content.tell() + len(data) > LONGEST_BODY:
            refuse(request.channel, TOO_LARGE)
        else:
            then(request, data)

    return read


def refuse(channel: Any, problem: Problem) -> None:
    """Answer with ``problem``, close, and read nothing more."""
    refused.count(problem)
    body = problem.encode()
    fields = "".join(f"{name}: {value}\r\n" for name, value in problem.fields().items())
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{fields}\r\n"
    )
    channel.transport.write(head.encode() + body)
    channel.loseConnection()
    # Whatever else is under way on this connection is not ours to read.
    channel.dataReceived = channel.lineReceived = channel.rawDataReceived = lambda *data: None
