"""What is said under the names of apps.lib.wire: the shape of each message, for whoever writes and whoever reads it.

Members that are not known are passed over and those that came later have defaults: during an upgrade two releases
talk to each other. Times are wall-clock seconds, rates 0..1.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Time = Annotated[float, Meta(ge=0, lt=1e11)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Service = Annotated[str, Meta(min_length=1, max_length=63)]
Worker = Annotated[str, Meta(min_length=1, max_length=120)]
BreakerState = Literal["closed", "half_open", "open"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """The monitor's word on one instance, on the channel and in the hash."""

    instance: str
    """``service/name``."""
    state: Literal["unknown", "healthy", "unhealthy"]
    at: Time
    """Since when."""
    version: int = 0
    """Grows with every change."""
    checked_at: Time | None = None
    latency_ms: float | None = None
    detail: str = ""


class WorkerBeat(msgspec.Struct, frozen=True):
    """A gateway worker's acknowledgement of a revision, and its sign of life."""

    revision: Count
    at: Time
    pid: Count = 0
    node: str = ""
    dropped: Count = 0
    """Telemetry records that it had no room for."""
    digest: str = ""
    refused: Count = 0
    """Messages on Redis that it did not believe or could not read."""
    of: Count = 0
    """How many workers its gateway runs, once they have had the time to speak; 0 before, and where it is not told."""


class Ejected(msgspec.Struct, frozen=True):
    """An instance that a worker took out of its rotation."""

    instance: str
    since: Time
    until: Time
    reason: str = ""


class BreakerReport(msgspec.Struct, frozen=True):
    """One breaker of one worker, as it is."""

    state: BreakerState
    since: Time
    at: Time
    forced: bool = False
    """Held by an operator."""
    calls: Count = 0
    failure_rate: float | None = None
    slow_rate: float | None = None
    retry_at: Time | None = None
    ejected: tuple[Ejected, ...] = ()
    panic: bool = False
    """Too few instances look fit, so all are tried."""
    in_flight: Count = 0
    limit: Count = 0
    """How many requests may be in flight now."""


class BreakerTransition(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """One change of one breaker of one worker."""

    service: Service
    worker: Worker
    before: BreakerState
    after: BreakerState
    at: Time
    reason: str = ""


class BreakerOpened(msgspec.Struct, frozen=True):
    """A worker opened a breaker and its peers follow, until ``until``."""

    service: Service
    worker: Worker
    until: Time
    at: Time


class Alive(msgspec.Struct, frozen=True):
    """A process without a port works."""

    at: Time
    pid: Count = 0


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One frame of the live feed: what changed, or the whole state, or both."""

    epoch: str
    seq: Count
    at: Time
    patch: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
