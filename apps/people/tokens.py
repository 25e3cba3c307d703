"""Who asks the REST API, by token. A wrong token is counted against its address; a good one never waits."""

from __future__ import annotations

import math
from typing import Any

from django.utils.crypto import constant_time_compare
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, get_authorization_header

from apps.lib import clock
from apps.people import actions, logins
from apps.people.models import ApiToken
from apps.people.throttle import source_of
from services.kit.problem import Problem, Refused

SCHEMES = {b"bearer", b"token"}
LONGEST = 255


class Token(BaseAuthentication):
    """A token as ``Authorization: Bearer …`` (RFC 6750) or ``Token …``."""

    def authenticate(self, request: Any) -> tuple[Any, ApiToken] | None:
        """The owner and the token; None when the field is for somebody else."""
        words = get_authorization_header(request).split()
        if not words or words[0].lower() not in SCHEMES:
            return None
        if len(words) != 2:
            raise self._failed(request, "Send one token: 'Authorization: Bearer <token>'.")
        if not words[1].isascii():
            raise self._failed(request, "The token holds characters that no token has.")
        row = self._find(words[1].decode())
        if row is None:
            raise self._failed(request, "The token is unknown.")
        # Only who has the whole token gets as far as this: it may be told what became of it.
        if row.state == "ended":
            raise exceptions.AuthenticationFailed(f"The token ended on {row.ended_at:%Y-%m-%d}: {row.ended_why}.")
        if row.state == "expired":
            raise exceptions.AuthenticationFailed(f"The token expired on {row.expires_at:%Y-%m-%d}.")
        if not row.user.is_active:
            raise exceptions.AuthenticationFailed("The token's user is not active.")
        actions.note_use(row)
        return row.user, row

    def authenticate_header(self, request: Any) -> str:
        """For ``WWW-Authenticate``."""
        return "Bearer"

    @staticmethod
    def _find(token: str) -> ApiToken | None:
        if len(token) > LONGEST:
            return None
        digest = actions.digest_of(token)
        row = ApiToken.objects.select_related("user").filter(digest=digest).first()
        return row if row is not None and constant_time_compare(row.digest, digest) else None

    @staticmethod
    def _failed(request: Any, detail: str) -> Exception:
        """401; 429 once the address has sent more wrong tokens than a mistake explains."""
        address, now = source_of(request.META.get("REMOTE_ADDR", "")), clock.monotonic()
        wait = logins.tokens.wait(address, now)
        if wait > 0:
            seconds = math.ceil(wait)
            return Refused(
                Problem(429, "rate_limited", "Too many wrong tokens came from this address.", retry_after=seconds)
            )
        logins.tokens.failed(address, now)
        return exceptions.AuthenticationFailed(detail)
