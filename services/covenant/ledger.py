"""The chain: what an entry is, how it is sealed, and how a chain is verified. Pure.

An entry's hash is the SHA-256, in lower-case hex, of its canonical form: the UTF-8 JSON object of
exactly the members ``amount currency from height id memo previous_hash recorded_at recorded_by to``,
keys in that (alphabetical) order, no white space, non-ASCII characters as themselves, and JSON's
shortest escapes (RFC 8785 gives the same bytes, since ``height`` is the only number and is whole).
``previous_hash`` is the hash of the entry one height below; the first entry has 64 zeros. Whoever
holds the newest hash can therefore prove any change to any entry before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from services.kit.money import format_amount

GENESIS: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Draft:
    """A transaction that has been asked for. ``amount`` is in minor units; ``recorded_by`` asked for it."""

    sender: str
    recipient: str
    amount: int
    currency: str
    memo: str
    recorded_by: str

    def digest(self) -> str:
        """Tells one request from another under the same idempotency key."""
        parts = [self.sender, self.recipient, str(self.amount), self.currency, self.memo]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction in the chain. ``recorded_at`` is RFC 3339 in UTC with microseconds."""

    height: int
    id: str
    sender: str
    recipient: str
    amount: int
    currency: str
    memo: str
    recorded_by: str
    recorded_at: str
    previous_hash: str
    hash: str

    def public(self) -> dict[str, Any]:
        """The entry as clients and events see it."""
        return {**_content(self), "hash": self.hash}


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a chain is broken first, and how."""

    height: int
    reason: str


def seal(draft: Draft, *, height: int, id: str, recorded_at: str, previous_hash: str) -> Entry:
    """The entry that ``draft`` becomes on top of ``previous_hash``."""
    entry = Entry(
        height=height,
        id=id,
        sender=draft.sender,
        recipient=draft.recipient,
        amount=draft.amount,
        currency=draft.currency,
        memo=draft.memo,
        recorded_by=draft.recorded_by,
        recorded_at=recorded_at,
        previous_hash=previous_hash,
        hash="",
    )
    return _with_hash(entry)


def canonical(entry: Entry) -> bytes:
    """The bytes that are hashed."""
    return json.dumps(_content(entry), ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def hash_of(entry: Entry) -> str:
    """What ``entry.hash`` has to be."""
    return hashlib.sha256(canonical(entry)).hexdigest()


def verify(entries: Iterable[Entry], *, height: int = 0, previous_hash: str = GENESIS) -> tuple[int, str, Fault | None]:
    """Walk ``entries``, the chain above ``height``: the last good height, its hash, and the first fault."""
    for entry in entries:
        if entry.height != height + 1:
            return height, previous_hash, Fault(height + 1, "the entry is missing")
        if entry.previous_hash != previous_hash:
            return height, previous_hash, Fault(entry.height, "it does not continue from the entry before it")
        if hash_of(entry) != entry.hash:
            return height, previous_hash, Fault(entry.height, "its content does not match its hash")
        height, previous_hash = entry.height, entry.hash
    return height, previous_hash, None


def _with_hash(entry: Entry) -> Entry:
    values = {name: getattr(entry, name) for name in entry.__slots__}
    return Entry(**{**values, "hash": hash_of(entry)})


def _content(entry: Entry) -> dict[str, Any]:
    return {
        "height": entry.height,
        "id": entry.id,
        "from": entry.sender,
        "to": entry.recipient,
        "amount": format_amount(entry.amount),
        "currency": entry.currency,
        "memo": entry.memo,
        "recorded_by": entry.recorded_by,
        "recorded_at": entry.recorded_at,
        "previous_hash": entry.previous_hash,
    }
