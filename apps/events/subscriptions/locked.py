"""Secrets that must be read again, encrypted in the database: AES-256-GCM under a key that follows from
DJANGO_SECRET_KEY. A copy of the database gives none of them away, and none can be moved to another row."""

from __future__ import annotations

import base64
import binascii
import os
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

NONCE: Final = 12
VERSION: Final = "v1:"


class Unreadable(ValueError):
    """It was locked under another key, or for another place."""


def lock(text: str, place: str) -> str:
    """``text``, encrypted for ``place``."""
    nonce = os.urandom(NONCE)
    return VERSION + base64.b64encode(nonce + _key().encrypt(nonce, text.encode(), place.encode())).decode()


def unlock(locked: str, place: str) -> str:
    """What was locked for ``place``; Unreadable for anything else."""
    try:
        raw = base64.b64decode(locked.removeprefix(VERSION), validate=True)
        return _key().decrypt(raw[:NONCE], raw[NONCE:], place.encode()).decode()
    except (InvalidTag, binascii.Error, ValueError):
        raise Unreadable("The secret can't be read: DJANGO_SECRET_KEY is another one now. Rotate the secret.") from None


def _key() -> AESGCM:
    return _derived(settings.SECRET_KEY)


@lru_cache(maxsize=2)
def _derived(secret: str) -> AESGCM:
    key = HKDF(SHA256(), 32, salt=None, info=b"mission-control webhook secrets").derive(secret.encode())
    return AESGCM(key)
