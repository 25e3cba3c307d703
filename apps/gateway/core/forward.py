"""Heads as they are sent on: the request toward an instance, the answer toward the client. Pure bytes.

Owns RFC 9112 section 6 framing on the way out and the order of fields; what may pass was decided in
apps.gateway.core.headers.
"""

from __future__ import annotations

from binascii import hexlify
from http import HTTPStatus
from typing import Literal, Protocol

from apps.gateway.core.headers import VIA_LINE, RequestHead, ResponseHead

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Framing = Literal["none", "length", "chunked", "close"]
"""How a body's end is told: there is no body, by Content-Length, by chunks, by closing the connection."""

LAST_CHUNK = b"0\r\n\r\n"


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def lines(head: RequestHead | ResponseHead) -> bytes:
    """The fields that go on as they are, ready to send."""
    return b"\r\n".join(head.lines) + b"\r\n" if head.lines else b""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; ``data`` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Outgoing(Protocol):
    """A request as an instance is to see it; the same for every attempt."""

    method: bytes
    target: bytes
    """Path and query."""
    head: RequestHead
    origin: bytes
    """Who asks, as lines ready to send: X-Forwarded-For and X-Forwarded-Proto."""
    credentials: bytes
    """X-Consumer, and what of the client's own the route sends on; lines ready to send."""
    trace_id: bytes
    span_id: bytes
    sampled: bool


def request_head(request: Outgoing, instance: bytes) -> bytes:
    """The request's head for an instance, whose own lines are ``instance``."""
    head = request.head
    parts = [
        request.method,
        b" ",
        request.target,
        b" HTTP/1.1\r\n",
        instance,
        lines(head),
        VIA_LINE,
        request.origin,
        b"X-Forwarded-Host: %b\r\ntraceparent: 00-%b-%b-0%d\r\n"
        % (head.host, request.trace_id, hexlify(request.span_id), request.sampled),
        request.credentials,
    ]
    if head.hops is not None:
        parts.append(b"Max-Forwards: %b\r\n" % head.hops)
    if head.coding is not None:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.length is not None:
        parts.append(b"Content-Length: %b\r\n" % head.length)
    parts.append(b"\r\n")
    return b"".join(parts)


def framing(status: int, head: ResponseHead, *, head_only: bool, complete: bool, old: bool) -> Framing:
    """How the answer's body goes to the client (RFC 9112 section 6.3). ``complete``: all of it is here already."""
    if head_only or status in {204, 304}:
        return "none"
    if head.length is not None or complete:
        return "length"
    return "close" if old else "chunked"


def answer_head(
    status: int,
    head: ResponseHead,
    how: Framing,
    size: int,
    date: bytes,
    trace_id: bytes,
    extra: bytes,
    *,
    keep: bool,
    old: bool,
) -> list[bytes]:
    """An instance's answer as the client will read it, in parts. ``size`` is the body's when it is complete."""
    parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, lines(head)]
    if not head.date:
        parts.append(date)
    parts += (b"X-Trace-Id: ", trace_id, b"\r\n", extra)
    if how == "length":
        parts += (b"Content-Length: ", head.length if head.length is not None else b"%d" % size, b"\r\n")
    elif how == "chunked":
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif how == "none" and head.length is not None and status != 204:
        parts += (b"Content-Length: ", head.length, b"\r\n")  # what a GET would have got
    if not keep:
        parts.append(b"Connection: close\r\n")
    elif old:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    return parts


def own_answer(
    status: int, content_type: str, body: bytes, date: bytes, trace_id: bytes, extra: bytes, *, keep: bool, old: bool
) -> bytes:
    """An answer of the gateway's own: its head, for the body to follow unless the method was HEAD."""
    head = ResponseHead()
    head.lines = [b"Cache-Control: no-store"]
    if content_type:
        head.lines.append(b"Content-Type: " + content_type.encode())
    how = framing(status, head, head_only=False, complete=True, old=old)
    return b"".join(answer_head(status, head, how, len(body), date, trace_id, extra, keep=keep, old=old))
