"""What a stream amounts to at a version: the state of its aggregate where one is known, else the event's payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from apps.events.aggregate import KNOWN, HistoryGone, load
from apps.events.models import Event


@dataclass(frozen=True, slots=True)
class State:
    """``kind``: state or payload; ``said``: by whom, or why only the payload can be shown."""

    kind: str
    value: Any
    said: str


def at(event: Event) -> State:
    """The state after ``event``."""
    name, _, key = event.stream.partition("/")
    aggregate = KNOWN.get(name)
    if aggregate is None or not key:
        return State("payload", event.data, "No aggregate evolves this stream: the payload of the event.")
    try:
        loaded = load(aggregate, key, until=event.version)
    except HistoryGone as gone:
        return State("payload", event.data, f"{gone} So this is the payload of the event alone.")
    return State("state", msgspec.to_builtins(loaded.state), f"As the aggregate {name} evolves it.")
