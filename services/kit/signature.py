"""Envelopes that many may read and one may write: signed with Ed25519 (RFC 8032), by whoever has the private key.

For published configuration: a gateway node, which faces the world, can check a revision and can't make one.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import env
from .seal import Opened, Refused, opened, proven, unwrap, wrap


class Verifier:
    """Opens what the owner of the key signed."""

    def __init__(self, public: str) -> None:
        """``public`` is 32 bytes in base64; ValueError when it is not."""
        raw = urlsafe_b64decode(public.strip() + "=" * (-len(public.strip()) % 4))
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    def open(self, purpose: str, data: bytes | str) -> Opened:
        """What was signed for ``purpose``; Refused for anything else."""
        proof, at, body = unwrap(data)
        try:
            self._key.verify(proof, proven(purpose, at, body))
        except InvalidSignature:
            raise Refused("signed by nobody we know, or for another purpose") from None
        return opened(at, body)


class Signer(Verifier):
    """Signs, and opens what it signed."""

    def __init__(self, secret: str) -> None:
        """The key pair that follows from ``secret``, which has to be long and random."""
        self._private = Ed25519PrivateKey.from_private_bytes(
            hashlib.sha256(b"mission-control signature\0" + secret.encode()).digest()
        )
        self._key = self._private.public_key()

    @property
    def public(self) -> str:
        """The public key, as Verifier takes it."""
        return urlsafe_b64encode(self._key.public_bytes_raw()).rstrip(b"=").decode()

    def close(self, purpose: str, body: bytes, at: float) -> bytes:
        """The signed envelope of ``body`` for ``purpose``."""
        when = b"%.3f" % at
        return wrap(self._private.sign(proven(purpose, when, body)), when, body)


def signer() -> Signer:
    """For whoever publishes: by ``MC_REVISION_KEY``; EnvError without one."""
    return Signer(env.secret("MC_REVISION_KEY"))


def verifier() -> Verifier:
    """For whoever follows: by ``MC_REVISION_PUBLIC_KEY``, else by the private one of this machine's control; EnvError
    when there is neither."""
    given = env.text("MC_REVISION_PUBLIC_KEY", "")
    if not given and not env.text("MC_REVISION_PUBLIC_KEY_FILE", ""):
        return Verifier(signer().public)
    try:
        return Verifier(given or env.secret("MC_REVISION_PUBLIC_KEY"))
    except ValueError as error:
        if isinstance(error, env.EnvError):
            raise
        raise env.EnvError("MC_REVISION_PUBLIC_KEY is no key: python -m missioncontrol.keys prints it.") from None
