"""aegis's clients: who may ask for tokens, and the check of their secrets.

Secrets are kept as scrypt hashes (RFC 7914; 16 MB and some 40 ms a guess). Clients of the clients
file are brought in line at every start; the file remains their source.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from services.kit.store import Migration, Tables

CLIENTS = Tables(
    "aegis",
    Migration(
        "CREATE TABLE clients (id TEXT PRIMARY KEY, salt TEXT NOT NULL, hash TEXT NOT NULL, "
        "scopes TEXT NOT NULL, from_file INTEGER NOT NULL)"
    ),
)
DEFAULT_SCOPES = ("api",)
MAX_SECRET = 256

_log = logging.getLogger("services.aegis")


@dataclass(frozen=True, slots=True)
class Client:
    """One client, with the salted hash of its secret."""

    id: str
    salt: str
    hash: str
    scopes: tuple[str, ...]

    def knows(self, secret: str) -> bool:
        """Whether ``secret`` is the client's; slow on purpose, so call it off the event loop."""
        return hmac.compare_digest(digest(secret, self.salt), self.hash)


NOBODY = Client("", "00" * 16, "0" * 64, ())
"""Stands in for an unknown client, so that knowing a name can't be told from the time of an answer."""


def digest(secret: str, salt: str) -> str:
    """scrypt of ``secret`` in hex."""
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32).hex()


def find(connection: Connection, identity: str) -> Client | None:
    """The client of this id."""
    row = connection.execute(
        text("SELECT id, salt, hash, scopes FROM clients WHERE id = :id"), {"id": identity}
    ).first()
    return None if row is None else Client(row.id, row.salt, row.hash, tuple(row.scopes.split()))


def read_file(path: Path) -> dict[str, str]:
    """Client id → secret; nobody when there is no file."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        _log.warning("%s is not there: only clients already known can ask for tokens", path)
        return {}
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{path} can't be read as clients ({error}).") from None
    if not isinstance(found, dict) or not all(isinstance(value, str) and value for value in found.values()):
        raise RuntimeError(f"{path} must be a JSON object of client ids and secrets.")
    return found


def bring_in_line(connection: Connection, secrets: Mapping[str, str]) -> None:
    """Make the file's clients exactly these."""
    for row in connection.execute(text("SELECT id FROM clients WHERE from_file = 1")).all():
        if row.id not in secrets:
            connection.execute(text("DELETE FROM clients WHERE id = :id"), {"id": row.id})
    for identity, secret in secrets.items():
        known = find(connection, identity)
        if known is not None and known.knows(secret):
            continue
        salt = os.urandom(16).hex()
        connection.execute(
            text(
                "INSERT INTO clients (id, salt, hash, scopes, from_file) VALUES (:id, :salt, :hash, :scopes, 1) "
                "ON CONFLICT (id) DO UPDATE SET salt = excluded.salt, hash = excluded.hash"
            ),
            {"id": identity, "salt": salt, "hash": digest(secret, salt), "scopes": " ".join(DEFAULT_SCOPES)},
        )
