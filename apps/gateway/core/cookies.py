"""Control's own cookies, kept from services both ways. Pure.

Cookies know hosts and no ports (RFC 6265 section 8.5), so whoever is logged in to control's pages sends
the session to a gateway on the same host as well, and what a service sets there, control would read.
"""

from __future__ import annotations

from apps.lib.cookies import OURS

NAMES = frozenset(name.encode() for name in OURS)
MARK = b"mc_"
"""All of them hold this, and few others do: the one look that most fields get."""


def without_ours(value: bytes) -> bytes:
    """A Cookie field's value without our pairs; empty when nothing is left (RFC 6265 section 4.2.1)."""
    if MARK not in value:
        return value
    return b";".join(pair for pair in value.split(b";") if not _is_ours(pair)).strip()


def sets_ours(value: bytes) -> bool:
    """Whether a Set-Cookie field would set one of ours (RFC 6265 section 5.2)."""
    return MARK in value and _is_ours(value.partition(b";")[0])


_SPACE = bytes(code for code in range(256) if chr(code).isspace())
"""What control's reader of cookies takes off around a name: all that is white space to a str of Latin-1."""


def _is_ours(pair: bytes) -> bool:
    # A browser sends a cookie without a name as its value alone: "=mc_session=x" would come back as our session.
    return pair.strip(_SPACE + b"=").partition(b"=")[0].rstrip(_SPACE) in NAMES
