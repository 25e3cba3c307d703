"""A trace's spans as rows of a waterfall: in tree order, placed on one time scale. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

COLOURS = 8
INDENT_PX, DEEPEST = 12, 10


class SpanLike(Protocol):
    """One span (apps.telemetry.queries.SpanRow)."""

    @property
    def span_id(self) -> str: ...
    @property
    def parent_span_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def started_at(self) -> float: ...
    @property
    def duration_ms(self) -> float: ...
    @property
    def status(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the waterfall; ``x`` and ``width`` are percent of the whole trace."""

    span_id: str
    name: str
    service: str
    colour: int
    indent: int
    failed: bool
    x: str
    width: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Rows in tree order, services in order of appearance, and the scale."""

    rows: list[Row]
    services: list[Mapping[str, Any]]
    ticks: list[str]
    started_at: float
    duration_ms: float


def draw(spans: Sequence[SpanLike], *, start: float | None = None, end: float | None = None) -> Waterfall:
    """Lay out ``spans`` (at least one). A span whose parent is missing stands as a root; a loop is cut.

    ``start`` and ``end``, in seconds, are those of the whole trace when ``spans`` is only a window over it.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanLike]] = {}
    for span in sorted(spans, key=lambda span: span.started_at):
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)
    ordered: list[tuple[SpanLike, int]] = []
    seen: set[str] = set()
    stack = [(span, 0) for span in reversed(children.get("", []))]
    while stack:
        span, depth = stack.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        ordered.append((span, depth))
        stack += [(child, depth + 1) for child in reversed(children.get(span.span_id, []))]
    ordered += [(span, 0) for span in spans if span.span_id not in seen]
    start = min([span.started_at for span in spans] + ([] if start is None else [start]))
    end = max([span.started_at + span.duration_ms / 1000 for span in spans] + ([] if end is None else [end]))
    whole = max((end - start) * 1000, 0.001)
    colours = {name: n % COLOURS for n, name in enumerate(dict.fromkeys(span.service for span, _ in ordered))}
    rows = [
        Row(
            span_id=span.span_id,
            name=span.name,
            service=span.service,
            colour=colours[span.service],
            indent=min(depth, DEEPEST) * INDENT_PX,
            failed=failed(span),
            x=f"{min(99.5, (span.started_at - start) * 1000 / whole * 100):.3f}",
            width=f"{max(0.5, min(100.0, span.duration_ms / whole * 100)):.3f}",
            duration_ms=span.duration_ms,
        )
        for span, depth in ordered
    ]
    return Waterfall(
        rows=rows,
        services=[{"name": name, "colour": colour} for name, colour in colours.items()],
        ticks=[_tick(whole * part / 4) for part in range(5)],
        started_at=start,
        duration_ms=whole,
    )


def failed(span: SpanLike) -> bool:
    """Whether the span's status is OpenTelemetry's error."""
    return span.status.lower().removeprefix("status_code_") == "error"


def _tick(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 or milliseconds == 0 else f"{milliseconds:.1f} ms"
