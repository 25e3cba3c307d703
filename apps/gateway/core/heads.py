"""Heads as they are read: from bytes to a request's or an answer's fields, in one pass (RFC 9112 sections 2 to 5).

Strict where two readers could differ: lines end with CRLF and nothing else, a field's name is a token, no control
character anywhere, no folded line, one space around the target, HTTP/1.0 or HTTP/1.1. Tests hold that nothing is
read here that llhttp would refuse or read otherwise. Where the body ends is apps.gateway.core.framing's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from apps.gateway.core.headers import (
    MAX_FIELDS,
    MAX_HEAD,
    FramingError,
    RequestHead,
    ResponseHead,
    sort_request,
    sort_response,
    too_large,
)

_END = b"\r\n\r\n"
_BLANK = re.compile(rb"(?:\r\n)+")
_TEXT = bytes((9, 10, 13, *range(32, 127), *range(128, 256)))
"""What a head may hold (RFC 9110 section 5.5): text, tabs, and line ends, which are looked at apart."""
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_VERSION = re.compile(rb"HTTP/[0-9](\.[0-9])?")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_TARGET = re.compile(rb"[\x21-\x7e]+")


class Buffer:
    """Collects one head after another: what comes in pieces waits here, up to the bound on a head."""

    __slots__ = ("_blank", "_check", "_checked", "_held", "_open", "head", "size")

    def __init__(self, check: Callable[[bytes], object]) -> None:
        """``check`` reads the first line of a head that is still coming, so that nonsense is not waited for."""
        self.head: bytes | None = None
        """The last head that was taken whole, without the empty line."""
        self.size = 0
        """Its bytes, empty line included."""
        self._check = check
        self._open = False
        """Something has come since the last head, if only an empty line."""
        self._checked = False
        """The first line has."""
        self._held = bytearray()
        self._blank = 0
        """Bytes of empty lines that were passed over."""

    @property
    def begun(self) -> bool:
        """A byte of the next head has come; empty lines are none."""
        return bool(self._held)

    def feed(self, data: bytes, at: int) -> int:
        """Take from ``at`` to the end of the head, or of ``data``; where it stopped. ``head`` is None until it is
        whole. Empty lines ahead of it are passed over (RFC 9112 section 2.2)."""
        end = data.find(_END, at)
        if self._open or end <= at or data[at] < 32:
            return self._hold(data, at)
        self.size = end + 4 - at
        if self.size > MAX_HEAD:
            raise too_large("The head is")
        self.head = data[at:end]
        return end + 4

    def _hold(self, data: bytes, at: int) -> int:
        held = self._held
        searched = max(0, len(held) - 3)
        self._open = True
        held += data[at:] if at else data
        if blank := _BLANK.match(held):
            self._blank += blank.end()
            del held[: blank.end()]
            searched = 0
        end = held.find(_END, searched)
        self.size = self._blank + (len(held) if end < 0 else end + 4)
        if self.size > MAX_HEAD:
            raise too_large("The head is")
        if end < 0:
            self.head = None
            self._look(held, searched)
            return len(data)
        self.head = bytes(held[:end])
        stop = len(data) - len(held) + end + 4
        held.clear()
        self._blank = 0
        self._open = self._checked = False
        return stop

    def _look(self, held: bytearray, since: int) -> None:
        """Whether this can still become a head; up to ``since`` it could."""
        since = max(0, since - 1)  # a line's end may have been split
        fresh = held[since:]
        if fresh.translate(None, _TEXT) or fresh.count(b"\n", since > 0) != fresh.count(b"\r\n"):
            raise FramingError("The head holds a control character or a bare line end.")
        if not self._checked and b"\r\n" in held:
            self._checked = True
            self._check(bytes(held.partition(b"\r\n")[0]))


def read_request(head: bytes) -> RequestHead:
    """A request's head. FramingError or Refused (400, 431, 505) for what must not be read."""
    lines = _lines(head)
    found = sort_request(lines)
    found.method, found.target, found.old = request_line(lines[0])
    connection = found.connection
    found.keep = not found.old if connection is None else persists(connection, old=found.old)
    return found


def read_response(head: bytes) -> ResponseHead:
    """An answer's head. FramingError for what must not be read."""
    lines = _lines(head)
    found = sort_response(lines)
    found.status, found.old = _STATUSES[lines[0]]
    connection = found.connection
    found.keep = connection == b"keep-alive" or persists(connection, old=found.old)
    return found


def _lines(head: bytes) -> list[bytes]:
    lines = head.split(b"\r\n")
    if len(lines) > MAX_FIELDS + 1:
        raise FramingError(f"The head has over {MAX_FIELDS} fields.", 431, "headers_too_large")
    return lines


class Methods(dict[bytes, bytes]):
    """Methods that may be asked for: those that everybody knows, and further ones as they come, up to a bound.

    FramingError: 501 for CONNECT, whatever its target, because who answers it with a 2xx speaks no HTTP from there
    on (RFC 9112 section 6.3). 400 for a known one that is not in capitals: that is another method (RFC 9110 section
    9.1), but servers that mend the case would do what the route was not asked for.
    """

    KNOWN = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE")

    def __init__(self) -> None:
        super().__init__((method, method) for method in self.KNOWN)

    def __missing__(self, method: bytes) -> bytes:
        capitals = method.upper()
        if capitals == b"CONNECT":
            raise FramingError("This gateway does not tunnel.", 501, "connect_unsupported")
        if _TOKEN.fullmatch(method) is None or capitals in self.KNOWN:
            raise FramingError("The request line does not begin with a method.")
        if len(self) < 64:
            self[method] = method
        return method


_METHODS = Methods()


def request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Method, target, and whether it is HTTP/1.0. 505 for another version of HTTP (RFC 9110 section 15.6.6)."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        if _VERSION.fullmatch(version):
            raise FramingError("Only HTTP/1.1 and HTTP/1.0 are spoken here.", 505, "version_unsupported")
        raise FramingError("The request line does not end in a version of HTTP.")
    if _TARGET.fullmatch(target) is None:
        raise FramingError("The request line is not a method, a target and a version with one space between.")
    return _METHODS[method], target, version == b"HTTP/1.0"


def status_line(line: bytes) -> tuple[int, bool]:
    """The status, and whether it is HTTP/1.0."""
    found = _STATUS.fullmatch(line)
    if found is None:
        raise FramingError("The answer does not begin with a status of HTTP/1.1.")
    return int(found[2]), found[1] == b"0"


class Statuses(dict[bytes, tuple[int, bool]]):
    """Status lines that have been read, up to a bound."""

    def __missing__(self, line: bytes) -> tuple[int, bool]:
        found = status_line(line)
        if len(self) < 256 and len(line) < 64:
            self[line] = found
        return found


_STATUSES = Statuses()


def persists(connection: bytes | None, *, old: bool) -> bool:
    """Whether the sender would use the connection again (RFC 9112 section 9.3)."""
    if connection is None:
        return not old
    options = [option.strip(b" \t") for option in connection.lower().split(b",")]
    return b"close" not in options and (not old or b"keep-alive" in options)
