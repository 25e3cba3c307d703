"""Evidence to judge by: values as the rooms below give them, well by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.dashboard.judge.readings import (
    Bus,
    Changes,
    Edge,
    Plane,
    Process,
    Reading,
    Readings,
    Registry,
    RouteInfo,
    ServiceInfo,
    Traffic,
)

NOW = 1_700_000_000.0
COVENANT = ServiceInfo("covenant", "Covenant", 2.0)
LEDGER = RouteInfo("ledger", "covenant", "/covenant", policy="standard")


@dataclass(frozen=True)
class Status:
    """As apps.health.queries.InstanceStatus."""

    instance: str = "covenant-1"
    state: str = "healthy"
    service: str = "covenant"
    url: str = "http://127.0.0.1:7102"
    enabled: bool = True
    since: float = NOW - 600
    checked_at: float | None = NOW - 1
    latency_ms: float | None = 1.25
    detail: str = ""
    passes: int = 0
    failures: int = 0
    rise: int = 2
    fall: int = 2


@dataclass(frozen=True)
class Red:
    """As apps.telemetry.queries.Red."""

    requests: int = 600
    errors: int = 0
    rate: float = 10.0
    p50_ms: float | None = 2.0
    p95_ms: float | None = 9.0
    p99_ms: float | None = 20.0

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Breaker:
    """As apps.gateway.queries.BreakerStatus."""

    state: str = "closed"
    since: float = NOW - 30
    forced: str | None = None
    failure_rate: float | None = None
    retry_at: float | None = None
    ejected: tuple[Any, ...] = ()
    panic: bool = False


@dataclass(frozen=True)
class Worker:
    """As apps.gateway.queries.WorkerStatus."""

    id: str = "w1"
    revision: int = 7
    at: float = NOW - 1
    pid: int = 42
    node: str = "here"
    dropped: int = 0
    refused: int = 0
    of: int = 0


DOWN = Status(state="unhealthy", detail="connection refused", since=NOW - 60)
SECOND = Status(instance="covenant-2")
SEEN = Edge(requests=600, rate=10.0, p50_ms=2.0, p95_ms=9.0, p99_ms=20.0)
PARTS = ("redis", "clickhouse", "collector", "worker", "beat", "relay", "control", "gateway")


def running(**states: str) -> dict[str, Process]:
    """All of Mission Control's processes, in these states of supervisord's."""
    return {name: Process(name, states.get(name, "RUNNING"), NOW - 3600, pid=100) for name in PARTS}


def readings(
    *instances: Any,
    at: float = NOW,
    services: Any = (COVENANT,),
    routes: Any = (LEDGER,),
    breaker: Any = None,
    workers: Any = (Worker(), Worker(id="w2")),
    signs: Any = None,
    traffic: Any = None,
    changes: Any = None,
    processes: Any = None,
    bus: Any = None,
    **others: Any,
) -> Readings:
    """A system that is well and was read at ``at``, but for what is given, as a value or as a whole reading."""
    registry = Registry(services, instances or (Status(),), {route.name: route for route in routes})
    seen = traffic or Traffic(
        reported_at=NOW - 1, total=SEEN, services={"covenant": SEEN}, routes={"ledger": SEEN}, own={"covenant": Red()}
    )
    made: dict[str, Any] = {
        "registry": registry,
        "plane": Plane({"covenant": breaker or Breaker()}, workers),
        "signs": dict.fromkeys(("worker", "beat", "relay", "monitor"), NOW - 1) if signs is None else signs,
        "traffic": seen,
        "changes": changes or Changes(revision=7, published_at=NOW - 600),
        "bus": bus or Bus(head=7),
        "processes": running() if processes is None else processes,
    } | others
    return Readings(**{name: one if isinstance(one, Reading) else Reading(one, at) for name, one in made.items()})
