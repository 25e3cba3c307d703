"""The envelope of what our processes tell each other on Redis: whoever can write there is not one of us by that.

An envelope is ``mc1:<proof>:<at>:<body>``. The proof covers the body, the second at which it was made and the
*purpose*, the name under which it lies or travels, so that a true message can't be moved to another key. It is an
HMAC-SHA-256 here, and a signature in services.kit.signature. Nothing in an envelope chooses how it is checked. What a
true message of yesterday may still do is its reader's business: ``Opened.at`` tells its age.

Standard library only: the launcher reads signs of life.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

VERSION = b"mc1"


class Refused(ValueError):
    """Not an envelope, or not by whom it should be."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that is believed. ``at``: wall-clock seconds when it was sealed."""

    at: float
    body: bytes


def place(name: str, field: str = "") -> str:
    """The purpose of what lies under ``name`` (a key, a channel), in ``field`` of it (a field, an entry)."""
    return f"{name}\n{field}" if field else name


def wrap(proof: bytes, at: bytes, body: bytes) -> bytes:
    """The envelope around what was proven."""
    return b":".join((VERSION, urlsafe_b64encode(proof).rstrip(b"="), at, body))


def unwrap(data: bytes | str) -> tuple[bytes, bytes, bytes]:
    """Proof, time and body, none of them proven yet; Refused when this is no envelope."""
    if isinstance(data, str):
        data = data.encode(errors="replace")
    parts = data.split(b":", 3)
    if len(parts) != 4 or parts[0] != VERSION or len(parts[1]) > 128:
        raise Refused("not sealed")
    try:
        proof = urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4))
    except ValueError:
        raise Refused("not sealed") from None
    if urlsafe_b64encode(proof).rstrip(b"=") != parts[1]:
        raise Refused("not sealed")  # one envelope has one spelling, by which it is known again
    return proof, parts[2], parts[3]


def proven(purpose: str, at: bytes, body: bytes) -> bytes:
    """The bytes that a proof covers; the length in front keeps purpose and time apart."""
    name = purpose.encode(errors="replace")
    return b"%b:%d:%b:%b:%b" % (VERSION, len(name), name, at, body)


def opened(at: bytes, body: bytes) -> Opened:
    """What was just proven."""
    try:
        return Opened(float(at), body)
    except ValueError:
        raise Refused("its time can't be read") from None


class Seal:
    """Closes and opens envelopes under one key, which every process that may say or believe them holds."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"mission-control seal\0" + secret.encode()).digest()

    def close(self, purpose: str, body: bytes, at: float) -> bytes:
        """The envelope of ``body`` for ``purpose``."""
        when = b"%.3f" % at
        return wrap(self._proof(purpose, when, body), when, body)

    def open(self, purpose: str, data: bytes | str) -> Opened:
        """What was sealed for ``purpose``; Refused for anything else."""
        proof, when, body = unwrap(data)
        if not hmac.compare_digest(proof, self._proof(purpose, when, body)):
            raise Refused("sealed by nobody we know, or for another purpose")
        return opened(when, body)

    def _proof(self, purpose: str, at: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, proven(purpose, at, body), "sha256")
