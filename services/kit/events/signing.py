"""Who published an event, provable: its canonical form, the proof that it carries, and the keys that are believed.

Pure. An event on a broker carries ``mckey``, which names a key, and ``mcproof``: HMAC-SHA-256 under that key's secret,
in base64url without padding, over the canonical form, which is these bytes:

- ``mission-control event 1`` and a line feed,
- every attribute but ``mcproof``, as text (CloudEvents section 3.1), as a JSON array of ``[name, value]`` in the order
  of the names, and a line feed,
- the data as JSON, the members of its objects in the order of their names,

all JSON without white space and non-ASCII characters as themselves. It is made of the event as it was read, so each
binding's own way to write it is left behind, and what was proven is what a handler gets.

Whoever can check a proof of this kind could make one (docs/decisions/0028-signed-events.md): a key speaks for one
source, and no process needs more keys than those of the sources that it reads and its own.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from .cloudevent import KEY, PROOF, SPEC_VERSION, CloudEvent, attributes, timestamp

if TYPE_CHECKING:
    from _hashlib import HASH as Hash

CONTROL: Final = "mission-control"
"""The source of what Mission Control itself publishes."""
CLIENTS: Final = "client/"
"""What sources of those begin with who publish by Mission Control's API, which asked them who they are."""
SIGNATURE: Final = frozenset({KEY, PROOF})
JSON: Final = "application/json"
TITLE: Final = b"mission-control event 1\n"
BLOCK: Final = hashlib.sha256().block_size
MIN_SECRET: Final = 32
"""Characters: a secret that is shorter could be guessed from any event on the broker."""

_JSON: Final = msgspec.json.Encoder()
_SORTED: Final = msgspec.json.Encoder(order="sorted")


class BadKey(ValueError):
    """What should be a key can't be one; the message is one sentence."""


class NoKey(Exception):
    """There is nothing to sign with; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and the one source that it speaks for."""

    source: str
    secret: bytes = field(repr=False)
    id: str
    """Follows from both, and tells nothing of the secret."""
    inner: Hash = field(repr=False, compare=False)
    outer: Hash = field(repr=False, compare=False)
    """HMAC-SHA-256 under the secret, before anything was said, as the two hashes that it is made of (RFC 2104 section
    2): to be copied. What Python wraps around them costs as much as they do."""

    @classmethod
    def of(cls, source: str, secret: str) -> Key:
        """BadKey for a source without a name or a secret that is too short."""
        if not source:
            raise BadKey("A key must name the source that it speaks for.")
        if len(secret) < MIN_SECRET:
            raise BadKey(f"The secret of {source} is {len(secret)} characters long; it takes {MIN_SECRET} or more.")
        raw = secret.encode()
        name = hmac.new(raw, f"mission-control event key\n{source}".encode(), hashlib.sha256).hexdigest()
        block = (hashlib.sha256(raw).digest() if len(raw) > BLOCK else raw).ljust(BLOCK, b"\0")
        inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
        return cls(source, raw, name[:16], inner, outer)

    def mac(self, said: bytes) -> bytes:
        """HMAC-SHA-256 of it."""
        inner, outer = self.inner.copy(), self.outer.copy()
        inner.update(said)
        outer.update(inner.digest())
        return outer.digest()


class Keys(Protocol):
    """The keys of one process: its own, and those of whom it reads."""

    def sign(self, event: CloudEvent, speaker: str) -> CloudEvent:
        """The event as ``speaker`` publishes it; NoKey."""

    def may_speak(self, speaker: str, source: str) -> bool:
        """Whether readers would believe ``speaker`` what it signs in the name of ``source``."""

    def refusal(self, event: CloudEvent) -> str:
        """Why the event is not to be believed, for a person; nothing when it is."""

    def usable(self) -> str:
        """Why no event can be told from a forged one, for a person; nothing when they can."""


def canonical(event: CloudEvent) -> bytes:
    """What a proof is over. ValueError or RecursionError for an event that can't be written."""
    own = event.extensions
    usual = own.keys() <= SIGNATURE and isinstance(own.get(KEY, ""), str)
    said = _usual_attributes(event) if usual else _attributes(event)
    return b"".join((TITLE, _JSON.encode(said), b"\n", _SORTED.encode(event.data)))


def _attributes(event: CloudEvent) -> list[tuple[str, str]]:
    named = attributes(event)
    named.pop(PROOF, None)
    # Both say JSON; a binding may leave it out.
    named["datacontenttype"] = named["datacontenttype"] or JSON
    return sorted(named.items())


