"""An event's way, hop by hop, with its times: stored, in the log, on the broker, handled by whom. Pure.

Clocks of several machines are compared: what seems to come before its cause is shown as it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class SpanLike(Protocol):
    """A span of the event's trace (apps.telemetry.queries.SpanRow)."""

    @property
    def service(self) -> str: ...
    @property
    def started_at(self) -> float: ...
    @property
    def duration_ms(self) -> float: ...
    @property
    def status(self) -> str: ...
    @property
    def status_message(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Hop:
    """One step. ``state`` as services have them: healthy (done), unknown (not yet, or not known), failing."""

    title: str
    state: str
    word: str
    at: float | None = None
    after_ms: float | None = None
    """Since the event was recorded."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sending:
    """What the outbox knows: ``sent_at`` None while the bus has not taken it."""

    topic: str
    sent_at: float | None
    attempts: int
    error: str


def hops(
    stored_at: float,
    position: int | None,
    sending: Sending | None,
    spans: Iterable[SpanLike],
    addressee: str = "",
    publisher: str = "",
) -> Sequence[Hop]:
    """The way of an event that was recorded at ``stored_at``; ``spans`` are those in which somebody handled it.

    ``addressee``: the one subscription that it is for, from the log and not over the bus. ``publisher``: whoever put it
    on the bus, when that was not Mission Control.
    """
    found = [Hop("Recorded", "healthy", "stored", stored_at, 0.0)]
    if position is None:
        found.append(Hop("In the log", "unknown", "not yet", detail="the relay gives positions"))
    else:
        found.append(Hop("In the log", "healthy", f"position {position:,}"))
    if addressee:
        found.append(Hop("On the bus", "reports", "not sent", detail=f"{addressee} alone gets it, from the log"))
    elif publisher:
        found.append(Hop("On the bus", "healthy", "came from it", detail=f"{publisher} put it there"))
    elif sending is None:
        found.append(Hop("On the bus", "unknown", "no record", detail="forgotten after its retention"))
    elif sending.sent_at is not None:
        tries = f", at try {sending.attempts}" if sending.attempts > 1 else ""
        found.append(_at("On the bus", "healthy", "taken", sending.sent_at, stored_at, f"topic {sending.topic}{tries}"))
    elif sending.error:
        found.append(Hop("On the bus", "failing", "refused", detail=f"{sending.attempts} tries: {sending.error}"))
    else:
        found.append(Hop("On the bus", "unknown", "waiting", detail="in the outbox"))
    for span in sorted(spans, key=lambda one: one.started_at):
        failed = span.status == "Error"
        group = span.attributes.get("messaging.consumer.group.name") or span.service
        found.append(
            _at(
                f"Handled by {group}",
                "failing" if failed else "healthy",
                "failed" if failed else "done",
                span.started_at,
                stored_at,
                span.status_message if failed else f"took {span.duration_ms:.1f} ms",
            )
        )
    return found


def handling(spans: Iterable[SpanLike], event_id: str) -> list[SpanLike]:
    """The spans in which this event was handled."""
    return [
        span
        for span in spans
        if span.attributes.get("messaging.message.id") == event_id
        and span.attributes.get("messaging.operation.type") == "process"
    ]


def _at(title: str, state: str, word: str, at: float, since: float, detail: str) -> Hop:
    return Hop(title, state, word, at, (at - since) * 1000, detail)
