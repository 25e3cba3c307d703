"""Issuers' key sets: fetched in the background, kept on disk, fetched again when a token names an unknown key."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from apps.gateway.core.config import Issuer
from apps.gateway.core.metrics import Metrics
from apps.gateway.plane.fetch import Endpoint, FetchError, endpoint
from apps.lib.addresses import Guard
from apps.lib.clock import monotonic
from services.kit.files import write_private

log = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0
RETRY_SECONDS = 5.0
"""After a failed fetch, and at least between two that unknown keys asked for."""
MAX_BYTES = 262_144
MAX_KEYS = 64
MAX_WAITING = 1000


class Waiter(Protocol):
    """A request that waits for a fresh key set."""

    def resume(self) -> None: ...


class _Source:
    """One issuer's address and when it was last asked."""

    __slots__ = ("asked_at", "due", "endpoint", "fetching", "issuer", "seen", "waiting")

    def __init__(self, issuer: Issuer, source: Endpoint) -> None:
        self.issuer = issuer
        self.endpoint = source
        self.due = 0.0
        self.asked_at = float("-inf")
        self.fetching = False
        self.waiting: list[Waiter] = []
        self.seen = b""
        """The set as last read, from the issuer or from disk."""


class KeyStore:
    """The key sets of all issuers."""

    def __init__(self, home: Path, metrics: Metrics, changed: Callable[[], None], guard: Guard) -> None:
        self.sets: dict[str, dict[str, jwt.PyJWK]] = {}
        self._home = home / "jwks"
        self._metrics = metrics
        self._changed = changed
        self._guard = guard
        self._sources: dict[str, _Source] = {}
        self._wake = asyncio.Event()

    def configure(self, issuers: tuple[Issuer, ...]) -> None:
        """Follow a revision's issuers; a new one's keys come from disk until the first fetch."""
        before, self._sources = self._sources, {}
        for issuer in issuers:
            if not issuer.enabled:
                continue
            source = before.get(issuer.name)
            if source is None or source.issuer.jwks_url != issuer.jwks_url:
                source = _Source(issuer, endpoint(f"jwks:{issuer.name}", issuer.jwks_url, self._guard))
                source.seen = self._load(issuer)
            source.issuer = issuer
            self._sources[issuer.name] = source
        for name, source in before.items():
            if self._sources.get(name) is not source:
                source.endpoint.instance.retire()
                _tell(source)
        for name in [name for name in self.sets if name not in self._sources]:
            del self.sets[name]
        self._wake.set()

    def want(self, issuer: Issuer, waiter: Waiter) -> bool:
        """A token named an unknown key. True: ``waiter`` hears when a fresh set is there; False: it just was."""
        source = self._sources.get(issuer.name)
        now = monotonic()
        if source is None or len(source.waiting) >= MAX_WAITING:
            return False
        if not source.fetching:
            if not source.waiting and now - source.asked_at < RETRY_SECONDS:
                return False
            source.due = now
            self._wake.set()
        source.waiting.append(waiter)
        return True

    async def run(self) -> None:
        """Fetch what is due."""
        while True:
            self._wake.clear()
            now = monotonic()
            due = [source for source in self._sources.values() if source.due <= now]
            if due:
                await asyncio.gather(*(self._fetch(source) for source in due))
                continue
            wait = min((source.due - now for source in self._sources.values()), default=60.0)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """The worker ends."""
        for source in self._sources.values():
            source.endpoint.instance.close()

    async def _fetch(self, source: _Source) -> None:
        issuer = source.issuer
        source.asked_at = monotonic()
        source.fetching = True
        try:
            status, data = await source.endpoint.call("GET", b"Accept: application/json\r\n", limit=MAX_BYTES)
            if status != 200:
                raise FetchError(f"The key set answered {status}.")
            keys = parse(data)
        except (FetchError, ValueError) as error:
            source.due = monotonic() + RETRY_SECONDS
            self._metrics.count("mc.gateway.jwks.failures", issuer.name)
            log.warning("Keys of %s: %s", issuer.name, error)
        else:
            source.due = monotonic() + REFRESH_SECONDS
            # The issuer may be gone or elsewhere by now, and these keys are another's.
            if data != source.seen and self._sources.get(issuer.name) is source:
                source.seen = data
                self.sets[issuer.name] = keys
                self._changed()
                self._save(issuer, data)
        finally:
            source.fetching = False
            _tell(source)

    def _load(self, issuer: Issuer) -> bytes:
        """The keys on disk, if they are from the issuer's address: another issuer may have had its name."""
        self.sets.pop(issuer.name, None)
        try:
            origin, _, data = (self._home / f"{issuer.name}.jwks").read_bytes().partition(b"\n")
            if origin != issuer.jwks_url.encode():
                return b""
            self.sets[issuer.name] = parse(data)
        except (OSError, ValueError):
            return b""  # the first fetch brings them
        return data

    def _save(self, issuer: Issuer, data: bytes) -> None:
        try:
            write_private(self._home / f"{issuer.name}.jwks", issuer.jwks_url.encode() + b"\n" + data)
        except OSError as error:
            log.warning("Keys of %s can't be kept on disk (%s)", issuer.name, error.strerror)


def _tell(source: _Source) -> None:
    """Who waits hears that there is nothing more to wait for: by the loop, once a revision is in use."""
    waiting, source.waiting = source.waiting, []
    for waiter in waiting:
        asyncio.get_running_loop().call_soon(waiter.resume)


KINDS = {"OKP": "EdDSA", "RSA": "RS256", "EC": "ES256"}
"""Key types and the one algorithm that each is good for here."""
SMALLEST_RSA = 2048
"""RFC 7518 section 3.3."""


def parse(data: bytes) -> dict[str, jwt.PyJWK]:
    """Public signing keys by id; ValueError when this is no key set. Symmetric, foreign and weak keys are left out."""
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("That is nested too deeply for a key set.") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("That is not a JSON Web Key Set.")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries[:MAX_KEYS]:
        key = _key(entry)
        if key is not None:
            keys[str(entry.get("kid", ""))] = key
    return keys


def _key(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    uses = entry.get("key_ops", ["verify"])  # RFC 7517 section 4.3
    if not isinstance(uses, list) or "verify" not in uses:
        return None
    kind = entry.get("kty")
    algorithm = KINDS.get(kind) if isinstance(kind, str) else None
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK({name: value for name, value in entry.items() if name != "d"}, algorithm)
    except jwt.PyJWTError:
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < SMALLEST_RSA:
        return None
    return key
