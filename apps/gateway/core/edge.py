"""What the gateway answered, counted: every request by service, route, consumer, status and failure. Pure.

The counts are the truth for rates, errors and latency, so unlike spans they leave no request out: neither
one whose caller asked not to be sampled, nor one that came while the collector was away. Durations are kept
in the buckets of an OTLP exponential histogram of scale 3 (bucket i holds 2^(i/8) to 2^((i+1)/8) seconds), which
merge exactly whoever made them. ``take`` hands out what came since the last ``take``: a delta, to be
delivered once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from struct import Struct
from typing import NamedTuple

from apps.gateway.core.trace import Value, key_value, length, message, varint

METRIC = "mc.gateway.request.duration"
SCALE = 3
LOWEST, HIGHEST = -160, 96
"""Buckets of about a microsecond and of 68 minutes; what lies beyond counts in them."""

MAX_SERIES = 2000
"""Most label sets counted apart between two ``take``; past it consumers count together, then services and routes."""
OTHER = "_other"
"""The name that stands for all that were too many. No slug begins so."""


class Labels(NamedTuple):
    """One series. Names are the configuration's own; empty where the request had none."""

    service: str
    route: str
    consumer: str
    status: int
    failure: str
    """The slug of a problem of ours, as it was sent to the client; empty when the service itself answered."""


class Tally:
    """The requests of one series since the last ``take``."""

    __slots__ = ("buckets", "count", "shared", "total")

    def __init__(self, *, shared: bool = False) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.shared = shared
        """Of several series that were too many to be counted apart."""

    def add(self, seconds: float) -> None:
        """Count one request."""
        index = bucket(seconds)
        buckets = self.buckets
        buckets[index] = buckets.get(index, 0) + 1
        self.count += 1
        self.total += seconds


def bucket(seconds: float) -> int:
    """The bucket of a duration (opentelemetry.io/docs/specs/otel/metrics/data-model, exponential scale)."""
    if seconds <= 0:
        return LOWEST
    return min(HIGHEST, max(LOWEST, ceil(log2(seconds) * 8) - 1))


class Edge:
    """The tallies of one worker."""

    __slots__ = ("_tallies", "overflowed", "round")

    def __init__(self) -> None:
        self._tallies: dict[Labels, Tally] = {}
        self.round = 0
        """Of counting: the next begins with each ``take``, and a tally is good for its own."""
        self.overflowed = 0
        """Requests counted under OTHER since the start."""

    def __bool__(self) -> bool:
        return bool(self._tallies)

    def tally(self, labels: Labels) -> Tally:
        """Where to count the next request of this series. One that is not ``shared`` serves for the whole round."""
        return self._tallies.get(labels) or self._make(labels)

    def take(self) -> dict[Labels, Tally]:
        """What was counted since the last time; counting begins anew."""
        taken, self._tallies = self._tallies, {}
        self.round += 1
        return taken

    def _make(self, labels: Labels) -> Tally:
        tallies = self._tallies
        if len(tallies) >= MAX_SERIES:
            self.overflowed += 1
            if labels.consumer:
                labels = labels._replace(consumer=OTHER)
            if len(tallies) >= 2 * MAX_SERIES and labels not in tallies:
                labels = Labels(OTHER, OTHER, OTHER, labels.status // 100 * 100, "")
            return tallies.setdefault(labels, Tally(shared=True))
        return tallies.setdefault(labels, Tally())


# -- as OTLP (opentelemetry/proto/metrics/v1/metrics.proto) ------------------------------------------------

_DELTA = b"\x10\x01"  # ExponentialHistogram.aggregation_temporality
_NUMBERS = Struct("<BQBQBQBd")
_START, _TIME, _COUNT, _SUM = 2 << 3 | 1, 3 << 3 | 1, 4 << 3 | 1, 5 << 3 | 1
_SCALE = bytes((6 << 3, SCALE << 1))


class Encoder:
    """Writes tallies as one ExportMetricsServiceRequest; the bytes of labels are kept from one to the next."""

    __slots__ = ("_labels", "_resource", "_scope")

    def __init__(self, resource: Mapping[str, Value], scope: str) -> None:
        self._resource = message(1, b"".join(message(1, key_value(key, value)) for key, value in resource.items()))
        self._scope = message(1, message(1, scope.encode()))
        self._labels: dict[Labels, bytes] = {}

    def encode(self, tallies: Mapping[Labels, Tally], start_ns: int, now_ns: int) -> bytes:
        """The request's body. Without tallies it holds one empty point, which says that nothing came until now."""
        points = [
            message(1, self._named(labels) + _point(tally, start_ns, now_ns)) for labels, tally in tallies.items()
        ] or [message(1, _point(Tally(), start_ns, now_ns))]
        histogram = message(10, b"".join(points) + _DELTA)
        metric = message(2, message(1, METRIC.encode()) + message(3, b"s") + histogram)
        return message(1, self._resource + message(2, self._scope + metric))

    def _named(self, labels: Labels) -> bytes:
        found = self._labels.get(labels)
        if found is None:
            values: dict[str, Value] = {
                "mc.service": labels.service,
                "mc.route": labels.route,
                "mc.consumer": labels.consumer,
                "http.response.status_code": labels.status,
                "error.type": labels.failure,
            }
            found = b"".join(message(1, key_value(key, value)) for key, value in values.items() if value != "")
            if len(self._labels) >= 2 * MAX_SERIES:
                self._labels.clear()
            self._labels[labels] = found
        return found


def _point(tally: Tally, start_ns: int, now_ns: int) -> bytes:
    numbers = _NUMBERS.pack(_START, start_ns, _TIME, now_ns, _COUNT, tally.count, _SUM, tally.total)
    if not tally.buckets:
        return numbers + _SCALE
    first, last = min(tally.buckets), max(tally.buckets)
    counts = b"".join([varint(tally.buckets.get(index, 0)) for index in range(first, last + 1)])
    zigzag = first << 1 if first >= 0 else -first * 2 - 1
    positive = b"\x08" + varint(zigzag) + b"\x12" + length(len(counts)) + counts
    return numbers + _SCALE + message(8, positive)
