"""Who calls: an API key or a token, proven before anything else is asked. Waits for a key set that may be newer."""

from __future__ import annotations

from apps.gateway.core import access
from apps.gateway.core.auth import Identity, UnknownKey, missing, no_key
from apps.gateway.core.chain import Call, Later
from apps.gateway.core.config import Route
from apps.gateway.plane.policies.parts import NOTHING, Bound, Parts, Policy

AWAITING_KEYS = "awaiting_keys"


def bind(route: Route, parts: Parts) -> Bound:
    """Nothing is asked on a public route."""
    return Bound(Auth(route, parts).ask) if route.auth else NOTHING


class Auth:
    """The question, bound to the credentials that a route takes."""

    __slots__ = ("_accepted", "_by_key", "_by_token", "_issuers", "_key", "_key_sets", "_token")

    def __init__(self, route: Route, parts: Parts) -> None:
        self._accepted = route.auth
        self._by_key, self._by_token = "key" in route.auth, "jwt" in route.auth
        self._issuers = frozenset(route.issuers)
        self._key, self._token = parts.keyring.identify, parts.tokens.identify
        self._key_sets = parts.key_sets

    def ask(self, call: Call) -> Later | None:
        """Denied (401, or 403 for who is switched off)."""
        key = call.head.key
        if key is not None and self._by_key:
            call.identity = self._key(key, call.started_ns / 1e9)
            return None
        try:
            call.identity = self._bearer(call)
        except UnknownKey as unknown:
            if not self._key_sets.want(unknown.issuer, call):
                raise no_key(unknown.issuer) from None
            return Later(AWAITING_KEYS, self._again)
        return None

    def _again(self, call: Call, word: bool) -> None:
        """A fresh key set is there: for good."""
        try:
            call.identity = self._bearer(call)
        except UnknownKey as unknown:
            raise no_key(unknown.issuer) from None

    def _bearer(self, call: Call) -> Identity:
        credentials = call.head.authorization
        if credentials is None or credentials[:7].lower() != b"bearer ":
            raise missing(self._accepted)
        token = credentials[7:].strip()
        now = call.started_ns / 1e9
        if self._by_key and token.startswith(access.KEY_PREFIX):
            return self._key(token, now)
        if self._by_token:
            return self._token(token, now, self._issuers)
        raise missing(self._accepted)


POLICY = Policy("auth", "Credentials", bind, lambda route, limits: access.credentials_in_words(route))
