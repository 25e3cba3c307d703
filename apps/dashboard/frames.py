"""Frames of the live feed: one state document, told as a snapshot and then as JSON Merge Patches (RFC 7396).

Owns patches, topics, encoding, the reading of client frames and the acknowledgement window. Knows nothing
of Redis, sockets or Django, and asks no clock. The state document is a JSON object in which an absent member
means "not known": RFC 7396 uses null for removal, so no member of an object may be null.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = Any
Document = dict[str, Any]

TOPICS = frozenset({"verdict", "services", "gateway", "changes", "own", "events"})
ALWAYS = frozenset({"sources"})
"""Parts every client gets: how old each source is must never be filtered away."""

MAX_CLIENT_FRAME = 4096
"""Bytes of one frame from a browser."""

MALFORMED, NOT_ALLOWED, UNKNOWN_TOPIC, SILENT, WRONG_ACK, TOO_CHATTY = 4400, 4401, 4404, 4408, 4409, 4429
"""Close codes of our own (RFC 6455 section 7.4.2 leaves 4000-4999 to applications)."""
RESTARTING, FULL = 1012, 1013
"""IANA's "service restart" and "try again later"."""


class FrameError(ValueError):
    """A client's frame breaks the protocol: close with ``code``; the text is the reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


# -- documents and patches ----------------------------------------------------------------------


def clean(value: JSON) -> JSON:
    """``value`` with every null member of an object left out, at any depth (lists keep theirs)."""
    if isinstance(value, Mapping):
        return {key: clean(member) for key, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [clean(member) for member in value]
    return value


def diff(old: Document, new: Document) -> Document:
    """The merge patch that turns ``old`` into ``new``; both clean. Empty when they are the same."""
    patch: Document = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
            continue
        before = old[key]
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := diff(before, value):
                patch[key] = inner
        elif not _same(before, value):
            patch[key] = value
    return patch


def merge(target: JSON, patch: JSON) -> JSON:
    """RFC 7396 section 2's MergePatch, without changing ``target``."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _same(left: JSON, right: JSON) -> bool:
    """Equal as JSON: ``True`` is not 1, at any depth (1 and 1.0 are the same number)."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def pick(part: Document, topics: frozenset[str]) -> Document:
    """The top-level members of a state or patch that a client with ``topics`` gets."""
    if topics >= TOPICS:
        return part
    return {key: value for key, value in part.items() if key in topics or key in ALWAYS}


# -- server frames ------------------------------------------------------------------------------


def encode(body: JSON) -> str:
    """Compact JSON text, as it goes on the wire."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Delta:
    """One tick: ``patch`` turns the state at ``seq - 1`` into the state at ``seq``."""

    epoch: str
    seq: int
    at: float
    patch: Document
    texts: dict[frozenset[str], str] = field(default_factory=dict, compare=False, repr=False)

    def text(self, topics: frozenset[str]) -> str:
        """The encoded frame for these topics; encoded once per set of topics, whoever many listen."""
        found = self.texts.get(topics)
        if found is None:
            found = self.texts[topics] = encode(
                {
                    "type": "delta",
                    "epoch": self.epoch,
                    "seq": self.seq,
                    "at": self.at,
                    "patch": pick(self.patch, topics),
                }
            )
        return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at ``seq``."""

    epoch: str
    seq: int
    at: float
    state: Document
    texts: dict[frozenset[str], str] = field(default_factory=dict, compare=False, repr=False)

    def text(self, topics: frozenset[str]) -> str:
        """The encoded frame for these topics."""
        found = self.texts.get(topics)
        if found is None:
            found = self.texts[topics] = encode(
                {
                    "type": "snapshot",
                    "epoch": self.epoch,
                    "seq": self.seq,
                    "at": self.at,
                    "state": pick(self.state, topics),
                }
            )
        return found

    def advance(self, delta: Delta) -> Snapshot:
        """The snapshot after ``delta``, which must be the next of the same epoch."""
        if delta.epoch != self.epoch or delta.seq != self.seq + 1:
            raise ValueError(f"Delta {delta.epoch}/{delta.seq} does not follow snapshot {self.epoch}/{self.seq}.")
        return Snapshot(delta.epoch, delta.seq, delta.at, merge(self.state, delta.patch))


class History:
    """The newest snapshot and the deltas that led to it, as many as ``keep``: what a reconnect resumes from."""

    def __init__(self, keep: int) -> None:
        self.snapshot: Snapshot | None = None
        self._deltas: deque[Delta] = deque(maxlen=keep)

    def restart(self, snapshot: Snapshot) -> None:
        """Begin anew from ``snapshot``: a new epoch, or a gap that can't be bridged."""
        self._deltas.clear()
        self.snapshot = snapshot

    def add(self, delta: Delta) -> bool:
        """Take the next delta; False when it does not follow, and then nothing has changed."""
        now = self.snapshot
        if now is None or delta.epoch != now.epoch or delta.seq != now.seq + 1:
            return False
        self.snapshot = now.advance(delta)
        self._deltas.append(delta)
        return True

    def since(self, epoch: str, seq: int) -> list[Delta] | None:
        """The deltas after ``seq``, oldest first; None when they are gone, or the epoch is another."""
        now = self.snapshot
        if now is None or epoch != now.epoch or seq > now.seq:
            return None
        missed = now.seq - seq
        if missed > len(self._deltas):
            return None
        return list(self._deltas)[len(self._deltas) - missed :]


