"""Who may ask the embedded engine: one user with a secret, shown by each request in a header. Pure.

ClickHouse's own ways: HTTP Basic, which clickhouse-connect and curl send, or ``X-ClickHouse-User`` and
``X-ClickHouse-Key``. Its third, parameters of the address, is not taken: addresses end up in logs.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from apps.telemetry.engine.errors import EngineError, refusal

REQUIRED = 194
"""ClickHouse's code for a request without credentials (HTTP 401)."""


@dataclass(frozen=True, slots=True)
class Login:
    """The one user."""

    user: str
    password: str = field(repr=False)

    def refusal(self, headers: Mapping[str, str]) -> EngineError | None:
        """Why a request with these headers (names in lower case) is not this user's; None when it is."""
        given = _credentials(headers)
        if given is None:
            return refusal(
                REQUIRED, "REQUIRED_PASSWORD", "Send user and password by HTTP Basic, or as X-ClickHouse-User and -Key"
            )
        wanted = (self.user, self.password)
        # Both are compared in any case, and neither any faster for being wrong early.
        same = [hmac.compare_digest(one.encode(), two.encode()) for one, two in zip(given, wanted, strict=True)]
        if not all(same):
            return refusal(516, "AUTHENTICATION_FAILED", "Authentication failed: the user or the password is wrong")
        return None


def _credentials(headers: Mapping[str, str]) -> tuple[str, str] | None:
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    kind, _, packed = headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(packed.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
