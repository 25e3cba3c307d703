"""Read failed traces for who is affected and which dependency a failure comes from. Pure.

Two kinds of evidence, nothing guessed. A service that fails because of another says so
(``X-Failed-Dependency``), and the gateway notes it on its span. And a call between services crosses the
gateway: nexus's failed client span is the parent of a failed gateway span for the service that could not answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

SAMPLE = 5
"""Failed traces looked into at a time."""
GATEWAY = "gateway"
MOST = 8
"""Rows of "who is affected"."""


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
    def kind(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


class TraceLike(Protocol):
    """A trace in one row (apps.telemetry.queries.TraceSummary)."""

    @property
    def name(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def started_at(self) -> float: ...


def affected(failed: Iterable[TraceLike]) -> list[dict[str, Any]]:
    """Failed requests by what was asked for: most first, with the newest failure's time."""
    counts: Counter[tuple[str, str]] = Counter()
    newest: dict[tuple[str, str], float] = {}
    for trace in failed:
        key = (trace.service, trace.name)
        counts[key] += 1
        newest[key] = max(newest.get(key, 0.0), trace.started_at)
    return [
        {"service": key[0], "name": key[1], "failed": count, "last_at": round(newest[key], 1)}
        for key, count in counts.most_common(MOST)
    ]


def causes(traces: Iterable[Sequence[SpanLike]]) -> dict[str, str]:
    """Service → the dependency whose failure most of its failed requests carry, over these traces."""
    votes: dict[str, Counter[str]] = {}
    for spans in traces:
        for span in spans:
            asked, told = span.attributes.get("mc.service"), span.attributes.get("mc.failed_dependency")
            if asked and told and asked != told:
                votes.setdefault(asked, Counter())[told] += 1
            if not is_error(span) or is_server(span):
                continue
            # span is a failed call out of a service; a failed gateway span below it names what was called.
            for child in spans:
                if child.parent_span_id != span.span_id or not is_error(child):
                    continue
                called = target(child)
                if called and called != span.service and span.service != GATEWAY:
                    votes.setdefault(span.service, Counter())[called] += 1
    return {service: counter.most_common(1)[0][0] for service, counter in votes.items()}


def target(span: SpanLike) -> str:
    """Which service a server span stands for: its own, or the one the gateway was asked to reach."""
    return span.service if span.service != GATEWAY else span.attributes.get("mc.service", "")


def is_error(span: SpanLike) -> bool:
    return span.status.lower() in {"error", "status_code_error"}


def is_server(span: SpanLike) -> bool:
    return span.kind.lower() in {"server", "span_kind_server"}