# -- client frames ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The client wants these topics from now on, beginning with a snapshot."""

    topics: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ack:
    """The client has applied everything up to the frame numbered ``seq``."""

    seq: int


def read(text: str | None) -> Subscribe | Ack:
    """A client's text frame; FrameError with the close code for anything else. ``None`` is a binary frame."""
    if text is None:
        raise FrameError(MALFORMED, "Frames are text, not binary.")
    if len(text.encode()) > MAX_CLIENT_FRAME:
        raise FrameError(MALFORMED, f"A frame may have {MAX_CLIENT_FRAME} bytes.")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise FrameError(MALFORMED, "The frame is not JSON.") from None
    if not isinstance(body, dict):
        raise FrameError(MALFORMED, "The frame is not a JSON object.")
    kind = body.get("type")
    if kind == "ack":
        seq = body.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool):
            raise FrameError(WRONG_ACK, "The acknowledged seq is not an integer.")
        return Ack(seq)
    if kind == "subscribe":
        return Subscribe(read_topics(body.get("topics")))
    raise FrameError(MALFORMED, "The type is neither subscribe nor ack.")


def read_topics(value: JSON) -> frozenset[str]:
    """The topics of a subscribe frame; absent means all."""
    if value is None:
        return TOPICS
    if not isinstance(value, list) or not all(isinstance(topic, str) for topic in value):
        raise FrameError(MALFORMED, "The topics are not a list of names.")
    if unknown := sorted(set(value) - TOPICS):
        raise FrameError(
            UNKNOWN_TOPIC, f"There is no topic {unknown[0][:40]!r}; there are {', '.join(sorted(TOPICS))}."
        )
    return frozenset(value)


class Window:
    """Frames sent and not yet acknowledged. Full means: send no more deltas, and a snapshot once it has room."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sent: deque[int] = deque()
        self._acked: int | None = None

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        return len(self._sent) >= self._size

    def sent(self, seqs: Iterable[int]) -> None:
        """These frames have gone out, in this order."""
        self._sent.extend(seqs)

    def ack(self, seq: int) -> None:
        """The client has everything up to ``seq``; FrameError when that was not sent or lies behind the last ack.

        Looked up among what was sent rather than compared, so that an ack on its way while an epoch ends,
        and seq begins again, is still a right one.
        """
        if seq in self._sent:
            while self._sent.popleft() != seq:
                pass
            self._acked = seq
        elif seq != self._acked:
            raise FrameError(WRONG_ACK, f"Frame {seq} was not sent, or is acknowledged already.")
