"""Events in messages that have headers: CloudEvents' bindings for Kafka and RabbitMQ. Pure.

We write binary mode: an attribute a header, the data as the body. We read that and structured mode.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..cloudevent import CloudEvent, EventError, attributes, check_kind, decode_binary, encode_data
from .base import MAX_BYTES, Rejected, Wanted, read, too_large

STRUCTURED = "application/cloudevents"
"""What the content type of structured mode begins with."""
CONTENT_TYPE = "datacontenttype"
PLAIN = "application/json"
MAX_HEAD = 96 * 1024
"""Bytes of all attributes: RabbitMQ has them in one frame, of 128 KiB as it comes, and ends the connection of whoever
sends a longer one."""


def binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """The event's attributes by name (``datacontenttype`` among them), and its body; Rejected when it is too large."""
    named, body = attributes(event), encode_data(event)
    kind = named[CONTENT_TYPE]
    if kind and kind != PLAIN:
        try:
            check_kind(kind)
        except EventError as error:
            raise Rejected(str(error)) from None
    head = sum(len(name) + len(value.encode()) for name, value in named.items())
    if head > MAX_HEAD:
        raise Rejected(f"The event's attributes are {head:,} bytes; the most is {MAX_HEAD:,}. Send them as its data.")
    if len(body) + head > MAX_BYTES:
        raise too_large(len(body) + head)
    return named, body


def unbound(
    headers: Iterable[tuple[str, object]], prefix: str, content_type: str, body: bytes, wanted: Wanted, key: str = ""
) -> tuple[CloudEvent | None, str] | None:
    """The event of a message, or None and why there is none; None alone for one that is not wanted.

    ``prefix`` is what names of attributes begin with, ``key`` the partition key that the broker knows of.
    """
    if content_type.startswith(STRUCTURED):
        event, fault = read(body)
    else:
        given = {name[len(prefix) :].lower(): value for name, value in headers if name.lower().startswith(prefix)}
        if str(given.get("type", "")) not in wanted and given.get("type"):
            return None
        event, fault = _binary(given, content_type, body, key)
    return None if event is not None and event.type not in wanted else (event, fault)


def _binary(given: dict[str, object], content_type: str, body: bytes, key: str) -> tuple[CloudEvent | None, str]:
    if not given:
        return None, "The message has no CloudEvents headers."
    size = len(body) + sum(len(name) + len(str(value)) for name, value in given.items())
    if size > MAX_BYTES:
        return None, f"The message is {size:,} bytes; the most is {MAX_BYTES:,}."
    named: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, bytes | bytearray):
            return None, f"The header of {name} is not text in UTF-8."
        named[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if content_type:
        named[CONTENT_TYPE] = content_type
    if key:
        named.setdefault("partitionkey", key)
    try:
        return decode_binary(named, body), ""
    except EventError as error:
        return None, str(error)
