"""One event on the wire: CloudEvents 1.0 with our extensions, in structured mode (JSON) and for binary modes.

Pure. ``decode`` and ``decode_binary`` are the border: what passes them is a CloudEvent and has the types
it claims. The extensions are ``correlationid causationid traceparent partitionkey sequence``; any others
travel through untouched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec

from ..problem import Problem

SPEC_VERSION: Final = "1.0"
MAX_DATA = 1024 * 1024
"""Bytes of ``data`` as JSON. CloudEvents promises 64 KB everywhere; our own brokers carry sixteen times that."""
MAX_TYPE = 128
TYPE = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*){2,7}")

KEY: Final = "mckey"
PROOF: Final = "mcproof"
"""The attributes of who published it (``signing``): which key, and what it proves."""
OURS = {"correlationid", "causationid", "traceparent", "partitionkey", "sequence"}
CORE = {"specversion", "id", "type", "source", "subject", "time", "datacontenttype", "dataschema", "data"}
TEXTS = OURS - {"sequence"} | {"subject", "datacontenttype", "dataschema"}
KNOWN = CORE | OURS
EXTENSION = re.compile(r"[a-z0-9]{1,64}")
"""What an attribute may be called (CloudEvents section 3.1), and by a name that no binding cuts off."""
MAX_EXTENSIONS = 64
"""On the wire: with their values they fit into one frame of RabbitMQ's, which can't be split."""
MAX_OWN = 60
"""Of a publisher's choice; the others are for what is put on an event on its way."""

MAX_KIND = 255
"""Characters of a media type: RabbitMQ has it as a short string (AMQP 0-9-1 section 4.2.5.3)."""

MAX_TEXT = 256
"""Characters of an attribute: what a database can index, whoever chose it."""
NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What no attribute may hold (CloudEvents section 3.2)."""

FIRST_TIME, LAST_TIME = -62_135_596_800.0, 253_402_300_799.0
"""Wall-clock seconds that have a timestamp: the years 1 to 9999 in UTC (RFC 3339 section 1)."""

Extension = str | bool | int
"""The types of attributes that JSON tells apart, an integer having 32 bits; a binary mode has their canonical text
(section 3.2)."""


class EventError(ValueError):
    """The event can't be accepted; the message says what to change."""

    def problem(self) -> Problem:
        """The refusal as a publisher gets it."""
        return Problem(422, "event_refused", str(self))


class CloudEvent(msgspec.Struct, frozen=True):
    """An event as publisher, broker and subscriber see it. ``time`` is wall-clock seconds."""

    id: str
    type: str
    source: str
    time: float
    data: Any
    subject: str = ""
    partition_key: str = ""
    sequence: int = 0
    """Counts from 1 within one partition key; 0 when the publisher keeps no count."""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    datacontenttype: str = "application/json"
    dataschema: str = ""
    """Names the schema that ``data`` keeps to (``schema.uri``); empty when the publisher has none."""
    extensions: dict[str, Extension] = msgspec.field(default_factory=dict)

    @property
    def domain(self) -> str:
        """The type's first segment: which stream or topic carries it."""
        return self.type.partition(".")[0]


def check_type(event_type: str) -> None:
    """EventError unless ``event_type`` reads ``domain.noun.verb``."""
    if not isinstance(event_type, str) or len(event_type) > MAX_TYPE or not _reads_as_type(event_type):
        raise EventError(
            f"Event type {event_type!r} must be three or more lower-case words joined by dots, "
            f"such as business.transaction.recorded ({MAX_TYPE} characters at most)."
        )


@lru_cache(maxsize=4096)
def _reads_as_type(text: str) -> bool:
    return TYPE.fullmatch(text) is not None


def check_data(data: Any) -> bytes:
    """``data`` as JSON; EventError when it has no JSON form, no place in a database, or is too large."""
    try:
        # The standard types of JSON and nothing else: a silent str() of an unknown object would be
        # data that no subscriber can rely on.
        encoded = msgspec.json.encode(data)
        plain = msgspec.json.decode(encoded)
        # What is equal is the same but for lists that were tuples: only those are worth a look at each value.
        same = plain == data or _same(plain, data)
    except UnicodeEncodeError:
        raise EventError(
            "The event's data holds half of a surrogate pair (\\ud800 to \\udfff), which is no character."
        ) from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EventError(f"The event's data can't be written as JSON: {error}.") from None
    if len(encoded) > MAX_DATA:
        raise EventError(
            f"The event's data is {len(encoded):,} bytes; the most is {MAX_DATA:,}. Send a reference instead."
        )
    if not same:
        raise EventError("The event's data holds a value that JSON can't say, such as NaN or a key that is no text.")
    if rb"\u0000" in encoded and _holds_nul(plain):
        raise EventError("The event's data holds a NUL character, which no database here can store.")
    return encoded


