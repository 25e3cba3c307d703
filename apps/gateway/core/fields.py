"""Which header fields a route may change, and what it may say in them. Pure; knows no route.

Owns the bounds of what configuration may do to a message: framing, hops, identity, credentials, forwarding and traces
are the gateway's own (apps.gateway.core.headers), and a value is field text (RFC 9110 section 5.5), as it is written
and again as it is filled in. So nothing that is configured can split a message or pose as the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from apps.gateway.core.headers import COOKIE, PASS, REQUEST_KINDS, RESPONSE_KINDS, Kinds, plain

MOST = 20
"""Fields that one list may name."""
LONGEST = 500
"""Characters of a value."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_BLANK = re.compile(r"\{([a-z_]+)\}")
_SAFE = re.compile(rb"[\x20-\x7e]*")

BLANKS = ("consumer", "request_id")
"""What a value may leave open, as ``{consumer}``. Braces around anything but a word are just braces."""


class Template:
    """A value, ready to be filled in."""

    __slots__ = ("literal", "needs_consumer", "pieces")

    def __init__(self, value: str) -> None:
        self.pieces = tuple(_BLANK.split(value))
        """Text and names of blanks, in turns."""
        self.needs_consumer = "consumer" in self.pieces[1::2]
        self.literal = value.encode("ascii") if len(self.pieces) == 1 else None
        """The value itself when it leaves nothing open."""

    def fill(self, consumer: str, request_id: str) -> bytes | None:
        """The value for one request; None when it would be empty or no field text."""
        if self.literal is not None:
            return self.literal
        blanks = {"consumer": consumer, "request_id": request_id}
        text = "".join(blanks[piece] if at % 2 else piece for at, piece in enumerate(self.pieces))
        value = text.encode("utf-8", "replace")
        return value if value and _SAFE.fullmatch(value) else None


def check(side: str, put: Mapping[str, str], add: Mapping[str, str], removed: Iterable[str]) -> None:
    """ValueError, with a sentence for whoever wrote it, when these can't be set (``put``), added or removed.

    ``side`` is ``request`` or ``response``; the sentence begins with the setting at fault. Cookies may be removed, but
    not written: control's own are among them.
    """
    kinds = REQUEST_KINDS if side == "request" else RESPONSE_KINDS
    for setting, fields in (("set", put), ("add", add)):
        _check_names(f"{side}_{setting}", kinds, fields, (PASS,))
        for name, value in fields.items():
            _check_value(f"{side}_{setting}", name, value)
    _check_names(f"{side}_remove", kinds, removed, (PASS, COOKIE))
    once = [plain(name.encode()).decode() for name in (*put, *removed)]
    for name in once:
        if once.count(name) > 1:
            raise ValueError(f"{side}_set: {name} is set or removed twice, once is enough")


def _check_names(setting: str, kinds: Kinds, names: Iterable[str], may: tuple[int, ...]) -> None:
    found = list(names)
    if len(found) > MOST:
        raise ValueError(f"{setting}: name {MOST} fields at most, not {len(found)}")
    for name in found:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{setting}: {name[:70]!r} is no field name, which has letters, digits and hyphens")
        if kinds[name.encode()] not in may:
            raise ValueError(f"{setting}: {name} is the gateway's own to say and can't be changed so")


def _check_value(setting: str, name: str, value: str) -> None:
    if len(value) > LONGEST:
        raise ValueError(f"{setting}: the value of {name} is over {LONGEST} characters")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"{setting}: the value of {name} must be one line of printable ASCII, no space around it")
    for blank in _BLANK.findall(value):
        if blank not in BLANKS:
            known = " and ".join(f"{{{one}}}" for one in BLANKS)
            raise ValueError(f"{setting}: {{{blank}}} in {name} is not known, only {known} are")
