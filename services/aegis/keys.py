"""The signing keys: a file of Ed25519 keys, one of which signs while all of them verify.

A new key is published some minutes before it signs, so that whoever caches the key set knows it in
time; an old one stays published until the last token it signed has expired. ``python -m
services.aegis.rotate`` adds a key; a running aegis sees the changed file by itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

NOTICE_SECONDS = 600
"""Between a key's publication and its first signature; longer than ``max-age`` of the key set."""
RETIRE_SECONDS = 3600
"""A key is published this long after the next one began to sign; longer than any token lives."""


class BadKeys(RuntimeError):
    """The file holds no usable keys; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``signs_from`` is wall-clock seconds; ``kid`` its RFC 7638 thumbprint."""

    kid: str
    private: Ed25519PrivateKey
    signs_from: float

    @property
    def public(self) -> Ed25519PublicKey:
        """The half that verifies."""
        return self.private.public_key()

    def jwk(self) -> dict[str, str]:
        """The public half as RFC 8037 has it."""
        return {"kty": "OKP", "crv": "Ed25519", "x": _x(self.private), "kid": self.kid, "use": "sig", "alg": "EdDSA"}


class KeyRing:
    """The keys in ``path``; the first start makes one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[Key, ...] = ()
        self._seen: tuple[int, int] = (0, 0)

    def load(self) -> None:
        """Read the file if it changed; BadKeys when it can't be used."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            write(self._path, [new_key(0.0)])
            status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._keys = read(self._path)
            self._seen = seen

    def signing(self, now: float) -> Key:
        """The newest key whose time has come."""
        self.load()
        due = [key for key in self._keys if key.signs_from <= now]
        return max(due, key=lambda key: key.signs_from) if due else self._keys[0]

    def published(self, now: float) -> list[Key]:
        """Keys that verify: the one that signs, those to come, and those whose tokens may still be about."""
        current = self.signing(now)
        return [
            key
            for key in self._keys
            if key.signs_from >= current.signs_from or now - current.signs_from < RETIRE_SECONDS
        ]


def new_key(signs_from: float) -> Key:
    """A fresh key."""
    private = Ed25519PrivateKey.generate()
    return Key(_thumbprint(private), private, signs_from)


def rotate(path: Path, now: float) -> Key:
    """Add a key that signs after the notice, and drop those that no token needs; the new key."""
    ring = KeyRing(path)
    key = new_key(now + NOTICE_SECONDS)
    write(path, [*ring.published(now), key])
    return key


def read(path: Path) -> tuple[Key, ...]:
    """The keys in ``path``, by the time they begin to sign."""
    try:
        entries = json.loads(path.read_text())["keys"]
        keys = [_decode(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadKeys(f"{path} can't be read as signing keys ({type(error).__name__}).") from None
    if not keys:
        raise BadKeys(f"{path} holds no keys.")
    return tuple(sorted(keys, key=lambda key: key.signs_from))


def write(path: Path, keys: list[Key]) -> None:
    """Replace the file in one step, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    body = json.dumps({"keys": [{"d": _d(key.private), "signs_from": key.signs_from} for key in keys]}, indent=2)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _decode(entry: dict[str, Any]) -> Key:
    raw = base64.urlsafe_b64decode(entry["d"] + "==")
    private = Ed25519PrivateKey.from_private_bytes(raw)
    return Key(_thumbprint(private), private, float(entry["signs_from"]))


def _thumbprint(private: Ed25519PrivateKey) -> str:
    members = {"crv": "Ed25519", "kty": "OKP", "x": _x(private)}
    digest = hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest()
    return _b64(digest)


def _x(private: Ed25519PrivateKey) -> str:
    return _b64(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _d(private: Ed25519PrivateKey) -> str:
    return _b64(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
