"""Who is calling: API keys by keyed hash and JWTs by pinned algorithm, both remembered once proven.

Pure: the key sets of issuers and wall-clock ``now`` are handed in. Every refusal says which thing is
wrong, so that the caller can mend it; none says anything about other keys or consumers.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import jwt

from apps.gateway.core.config import Consumer, Document, Issuer, Key
from apps.lib.problem import Problem, Refused

REMEMBERED = 10_000
"""Most proven keys, and most proven tokens, a worker remembers."""

MAX_CREDENTIAL = 8192

BEARER = 'Bearer realm="mission-control"'


class Identity:
    """A caller that proved who it is."""

    __slots__ = ("consumer", "expires_at", "line", "method", "rate_limit")

    def __init__(self, consumer: str, method: str, rate_limit: str | None, expires_at: float) -> None:
        self.consumer = consumer
        self.method = method
        self.rate_limit = rate_limit
        """The consumer's own limit, which overrides the route's."""
        self.expires_at = expires_at
        self.line = f"X-Consumer: {consumer}\r\n".encode("ascii")


class Denied(Refused):
    """401 or 403, with the challenge that RFC 9110 section 11.6.1 asks for."""

    def __init__(self, failure: str, detail: str, status: int = 401, error: str = "") -> None:
        super().__init__(Problem(status, failure, detail))
        self.challenge = f'{BEARER}, error="{error}"' if error else BEARER


def missing(accepted: tuple[str, ...]) -> Denied:
    """No credentials where the route needs some."""
    ways = {"key": "an API key in X-API-Key", "jwt": "a JWT in Authorization: Bearer"}
    return Denied("credentials_missing", f"Send {' or '.join(ways[way] for way in accepted)}.")


class Keyring:
    """The keys of one document."""

    __slots__ = ("_consumers", "_keys", "_pepper", "_proven")

    def __init__(self, document: Document, pepper: bytes) -> None:
        self._keys = {key.hash: key for key in document.keys}
        self._consumers = {consumer.name: consumer for consumer in document.consumers}
        self._pepper = pepper
        self._proven: dict[bytes, Identity] = {}

    def identify(self, raw: bytes, now: float) -> Identity:
        """The key's owner. Denied: ``key_unknown``, ``key_revoked``, ``key_expired`` or ``consumer_disabled``."""
        identity = self._proven.get(raw)
        if identity is None:
            identity = self._prove(raw)
        if now >= identity.expires_at:
            self._proven.pop(raw, None)
            raise Denied("key_expired", "This API key has expired; ask for a new one.")
        return identity

    def _prove(self, raw: bytes) -> Identity:
        key = self._find(raw)
        if key is None:
            raise Denied("key_unknown", "This API key is not known here.")
        if key.revoked:
            raise Denied("key_revoked", "This API key has been revoked; ask for a new one.")
        consumer = self._consumers[key.consumer]
        refuse_disabled(consumer)
        expires_at = float("inf") if key.expires_at is None else key.expires_at
        identity = Identity(consumer.name, "key", consumer.rate_limit, expires_at)
        remember(self._proven, raw, identity)
        return identity

    def _find(self, raw: bytes) -> Key | None:
        if len(raw) > MAX_CREDENTIAL:
            return None
        return self._keys.get(hmac.digest(self._pepper, raw, "sha256").hex())


def refuse_disabled(consumer: Consumer | None) -> None:
    """403 for a consumer that an admin switched off."""
    if consumer is not None and not consumer.enabled:
        raise Denied("consumer_disabled", f"Consumer {consumer.name} is switched off.", 403)


def remember(memory: dict[bytes, Identity], credential: bytes, identity: Identity) -> None:
    """Keep a proof; the oldest goes when there are too many (dicts keep the order of arrival)."""
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[credential] = identity