def _same(plain: Any, data: Any) -> bool:
    if isinstance(data, dict):
        return isinstance(plain, dict) and all(
            isinstance(key, str) and key in plain and _same(plain[key], value) for key, value in data.items()
        )
    if isinstance(data, list | tuple):
        return isinstance(plain, list) and all(_same(one, other) for one, other in zip(plain, data, strict=True))
    return isinstance(data, type(plain)) and bool(plain == data)


def _holds_nul(data: Any) -> bool:
    if isinstance(data, dict):
        return any(_holds_nul(key) or _holds_nul(value) for key, value in data.items())
    if isinstance(data, list):
        return any(map(_holds_nul, data))
    return isinstance(data, str) and "\x00" in data


@lru_cache(maxsize=1024)
def timestamp(seconds: float) -> str:
    """A wall-clock second as RFC 3339 writes it. Events that were published together have one time."""
    at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return f"{at[:-6]}Z"


Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]


class _Usual(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The members of nearly every event, which are signed and of no other extension: written and read in one step,
    where a look at each member takes three times as long."""

    specversion: Literal["1.0"]
    id: Name
    type: Name
    source: Name
    time: Text
    datacontenttype: Text
    sequence: Text | msgspec.UnsetType = msgspec.UNSET
    partitionkey: Text = ""
    correlationid: Text = ""
    causationid: Text = ""
    traceparent: Text = ""
    subject: Text = ""
    dataschema: Text = ""
    mckey: Text = ""
    mcproof: Text = ""
    data: Any = msgspec.UNSET


_JSON = msgspec.json.Encoder()
_USUAL = msgspec.json.Decoder(_Usual)


def encode(event: CloudEvent) -> bytes:
    """The event in JSON structured mode (CloudEvents JSON format section 3)."""
    own = event.extensions
    if own and not (len(own) == 2 and own.get(KEY) and own.get(PROOF)):
        return _JSON.encode({**own, **_attributes(event), "data": event.data})
    said = _Usual(
        SPEC_VERSION,
        event.id,
        event.type,
        event.source,
        timestamp(event.time),
        event.datacontenttype,
        str(event.sequence) if event.sequence else msgspec.UNSET,
        event.partition_key,
        event.correlation_id,
        event.causation_id,
        event.traceparent,
        event.subject,
        event.dataschema,
        own.get(KEY, ""),  # type: ignore[arg-type] # If it is no text, it is written as what it is.
        own.get(PROOF, ""),  # type: ignore[arg-type]
        event.data,
    )
    return _JSON.encode(said)


def attributes(event: CloudEvent) -> dict[str, str]:
    """Everything of the event but its data, as text by attribute name: the headers of a binary mode."""
    named = _attributes(event)
    for name, value in event.extensions.items():
        named.setdefault(name, str(value).lower() if isinstance(value, bool) else str(value))
    return named


def encode_data(event: CloudEvent) -> bytes:
    """The data of the event alone, as JSON: the body of a binary mode."""
    return msgspec.json.encode(event.data)


def _attributes(event: CloudEvent) -> dict[str, str]:
    named = {
        "specversion": SPEC_VERSION,
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": timestamp(event.time),
        "datacontenttype": event.datacontenttype,
    }
    if event.subject:
        named["subject"] = event.subject
    if event.dataschema:
        named["dataschema"] = event.dataschema
    if event.correlation_id:
        named["correlationid"] = event.correlation_id
    if event.causation_id:
        named["causationid"] = event.causation_id
    if event.traceparent:
        named["traceparent"] = event.traceparent
    if event.partition_key:
        named["partitionkey"] = event.partition_key
    if event.sequence:
        named["sequence"] = str(event.sequence)
    return named


def decode(raw: bytes | str) -> CloudEvent:
    """Read and check one event in structured mode; EventError for anything but a CloudEvent 1.0 with JSON data."""
    usual = _decode_usual(raw) if isinstance(raw, bytes) else None
    return usual or from_json(_parse(raw, "The event"))


def _decode_usual(raw: bytes) -> CloudEvent | None:
    """The event, if nothing is to be said of any of its members; else it is for a closer look."""
    # Without escapes, and with JSON's own ban of control characters, ASCII is printable but for the last of it.
    if not raw.isascii() or b"\\" in raw or b"\x7f" in raw:
        return None
    try:
        said = _USUAL.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    sequence = 0 if said.sequence is msgspec.UNSET else _read_sequence(said.sequence)
    if sequence is None or not said.mckey or not said.mcproof:
        return None
    if said.id.isspace() or said.source.isspace() or said.type.isspace():
        return None
    check_type(said.type)
    return CloudEvent(
        said.id,
        said.type,
        said.source,
        _read_time(said.time),
        None if said.data is msgspec.UNSET else said.data,
        said.subject,
        said.partitionkey,
        sequence,
        said.correlationid,
        said.causationid,
        said.traceparent,
        said.datacontenttype,
        said.dataschema,
        {KEY: said.mckey, PROOF: said.mcproof},
    )


def from_json(body: Any) -> CloudEvent:
    """``decode`` for what was read as JSON already. ``data`` is taken out of it."""
    if not isinstance(body, dict):
        raise EventError("The event must be a JSON object.")
    if "data_base64" in body:
        raise EventError("The event's data is binary; only JSON is taken here.")
    data = body.pop("data", None)
    return _read(body, data)


def decode_binary(given: Mapping[str, str], raw: bytes | str) -> CloudEvent:
    """Read and check one event in a binary mode: its attributes by name, and the body; EventError as ``decode``."""
    check_kind(given.get("datacontenttype", "application/json"))
    return _read(given, _parse(raw, "The event's data") if raw else None)


def check_kind(datacontenttype: str) -> None:
    """EventError unless it is a media type of JSON (RFC 6839 section 3.1), and one that any broker can carry."""
    kind = datacontenttype.partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise EventError(f"The event's data is {kind}; only JSON is taken here.")
    if kind.startswith("application/cloudevents"):
        raise EventError(
            "The event's datacontenttype says what its data is, and no data is an event in structured mode."
        )
    if not datacontenttype.isascii() or len(datacontenttype) > MAX_KIND:
        raise EventError(f"The event's datacontenttype must be at most {MAX_KIND} characters of ASCII.")


def _parse(raw: bytes | str, what: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"{what} is not JSON: {error}.") from None


def _read(body: Mapping[str, Any], data: Any) -> CloudEvent:
    if body.get("specversion") != SPEC_VERSION:
        raise EventError(f"The event's specversion must be {SPEC_VERSION}, not {body.get('specversion')!r}.")
    for name in ("id", "type", "source"):
        if not isinstance(body.get(name), str) or not body[name].strip():
            raise EventError(f"The event has no {name}.")
    if not _plain(body.values()):
        _check_texts(body)
    check_type(body["type"])
    extensions = {name: _extension(name, body[name]) for name in body if name not in KNOWN}
    check_count(extensions, MAX_EXTENSIONS)
    sequence = _read_sequence(body.get("sequence", 0))
    if sequence is None:
        # Somebody else's way of counting: carried through, not understood.
        sequence, extensions["sequence"] = 0, str(body["sequence"])
    return CloudEvent(
        id=body["id"],
        type=body["type"],
        source=body["source"],
        time=_read_time(body.get("time")),
        data=data,
        subject=body.get("subject", ""),
        partition_key=body.get("partitionkey", ""),
        sequence=sequence,
        correlation_id=body.get("correlationid", ""),
        causation_id=body.get("causationid", ""),
        traceparent=body.get("traceparent", ""),
        datacontenttype=body.get("datacontenttype", "application/json"),
        dataschema=body.get("dataschema", ""),
        extensions=extensions,
    )


def _plain(values: Collection[Any]) -> bool:
    """Whether all are short texts of printable ASCII, as nearly all events' are: nothing else is to be said of them."""
    try:
        text = "".join(values)
    except TypeError:
        return False
    return text.isascii() and text.isprintable() and max(map(len, values)) <= MAX_TEXT


def _check_texts(body: Mapping[str, Any]) -> None:
    for name in TEXTS:
        if not isinstance(body.get(name, ""), str):
            raise EventError(f"The event's {name} must be text.")
    for name, value in body.items():
        if isinstance(value, str) and (len(value) > MAX_TEXT or NO_TEXT.search(value)):
            raise EventError(f"The event's {name} must be at most {MAX_TEXT} characters and hold none of control.")


def check_count(extensions: Collection[str], most: int) -> None:
    """EventError when they are more than ``most``."""
    if len(extensions) > most:
        raise EventError(f"The event has {len(extensions):,} attributes of its own; the most is {most}.")


def _extension(name: str, value: Any) -> Extension:
    if not EXTENSION.fullmatch(name):
        raise EventError(
            f"The event's attribute {name[:80]!r} must have a name of lower-case letters and digits, 64 at most."
        )
    if not isinstance(value, str | bool | int):
        raise EventError(f"The event's attribute {name} must be text, a whole number or a boolean.")
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise EventError(f"The event's attribute {name} must be a number of 32 bits; send a larger one as text.")
    return value


def _read_time(value: Any) -> float:
    if value is None:
        return 0.0
    seconds = _seconds(value) if isinstance(value, str) else None
    if seconds is None:
        raise EventError(f"The event's time {value!r} is not an RFC 3339 timestamp.")
    return seconds


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if FIRST_TIME <= seconds < LAST_TIME else None


def _read_sequence(value: Any) -> int | None:
    """Our own sequences are decimal numbers; None for any other text (CloudEvents leaves the form open)."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        return int(value) if int(value) < 2**63 else None
    if isinstance(value, str):
        return None
    raise EventError(f"The event's sequence {value!r} is neither text nor a whole number.")
