"""Standard Webhooks (specification of standard-webhooks/standard-webhooks): how a request proves who sent it. Pure.

The signature is an HMAC-SHA-256 of ``<webhook-id>.<webhook-timestamp>.<body>``. While a secret is being replaced both
sign, joined by a space, so that the receiver takes the new one when it likes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
SIZE: Final = 32
"""Bytes of a secret; the specification asks for 24 to 64."""


def new_secret() -> str:
    """A secret as people copy it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SIZE)).decode()


def key_of(secret: str) -> bytes:
    """The bytes that sign; ValueError for what is no secret."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("This is no secret of a webhook.") from None


def message_id(source: str, event_id: str) -> str:
    """The ``webhook-id``: the same for each attempt at an event, so that receivers know it again.

    A CloudEvent is known by its source and id together, and either may hold what no header does.
    """
    return "msg_" + hashlib.sha256(f"{source}\0{event_id}".encode()).hexdigest()[:40]


def headers(id: str, at: float, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """What a request carries beside ``body``; ``at`` in wall-clock seconds."""
    seconds = str(int(at))
    signed = b"%b.%b.%b" % (id.encode(), seconds.encode(), body)
    proofs = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{proof}" for proof in proofs),
    }