class UnknownKey(Exception):
    """The token is signed by a key that is not in the issuer's set as last fetched: it may be new."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__(issuer.name)
        self.issuer = issuer


KeySets = Mapping[str, Mapping[str, jwt.PyJWK]]
"""Issuer name → key id → key."""


class Tokens:
    """The JWT issuers of one document, and the tokens proven under them."""

    __slots__ = ("_consumers", "_issuers", "_proven", "_sets")

    def __init__(self, document: Document, key_sets: KeySets) -> None:
        """``key_sets`` is read at each proof, so the caller may put fresh keys into it."""
        self._issuers = {issuer.issuer: issuer for issuer in document.issuers}
        self._consumers = {consumer.name: consumer for consumer in document.consumers}
        self._sets = key_sets
        self._proven: dict[bytes, Identity] = {}

    def identify(self, raw: bytes, now: float) -> Identity:
        """The token's subject. Raises Denied, or UnknownKey when a fresh key set could change the answer."""
        identity = self._proven.get(raw)
        if identity is not None and now < identity.expires_at:
            return identity
        if identity is not None:
            del self._proven[raw]
        identity = self._prove(raw, now)
        remember(self._proven, raw, identity)
        return identity

    def forget(self) -> None:
        """Drop every proof: a key set changed, and a withdrawn key may have signed some of them."""
        self._proven.clear()

    def _prove(self, raw: bytes, now: float) -> Identity:
        if len(raw) > MAX_CREDENTIAL:
            raise denied("malformed", "The token is too long.")
        token = raw.decode("latin-1")
        try:
            header = jwt.get_unverified_header(token)
            claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise denied("malformed", "The token is not a signed JWT.") from None
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise denied("issuer", "The token's issuer is not trusted here.")
        self._verify(token, header, issuer)
        check_times(claims, issuer, now)
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise denied("audience", f"The token is not for {issuer.audience}.")
        subject = claims.get(issuer.consumer_claim)
        if (
            not isinstance(subject, str)
            or not 0 < len(subject) <= 128
            or not subject.isascii()
            or not subject.isprintable()
        ):
            raise denied("malformed", f"The token's {issuer.consumer_claim} claim does not name a consumer.")
        consumer = self._consumers.get(subject)
        refuse_disabled(consumer)
        expires_at = float(claims["exp"]) + issuer.leeway
        return Identity(subject, "jwt", consumer.rate_limit if consumer else None, expires_at)

    def _verify(self, token: str, header: dict[str, Any], issuer: Issuer) -> None:
        """Check the signature under the issuer's own keys and algorithms; ``jku x5u jwk x5c`` mean nothing."""
        if header.get("alg") not in issuer.algorithms:
            raise denied(
                "signature", f"The token is not signed by {' or '.join(issuer.algorithms)}, as its issuer does."
            )
        if "crit" in header:
            raise denied("malformed", "The token's header makes demands that are not understood here.")
        keys = self._sets.get(issuer.name, {})
        kid = header.get("kid")
        key = keys.get(kid) if isinstance(kid, str) else next(iter(keys.values())) if len(keys) == 1 else None
        if key is None:
            raise UnknownKey(issuer)
        try:
            jwt.decode(token, key, algorithms=list(issuer.algorithms), options=_SIGNATURE_ONLY)
        except jwt.PyJWTError:
            raise denied("signature", "The token's signature does not verify.") from None


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    # Claims are checked by check_times and its neighbours, against the clock that is handed in.
    **dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"), False
    ),
}


def denied(what: str, detail: str) -> Denied:
    """A token's refusal: slug ``token_<what>``."""
    return Denied(f"token_{what}", detail, error="invalid_token")


def no_key(issuer: Issuer) -> Denied:
    """The last word when a fresh key set does not hold the key either."""
    return denied("signature", f"The token is signed by a key that {issuer.name} does not publish.")


def check_times(claims: dict[str, Any], issuer: Issuer, now: float) -> None:
    """``exp`` must be there; ``nbf`` and ``iat`` are heeded when they are (RFC 7519 section 4.1)."""
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise denied("malformed", f"The token's {name} claim is not a time.")
    if "exp" not in times:
        raise denied("malformed", "The token has no exp claim.")
    if now >= times["exp"] + issuer.leeway:
        raise denied("expired", "The token has expired.")
    if any(now < times[name] - issuer.leeway for name in ("nbf", "iat") if name in times):
        raise denied("not_yet_valid", "The token is not valid yet.")
