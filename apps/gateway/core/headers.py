"""Header fields across the gateway: what is read, what is dropped, what is set, each way.

Owns RFC 9110 section 7.6.1 (hop-by-hop), RFC 9112 section 3.2 (Host) and the identity and forwarding
fields that only the gateway may set. Works on raw bytes and knows nothing of routes. Framing itself
(Content-Length against Transfer-Encoding) is the parser's; here the fields are only set apart.
"""

from __future__ import annotations

from apps.lib.problem import Problem, Refused

Fields = list[tuple[bytes, bytes]]

MAX_FIELDS = 100
MAX_HEAD = 65_536
"""Most header fields, and most bytes of a request's or response's head; past either is 431 (502 for a response)."""

(
    PASS,
    DROP,
    HOST,
    CONNECTION,
    LENGTH,
    CODING,
    EXPECT,
    UPGRADE,
    KEY,
    AUTHORIZATION,
    PARENT,
    STATE,
    FORWARDED,
    VIA,
    DATE,
    FAILED,
) = range(16)

_REQUEST = {
    b"host": HOST,
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"x-api-key": KEY,
    b"authorization": AUTHORIZATION,
    b"traceparent": PARENT,
    b"tracestate": STATE,
    b"x-forwarded-for": FORWARDED,
    b"via": VIA,
    # Hop-by-hop.
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"te": DROP,
    b"trailer": DROP,
    # Only the gateway says these.
    b"x-consumer": DROP,
    b"x-fleet-token": DROP,
    b"x-failed-dependency": DROP,
    b"x-trace-id": DROP,
    b"x-forwarded-proto": DROP,
    b"x-forwarded-host": DROP,
    b"x-forwarded-port": DROP,
    b"x-forwarded-prefix": DROP,
    b"x-real-ip": DROP,
    b"forwarded": DROP,
}

_RESPONSE = {
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"date": DATE,
    b"x-failed-dependency": FAILED,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"upgrade": DROP,
    b"x-trace-id": DROP,
    b"x-fleet-token": DROP,
    b"ratelimit": DROP,
    b"ratelimit-policy": DROP,
}


class Kinds(dict[bytes, int]):
    """What a field name means, by the name as it was sent; learns spellings, up to a bound.

    An underscore counts as a hyphen: servers that map both to one variable would take ``X_Consumer``
    for the identity that only the gateway may set.
    """

    def __init__(self, known: dict[bytes, int]) -> None:
        super().__init__(known)
        self._known = known

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        plain = lower.replace(b"_", b"-")
        kind = self._known.get(plain, PASS)
        if plain != lower and kind != PASS:
            kind = DROP
        if len(self) < 1024 and len(name) < 64:
            self[name] = kind
        return kind


REQUEST_KINDS = Kinds(_REQUEST)
RESPONSE_KINDS = Kinds(_RESPONSE)


class RequestHead:
    """A request's fields, sorted: the ones the gateway acts on by name, the rest as bytes ready to send on."""

    __slots__ = (
        "authorization",
        "coding",
        "connection",
        "expect",
        "forwarded",
        "host",
        "key",
        "length",
        "lines",
        "state",
        "traceparent",
        "upgrade",
        "via",
    )

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.host = b""
        self.connection: bytes | None = None
        self.length: bytes | None = None
        self.coding: bytes | None = None
        self.expect: bytes | None = None
        self.upgrade: bytes | None = None
        self.key: bytes | None = None
        self.authorization: bytes | None = None
        self.traceparent: bytes | None = None
        self.state: bytes | None = None
        self.forwarded: bytes | None = None
        self.via = 0


def sort_request(fields: Fields) -> RequestHead:
    """Sort a request's fields. Refused (400) for a Host, key, credential or length that is there twice or malformed."""
    head = RequestHead()
    lines = head.lines
    hosts = 0
    for name, value in fields:
        kind = REQUEST_KINDS[name]
        if kind == PASS:
            lines += (name, b": ", value, b"\r\n")
        elif kind == HOST:
            hosts += 1
            head.host = value
        elif kind == DROP:
            pass
        elif kind == KEY:
            if head.key is not None:
                raise _twice("X-API-Key")
            head.key = value
        elif kind == LENGTH:
            head.length = value
        elif kind == CODING:
            head.coding = value if head.coding is None else head.coding + b"," + value
        elif kind == AUTHORIZATION:
            if head.authorization is not None:
                raise _twice("Authorization")
            head.authorization = value
        elif kind == CONNECTION:
            head.connection = value if head.connection is None else head.connection + b"," + value
        elif kind == PARENT:
            # Two traceparents name two parents; the specification says to treat that as none.
            head.traceparent = value if head.traceparent is None else b""
        elif kind == STATE:
            head.state = value if head.state is None else head.state + b"," + value
        elif kind == EXPECT:
            head.expect = value
        elif kind == UPGRADE:
            head.upgrade = value
        elif kind == VIA:
            head.via += value.count(VIA_NAME)
            lines += (name, b": ", value, b"\r\n")
        elif kind == FORWARDED:
            head.forwarded = value if head.forwarded is None else head.forwarded + b", " + value
    if hosts > 1:
        raise _twice("Host")
    if head.connection is not None:
        named = connection_options(head.connection)
        if named:
            head.lines = without(lines, named)
            if b"traceparent" in named:
                head.traceparent = None
    return head


VIA_NAME = b"mission-control"
VIA_LINE = b"Via: 1.1 " + VIA_NAME + b"\r\n"
MAX_LOOPS = 8
"""Times a request may pass this gateway before it is taken for a loop."""


def _twice(name: str) -> Refused:
    return Refused(Problem(400, "framing", f"The request holds more than one {name} field."))


_PLAIN_OPTIONS = frozenset({b"keep-alive", b"close", b"upgrade", b"te", b""})


def connection_options(value: bytes) -> frozenset[bytes]:
    """Field names that ``Connection`` makes hop-by-hop, lower case (RFC 9110 section 7.6.1)."""
    lower = value.lower()
    if lower in _PLAIN_OPTIONS:
        return frozenset()
    return frozenset(option.strip() for option in lower.split(b",")) - _PLAIN_OPTIONS


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """``lines`` (name, separator, value, end, …) less the fields in ``names``."""
    kept: list[bytes] = []
    for index in range(0, len(lines), 4):
        if lines[index].lower() not in names:
            kept += lines[index : index + 4]
    return kept


class ResponseHead:
    """A response's fields, sorted."""

    __slots__ = ("chunked", "date", "failed_dependency", "length", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.length: bytes | None = None
        self.chunked = False
        self.date = False
        self.failed_dependency: bytes | None = None


def sort_response(fields: Fields) -> ResponseHead:
    """Sort a response's fields for the way back."""
    head = ResponseHead()
    lines = head.lines
    named: frozenset[bytes] = frozenset()
    for name, value in fields:
        kind = RESPONSE_KINDS[name]
        if kind == PASS:
            lines += (name, b": ", value, b"\r\n")
        elif kind == LENGTH:
            head.length = value
        elif kind == DATE:
            head.date = True
            lines += (name, b": ", value, b"\r\n")
        elif kind == CODING:
            head.chunked = True
        elif kind == CONNECTION:
            named |= connection_options(value)
        elif kind == FAILED:
            head.failed_dependency = value
            lines += (name, b": ", value, b"\r\n")
    if named:
        head.lines = without(lines, named)
    return head


def host_name(host: bytes) -> str:
    """The host of a Host field or authority: lower case, no port, no trailing dot."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")
