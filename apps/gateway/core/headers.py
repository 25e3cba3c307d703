"""Header fields across the gateway: what is read, what is dropped, what is set, each way.

Owns RFC 9110 section 7.6.1 (hop-by-hop), RFC 9112 section 3.2 (Host) and the identity and forwarding
fields that only the gateway may set. Works on raw bytes and knows nothing of routes. Framing itself
(Content-Length against Transfer-Encoding) is the parser's; here the fields are only set apart.
"""

from __future__ import annotations

import re

from apps.gateway.core.cookies import sets_ours, without_ours
from services.kit.problem import Problem, Refused

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TEXT = bytes((9, *range(32, 127), *range(128, 256)))
"""What a value may hold (RFC 9110 section 5.5)."""

MAX_FIELDS = 100
MAX_HEAD = 65_536
"""Most header fields, and most bytes of a request's or response's head; past either is 431 (502 for a response)."""


class FramingError(Exception):
    """The message can't be read on: no byte after this has a meaning. ``status`` is what a client is told."""

    def __init__(self, detail: str, status: int = 400, failure: str = "framing") -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.failure = failure


def too_large(what: str) -> FramingError:
    """The budget is spent."""
    return FramingError(f"{what} over {MAX_HEAD} bytes.", 431, "headers_too_large")


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
    HOPS,
    COOKIE,
) = range(18)

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
    b"max-forwards": HOPS,
    b"cookie": COOKIE,
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
    b"x-real-ip": DROP,
    b"forwarded": DROP,
    # Frameworks would do another thing than the one that the route was chosen and the caller admitted for.
    b"x-rewrite-url": DROP,
    b"x-http-method": DROP,
    b"x-http-method-override": DROP,
    b"x-method-override": DROP,
    # CGI makes HTTP_PROXY of it, which libraries take for the proxy of what the service asks others (httpoxy).
    b"proxy": DROP,
}
_OURS = (b"x-consumer-", b"x-fleet-", b"x-forwarded-", b"x-original-")
"""How further names begin that only a gateway says: whose request it is, where it came in and as what."""
_PLAIN_NAME = bytes(code if chr(code).isascii() and chr(code).isalnum() else 0x2D for code in range(256))
"""Letters and digits as they are, all else a hyphen."""

