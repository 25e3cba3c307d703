"""Who is calling: API keys by keyed hash and JWTs by pinned algorithm, both remembered once proven.

Pure: the key sets of issuers and wall-clock ``now`` are handed in. Every refusal says which thing is
wrong, so that the caller can mend it; none says anything about other keys or consumers.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jwt

from apps.gateway.core.config import EVERYONE, Consumer, Document, Issuer, Key
from apps.gateway.core.jws import MAX_TOKEN, Malformed, moment, read
from apps.gateway.core.trace import Text
from services.kit.problem import Problem, Refused

REMEMBERED = 10_000
"""Most proven keys, and most proven tokens, a worker remembers."""

BEARER = 'Bearer realm="mission-control"'
_CONSUMER = Text("mc.consumer")


class Identity:
    """A caller that proved who it is."""

    __slots__ = ("attribute", "consumer", "expires_at", "issuer", "line", "method", "names", "rate_limit", "scopes")

    def __init__(
        self,
        consumer: str,
        method: str,
        rate_limit: str | None,
        expires_at: float,
        *,
        groups: Iterable[str] = (),
        scopes: Iterable[str] = (),
        issuer: str = "",
    ) -> None:
        self.consumer = consumer
        """A consumer's name, or ``issuer/subject``, which no consumer is called."""
        self.method = method
        self.rate_limit = rate_limit
        """The consumer's own limit, which overrides the route's."""
        self.expires_at = expires_at
        self.names = frozenset((consumer, EVERYONE, *(f"@{group}" for group in groups)))
        """All that a route may call it by to let it in."""
        self.scopes = frozenset(scopes)
        self.issuer = issuer
        """Whose token it was; empty for a key."""
        self.line = f"X-Consumer: {consumer}\r\n".encode("ascii")
        self.attribute = _CONSUMER.encode(consumer.encode("ascii"))
        """Of the request's span."""


class Denied(Refused):
    """401, with the challenge that RFC 9110 section 11.6.1 asks for, or 403."""

    def __init__(self, failure: str, detail: str, status: int = 401, error: str = "") -> None:
        super().__init__(Problem(status, failure, detail))
        self.challenge = f'{BEARER}, error="{error}"' if error else BEARER if status == 401 else ""


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
        identity = Identity(
            consumer.name, "key", consumer.rate_limit, expires_at, groups=consumer.groups, scopes=key.scopes
        )
        remember(self._proven, raw, identity)
        return identity

    def _find(self, raw: bytes) -> Key | None:
        if len(raw) > MAX_TOKEN:
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


SUBJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""How a subject looks that no consumer claims; it goes into header lines and limits as it is."""


class Tokens:
    """The JWT issuers of one document, and the tokens proven under them."""

    __slots__ = ("_issuers", "_proven", "_sets", "_subjects")

    def __init__(self, document: Document, key_sets: KeySets) -> None:
        """``key_sets`` is read at each proof, so the caller may put fresh keys into it."""
        self._issuers = {issuer.issuer: issuer for issuer in document.issuers if issuer.enabled}
        self._subjects = {subject: consumer for consumer in document.consumers for subject in consumer.subjects}
        self._sets = key_sets
        self._proven: dict[bytes, Identity] = {}

    def identify(self, raw: bytes, now: float, accepted: frozenset[str]) -> Identity:
        """Who the token speaks for, when its issuer is one of ``accepted`` (issuers' names here).

        Raises Denied, or UnknownKey when a fresh key set could change the answer.
        """
        identity = self._proven.get(raw)
        if identity is not None and now < identity.expires_at:
            if identity.issuer not in accepted:
                raise not_trusted()
            return identity
        if identity is not None:
            del self._proven[raw]
        try:
            identity = self._prove(raw, now, accepted)
        except Malformed as error:
            raise denied("malformed", f"The token is not a signed JWT: {error}.") from None
        remember(self._proven, raw, identity)
        return identity

    def forget(self) -> None:
        """Drop every proof: a key set changed, and a withdrawn key may have signed some of them."""
        self._proven.clear()

    def _prove(self, raw: bytes, now: float, accepted: frozenset[str]) -> Identity:
        header, claims = read(raw)
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None or issuer.name not in accepted:
            raise not_trusted()
        self._verify(raw, header, issuer)
        expires = check_times(claims, issuer, now)
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise denied("audience", f"The token is not for {issuer.audience}.")
        caller = self._speaks_for(claims.get(issuer.consumer_claim), issuer)
        scope = claims.get("scope")
        return Identity(
            caller.name,
            "jwt",
            caller.rate_limit,
            expires + issuer.leeway,
            groups=caller.groups,
            scopes=scope.split(" ") if isinstance(scope, str) else (),
            issuer=issuer.name,
        )

    def _speaks_for(self, subject: object, issuer: Issuer) -> Consumer:
        """The consumer that claims the subject, else the subject itself, where it may call.

        Within the issuer's own namespace, so that no issuer can name another's subject or a key's consumer.
        """
        if not isinstance(subject, str):
            raise Malformed(f"its {issuer.consumer_claim} claim is not text")
        name = f"{issuer.name}/{subject}"
        consumer = self._subjects.get(name)
        if consumer is not None:
            refuse_disabled(consumer)
            return consumer
        if issuer.subjects == "any" and SUBJECT.fullmatch(subject):
            return Consumer(name)
        raise denied("subject", f"The token's {issuer.consumer_claim} claim names nobody who may call here.")

    def _verify(self, raw: bytes, header: dict[str, Any], issuer: Issuer) -> None:
        """Check the signature under the issuer's own keys and algorithms; ``jku x5u jwk x5c`` mean nothing."""
        if header.get("alg") not in issuer.algorithms:
            raise denied(
                "signature", f"The token is not signed by {' or '.join(issuer.algorithms)}, as its issuer does."
            )
        if "crit" in header:
            raise Malformed("its header makes demands that are not understood here")
        keys = self._sets.get(issuer.name, {})
        kid = header.get("kid")
        key = keys.get(kid) if isinstance(kid, str) else next(iter(keys.values())) if len(keys) == 1 else None
        if key is None:
            raise UnknownKey(issuer)
        # The library verifies by the key's own algorithm, whatever the header says.
        if key.algorithm_name != header["alg"]:
            raise denied("signature", "The token's algorithm is not its key's.")
        try:
            _signatures.decode(raw, key, algorithms=list(issuer.algorithms))
        except jwt.PyJWTError:
            raise denied("signature", "The token's signature does not verify.") from None


_signatures = jwt.PyJWS()


def denied(what: str, detail: str) -> Denied:
    """A token's refusal: slug ``token_<what>``."""
    return Denied(f"token_{what}", detail, error="invalid_token")


def not_trusted() -> Denied:
    """Nobody here, or not this route, believes the token's issuer."""
    return denied("issuer", "The token's issuer is not trusted here.")


def no_key(issuer: Issuer) -> Denied:
    """The last word when a fresh key set does not hold the key either."""
    return denied("signature", f"The token is signed by a key that {issuer.name} does not publish.")


def check_times(claims: dict[str, Any], issuer: Issuer, now: float) -> float:
    """``exp``, which must be there and not too far off; ``nbf`` and ``iat`` are heeded (RFC 7519 section 4.1)."""
    expires, begins, issued = moment(claims, "exp"), moment(claims, "nbf"), moment(claims, "iat")
    if expires is None:
        raise Malformed("it has no exp claim")
    if now >= expires + issuer.leeway:
        raise denied("expired", "The token has expired.")
    if any(when is not None and now < when - issuer.leeway for when in (begins, issued)):
        raise denied("not_yet_valid", "The token is not valid yet.")
    if expires - (now if issued is None else issued) > issuer.max_lifetime + issuer.leeway:
        raise denied("lifetime", f"Tokens of {issuer.name} may live for {issuer.max_lifetime:g} s at most.")
    return expires
