"""What a token says, and whether one holds. Pure: time and keys are arguments.

EdDSA only, by the key that ``kid`` names among our own; nothing in a token's header can bring
another key or algorithm along.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

import jwt

from services.aegis.keys import Key

LIFETIME: Final = 900
LEEWAY: Final = 5.0


def issue(key: Key, *, issuer: str, audience: str, subject: str, scope: str, now: float) -> str:
    """An access token (RFC 9068's claims, without its type) for ``subject``."""
    claims = {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "iat": int(now),
        "nbf": int(now),
        "exp": int(now) + LIFETIME,
        "jti": str(uuid.uuid4()),
        "client_id": subject,
        "scope": scope,
    }
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid})


def claims(token: str, keys: Iterable[Key], *, issuer: str, audience: str, now: float) -> dict[str, Any] | None:
    """The claims of a token that holds at ``now``, else None."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        key = next((key for key in keys if key.kid == kid), None)
        if key is None:
            return None
        found: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=["EdDSA"],
            issuer=issuer,
            audience=audience,
            # Time is judged below, by the caller's clock.
            options={
                "require": ["exp", "iss", "aud", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except (jwt.InvalidTokenError, ValueError):
        return None
    expires, begins = found["exp"], found.get("nbf", 0)
    if not isinstance(expires, int) or not isinstance(begins, int):
        return None
    return found if begins - LEEWAY <= now < expires + LEEWAY else None


def grant(asked: str, allowed: Sequence[str]) -> str | None:
    """The scope of the token: what was asked for if all of it is allowed, all that is allowed when nothing was."""
    wanted = asked.split()
    return " ".join(wanted or allowed) if set(wanted) <= set(allowed) else None