_RESPONSE = {
    b"connection": CONNECTION,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"date": DATE,
    b"x-failed-dependency": FAILED,
    b"set-cookie": COOKIE,
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


def plain(name: bytes) -> bytes:
    """A field's name as servers that make variables of names tell it from others."""
    return name.lower().translate(_PLAIN_NAME)


class Kinds(dict[bytes, int]):
    """What a field name means, by the name as it was sent; learns spellings, up to a bound.

    Whatever is no letter or digit counts as a hyphen: servers that make variables of names (RFC 3875 section
    4.1.18) would take ``X_Consumer`` or ``X.Consumer`` for the identity that only the gateway may set.
    """

    def __init__(self, known: dict[bytes, int], dropped: tuple[bytes, ...] = ()) -> None:
        """``dropped``: how names begin that are dropped unless they are known."""
        super().__init__(known)
        self._known = known
        self._dropped = dropped

    def __missing__(self, name: bytes) -> int:
        if _TOKEN.fullmatch(name) is None:
            raise FramingError("A field's name is not a token.")
        lower = name.lower()
        spelt = lower.translate(_PLAIN_NAME)
        kind = self._known.get(spelt, DROP if spelt.startswith(self._dropped) else PASS)
        if spelt != lower and kind != PASS:
            kind = DROP
        if len(self) < 1024 and len(name) < 64:
            self[name] = kind
        return kind


class Lines(dict[bytes, tuple[int, bytes]]):
    """A field line → what its name means, and its value without the white space around it (RFC 9112 section 5.1).

    Most lines have been seen before, from the same client or another, and need not be taken apart and checked
    again. Forgets all when it is full: what is common is back at once.
    """

    MOST = 2048
    LONGEST = 128

    def __init__(self, kinds: Kinds) -> None:
        super().__init__()
        self._kinds = kinds

    def __missing__(self, line: bytes) -> tuple[int, bytes]:
        name, colon, value = line.partition(b":")
        kind = self._kinds[name]
        if not colon or value.translate(None, _TEXT):
            raise FramingError("A line of the head is not a field.")
        found = (kind, value.strip(b" \t"))
        if len(line) <= self.LONGEST:
            if len(self) >= self.MOST:
                self.clear()
            self[line] = found
        return found


REQUEST_KINDS, RESPONSE_KINDS = Kinds(_REQUEST, _OURS), Kinds(_RESPONSE)
REQUEST_LINES, RESPONSE_LINES = Lines(REQUEST_KINDS), Lines(RESPONSE_KINDS)


class RequestHead:
    """A request's fields, sorted: the ones the gateway acts on by name, the rest as bytes ready to send on."""

    __slots__ = (
        "authorization",
        "coding",
        "confined",
        "connection",
        "expect",
        "forwarded",
        "hops",
        "host",
        "keep",
        "key",
        "length",
        "lines",
        "method",
        "old",
        "path",
        "query",
        "state",
        "target",
        "traceparent",
        "upgrade",
        "via",
    )

    method: bytes
    target: bytes
    old: bool
    """It speaks HTTP/1.0."""
    keep: bool
    """Its client would use the connection again."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        """What goes on as it is."""
        self.path = b""
        """As it was sent; ``*`` for the server as a whole."""
        self.query = b""
        """With its ``?``."""
        self.host = b""
        self.hops: bytes | None = None
        """Max-Forwards."""
        self.connection: bytes | None = None
        self.length: bytes | None = None
        self.coding: bytes | None = None
        self.expect: bytes | None = None
        self.upgrade: bytes | None = None
        self.key: bytes | None = None
        self.authorization: bytes | None = None
        self.confined: frozenset[bytes] = frozenset()
        """Credentials that ``Connection`` keeps to this hop, lower case."""
        self.traceparent: bytes | None = None
        self.state: bytes | None = None
        self.forwarded: bytes | None = None
        self.via = 0


def sort_request(head_lines: list[bytes]) -> RequestHead:
    """Sort a request's fields: the lines of its head, of which the first is not one.

    Refused (400) for a Host, key, credential or length that is there twice, FramingError for what is no field.

    White space around a value is not part of it (RFC 9112 section 5.1); it is cut where a value is read here.
    """
    head = RequestHead()
    lines = head.lines
    hosts = 0
    fields = iter(head_lines)
    next(fields)
    for line in fields:
        kind, value = REQUEST_LINES[line]
        if kind == PASS:
            lines.append(line)
            continue
        if kind == DROP:
            continue
        if kind == HOST:
            hosts += 1
            head.host = value
        elif kind == KEY:
            if head.key is not None:
                raise _twice("X-API-Key")
            head.key = value
        elif kind == LENGTH:
            if head.length is not None:
                raise _twice("Content-Length")
            head.length = value
        elif kind == CODING:
            head.coding = _joined(head.coding, value)
        elif kind == AUTHORIZATION:
            if head.authorization is not None:
                raise _twice("Authorization")
            head.authorization = value
        elif kind == CONNECTION:
            head.connection = _joined(head.connection, value)
        elif kind == PARENT:
            # Two traceparents name two parents; the specification says to treat that as none.
            head.traceparent = value if head.traceparent is None else b""
        elif kind == STATE:
            head.state = _joined(head.state, value)
        elif kind == EXPECT:
            head.expect = value
        elif kind == UPGRADE:
            head.upgrade = _joined(head.upgrade, value)
        elif kind == VIA:
            head.via += value.count(VIA_NAME)
            lines.append(line)
        elif kind == FORWARDED:
            head.forwarded = value if head.forwarded is None else head.forwarded + b", " + value
        elif kind == HOPS:
            head.hops = value
        elif kind == COOKIE:
            others = without_ours(value)
            if others:
                lines.append(b"Cookie: " + others)
    if hosts > 1:
        raise _twice("Host")
    if head.connection is not None:
        named = connection_options(head.connection)
        if named:
            _confine(head, named)
    return head


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b"," + value


def _confine(head: RequestHead, named: frozenset[bytes]) -> None:
    """What ``Connection`` names was meant for this hop: it is read here and goes no further.

    So credentials named there still say who calls, and are not sent on; and nothing that the gateway sets, or that
    the next hop needs for counting loops, can be taken away.
    """
    head.lines = without(head.lines, named - _ALWAYS)
    if b"traceparent" in named:
        head.traceparent = None
    if b"tracestate" in named:
        head.state = None
    head.confined = named & _CREDENTIALS


VIA_NAME = b"mission-control"
VIA_LINE = b"Via: 1.1 " + VIA_NAME + b"\r\n"
MAX_LOOPS = 8
"""Times a request may pass this gateway before it is taken for a loop."""


def _twice(name: str) -> Refused:
    return Refused(Problem(400, "framing", f"The request holds more than one {name} field."))


_ALWAYS = frozenset({b"via"})
"""Meant for all recipients, whatever ``Connection`` says (RFC 9110 section 7.6.1)."""
_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
_PLAIN_OPTIONS = frozenset({b"keep-alive", b"close", b"upgrade", b"te", b""})


def connection_options(value: bytes) -> frozenset[bytes]:
    """Field names that ``Connection`` makes hop-by-hop, lower case (RFC 9110 section 7.6.1)."""
    lower = value.lower()
    if lower in _PLAIN_OPTIONS:
        return frozenset()
    return frozenset(option.strip() for option in lower.split(b",")) - _PLAIN_OPTIONS


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """``lines`` less the fields in ``names``, lower case."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


class ResponseHead:
    """A response's fields, sorted."""

    __slots__ = ("coding", "connection", "date", "failed_dependency", "keep", "length", "lines", "old", "status")

    keep: bool
    """The instance would take another request on this connection."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        """What goes back as it is."""
        self.status = 0
        self.old = False
        """It speaks HTTP/1.0."""
        self.connection: bytes | None = None
        self.length: bytes | None = None
        self.coding: bytes | None = None
        self.date = False
        self.failed_dependency: bytes | None = None


def sort_response(head_lines: list[bytes]) -> ResponseHead:
    """Sort a response's fields for the way back: the lines of its head, of which the first is not one."""
    head = ResponseHead()
    lines = head.lines
    fields = iter(head_lines)
    next(fields)
    for line in fields:
        kind, value = RESPONSE_LINES[line]
        if kind == PASS:
            lines.append(line)
        elif kind == LENGTH:
            head.length = _joined(head.length, value)
        elif kind == DATE:
            head.date = True
            lines.append(line)
        elif kind == CODING:
            head.coding = _joined(head.coding, value)
        elif kind == CONNECTION:
            head.connection = _joined(head.connection, value)
        elif kind == FAILED:
            head.failed_dependency = value
            lines.append(line)
        elif kind == COOKIE and not sets_ours(value):
            lines.append(line)
    if head.connection is not None and (named := connection_options(head.connection)):
        head.lines = without(lines, named)
        head.date = head.date and b"date" not in named
    return head