def _usual_attributes(event: CloudEvent) -> list[tuple[str, Any]]:
    """The same of an event without extensions but those of its signature: its names have an order before they are
    there, and sorting them takes as long as all else here."""
    said: list[tuple[str, Any]] = []
    if event.causation_id:
        said.append(("causationid", event.causation_id))
    if event.correlation_id:
        said.append(("correlationid", event.correlation_id))
    said.append(("datacontenttype", event.datacontenttype or JSON))
    if event.dataschema:
        said.append(("dataschema", event.dataschema))
    said.append(("id", event.id))
    if (key := event.extensions.get(KEY)) is not None:
        said.append((KEY, key))
    if event.partition_key:
        said.append(("partitionkey", event.partition_key))
    if event.sequence:
        said.append(("sequence", str(event.sequence)))
    said += (("source", event.source), ("specversion", SPEC_VERSION))
    if event.subject:
        said.append(("subject", event.subject))
    said.append(("time", timestamp(event.time)))
    if event.traceparent:
        said.append(("traceparent", event.traceparent))
    said.append(("type", event.type))
    return said


def sign(event: CloudEvent, key: Key) -> CloudEvent:
    """The event with its proof, in the place of any other; errors as for ``canonical``."""
    extensions = {**event.extensions, KEY: key.id}
    signed = replace(event, extensions=extensions)
    # Nobody else has it yet; a second copy would cost as much as the proof.
    extensions[PROOF] = _proof(signed, key)
    return signed


def _proof(event: CloudEvent, key: Key) -> str:
    return urlsafe_b64encode(key.mac(canonical(event))).rstrip(b"=").decode()


class Ring:
    """Keys that are known. ``keys``: by source, the newest first, which signs; all verify. ``trusted`` are sources
    that are believed without a proof; BadKey for one that has a key, or that nobody else may speak for."""

    def __init__(self, keys: Mapping[str, Sequence[Key]], trusted: Collection[str] = ()) -> None:
        self._newest = {source: found[0] for source, found in keys.items() if found}
        self._by_id = {key.id: key for found in keys.values() for key in found}
        self._trusted = frozenset(trusted)
        for source in sorted(self._trusted & {CONTROL, *self._newest}):
            raise BadKey(f"{source} can't be believed without a proof: it signs its events.")

    @classmethod
    def of(cls, secrets: Iterable[tuple[str, str]], trusted: Collection[str] = ()) -> Ring:
        """From sources and their secrets, the newest of a source first; BadKey."""
        found: dict[str, list[Key]] = {}
        for source, secret in secrets:
            found.setdefault(source, []).append(Key.of(source, secret))
        return cls(found, trusted)

    @property
    def sources(self) -> frozenset[str]:
        """Those that have a key."""
        return frozenset(self._newest)

    def knows(self, key: object) -> bool:
        """Whether there is a key of that id."""
        return key in self._by_id

    def sign(self, event: CloudEvent, speaker: str) -> CloudEvent:
        """See Keys."""
        key = self._newest.get(speaker)
        if key is None:
            raise NoKey(f"There is no key to sign events of {speaker} with.")
        return sign(event, key)

    def may_speak(self, speaker: str, source: str) -> bool:
        """See Keys. Without a key nothing is signed anyway."""
        key = self._newest.get(speaker)
        return key is None or self._speaks_for(key, source)

    def usable(self) -> str:
        """See Keys."""
        return "" if self._by_id or self._trusted else "There are no keys to tell events from forged ones."

    def refusal(self, event: CloudEvent) -> str:
        """See Keys."""
        named, proof = event.extensions.get(KEY), event.extensions.get(PROOF)
        if named is None and proof is None:
            return "" if event.source in self._trusted else f"It says to be of {event.source}, and is not signed."
        if not isinstance(named, str) or not isinstance(proof, str):
            return f"It says to be of {event.source}, and its signature is not whole."
        key = self._by_id.get(named)
        if key is None:
            return f"It says to be of {event.source}, and is signed by a key that is not known here ({named[:32]})."
        if not self._speaks_for(key, event.source):
            return f"It says to be of {event.source}, and is signed by the key of {key.source}."
        try:
            expected = _proof(event, key)
        except (ValueError, RecursionError):
            return f"It says to be of {event.source}, and can't be written as it was read."
        if not hmac.compare_digest(expected.encode(), proof.encode()):
            return f"It says to be of {event.source}, and its signature is not that of {key.source} for what it says."
        return ""

    def _speaks_for(self, key: Key, source: str) -> bool:
        """Its own source; Mission Control also for clients of its API without a key of their own."""
        if source == key.source:
            return True
        return key.source == CONTROL and source.startswith(CLIENTS) and source not in self._newest
