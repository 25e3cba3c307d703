"""A signed token taken apart to the letter (RFC 7515 section 7.1, RFC 7519 section 7.2).

Libraries forgive padding, foreign characters, a byte order mark, NaN and members that are there twice.
Each of those lets two readers see two tokens in one text, so here each is refused. Pure; it neither
trusts nor verifies: apps.gateway.core.auth does.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NoReturn

MAX_TOKEN = 8192
"""Most bytes of a token or key."""
MAX_NESTED = 256
"""Most objects and lists in a header or in claims: what has more would exhaust the reader's stack."""
LATEST = 253_402_300_800
"""Times are before the year 10000, so that they can be reckoned with whatever a token says."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")


class Malformed(ValueError):
    """This is no signed token."""


def read(raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token that nobody has vouched for yet. Malformed for anything else."""
    if len(raw) > MAX_TOKEN:
        raise Malformed("it is too long")
    parts = _COMPACT.fullmatch(raw)
    if parts is None:
        raise Malformed("it does not have three parts in base64url")
    header, claims, signature = parts.groups()
    _decode(signature)
    return _members(_decode(header)), _members(_decode(claims))


def moment(claims: dict[str, Any], name: str) -> float | None:
    """A time as seconds since the epoch, None when it isn't there (RFC 7519 section 2, NumericDate)."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST:
        raise Malformed(f"its {name} claim is not a time")
    return float(value)


def _decode(segment: bytes) -> bytes:
    """Base64url without padding, in the one spelling that encoding gives (RFC 4648 section 3.5)."""
    try:
        data = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise Malformed("a part is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment:
        raise Malformed("a part is not base64url as it is written")
    return data


def _members(data: bytes) -> dict[str, Any]:
    if data.count(b"{") + data.count(b"[") > MAX_NESTED:
        raise Malformed("a part is nested too deeply")
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except Malformed:
        raise
    except ValueError:  # no UTF-8, no JSON, or a number of thousands of digits
        raise Malformed("a part is not JSON") from None
    if not isinstance(found, dict):
        raise Malformed("a part is not an object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("a member is there twice")
    return members


def _no_number(word: str) -> NoReturn:
    raise Malformed(f"{word} is no number in JSON")
