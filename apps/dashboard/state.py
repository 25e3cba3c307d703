"""What the operator sees, derived from what was read: the state document of the live feed. Pure.

Owns the words and the rules: what is failing, degraded, unknown; which sentence says why; what comes first.
Knows nothing of where readings come from; takes ``now``. A reading that is too old is shown grey with its
age, never as the green it last was. Times are wall-clock seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from apps.dashboard.frames import Document, clean
from apps.dashboard.words import ago, and_list, percent, plural

T = TypeVar("T")

FAILING, DEGRADED, UNKNOWN, MAINTENANCE, HEALTHY = "failing", "degraded", "unknown", "maintenance", "healthy"
WORST_FIRST = (FAILING, DEGRADED, UNKNOWN, MAINTENANCE, HEALTHY)
RANK = {state: rank for rank, state in enumerate(WORST_FIRST)}

ERROR_RATE, ERROR_REQUESTS = 0.05, 10
"""More errors than this share, over at least so many requests of the window, is degraded."""
STALE = {"health": 8.0, "breakers": 8.0, "telemetry": 15.0, "changes": 30.0}
"""Seconds after which what a source last said no longer counts."""
LATE_WORKER = 5.0
"""Seconds a gateway worker may take to acknowledge a revision before it is said aloud."""


class InstanceLike(Protocol):
    """An instance's last verdict (apps.health.queries.InstanceStatus)."""

    @property
    def service(self) -> str: ...
    @property
    def instance(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def checked_at(self) -> float | None: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def detail(self) -> str: ...


class RedLike(Protocol):
    """Rate, errors and duration over the last minute (apps.telemetry.queries.Red)."""

    @property
    def requests(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def error_rate(self) -> float: ...
    @property
    def p50_ms(self) -> float | None: ...
    @property
    def p95_ms(self) -> float | None: ...
    @property
    def p99_ms(self) -> float | None: ...


class BreakerLike(Protocol):
    """The worst state of a service's breaker over live workers (apps.gateway.queries.BreakerStatus)."""

    @property
    def state(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def forced(self) -> Any: ...
    @property
    def failure_rate(self) -> float | None: ...
    @property
    def retry_at(self) -> float | None: ...


class WorkerLike(Protocol):
    """A live gateway worker (apps.gateway.queries.WorkerStatus)."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def pid(self) -> int: ...
    @property
    def node(self) -> str: ...
    @property
    def dropped(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The last good answer of a source, and when it was given; ``error`` says why there is none newer."""

    value: T
    at: float = 0.0
    error: str = ""

    def fresh(self, now: float, limit: float) -> bool:
        return now - self.at <= limit


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """A registered service; ``interval_s`` is how often its instances are probed, None when they are not."""

    name: str
    title: str
    interval_s: float | None


@dataclass(frozen=True, slots=True)
class Health:
    services: Sequence[ServiceInfo] = ()
    instances: Sequence[InstanceLike] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    breakers: Mapping[str, BreakerLike] = field(default_factory=dict)
    workers: Sequence[WorkerLike] = ()


@dataclass(frozen=True, slots=True)
class Telemetry:
    red: Mapping[str, RedLike] = field(default_factory=dict)
    sparks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    blame: Mapping[str, str] = field(default_factory=dict)
    """Service → the dependency whose failure its recent failed requests carry."""
    affected: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened lately: newest first, and the configuration that should be serving."""

    recent: Sequence[Mapping[str, Any]] = ()
    revision: int | None = None
    published_at: float | None = None
    bars: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that one state document is made of."""

    health: Reading[Health] = field(default_factory=lambda: Reading(Health()))
    breakers: Reading[Gateway] = field(default_factory=lambda: Reading(Gateway()))
    telemetry: Reading[Telemetry] = field(default_factory=lambda: Reading(Telemetry()))
    changes: Reading[Changes] = field(default_factory=lambda: Reading(Changes()))

    def fresh(self, source: str, now: float) -> bool:
        reading: Reading[Any] = getattr(self, source)
        return reading.fresh(now, STALE[source])


@dataclass(frozen=True, slots=True)
class Judgement:
    """A state, the sentence that says why, and since when the evidence says so."""

    state: str
    why: str = ""
    since: float | None = None


def build(readings: Readings, previous: Document, now: float) -> Document:
    """The state document; ``previous`` lends the moment a state began where the evidence has none."""
    services: Document = {}
    by_service: dict[str, list[InstanceLike]] = {}
    for status in readings.health.value.instances:
        by_service.setdefault(status.service, []).append(status)
    for info in readings.health.value.services:
        instances = by_service.get(info.name, [])
        services[info.name] = _service(info, instances, readings, now)
    services["gateway"] = _gateway(readings, services, now)
    before = previous.get("services", {})
    for name, service in services.items():
        old = before.get(name, {})
        if service.get("since") is None:
            service["since"] = (
                old["since"] if old.get("state") == service["state"] and "since" in old else round(now, 1)
            )
    document = {
        "verdict": verdict(services, readings, now),
        "services": services,
        "gateway": _plane(readings, now),
        "changes": list(readings.changes.value.recent),
        "sources": {source: _source(readings, source, now) for source in STALE},
    }
    result: Document = clean(document)
    return result


# -- one service --------------------------------------------------------------------------------


def judge(
    info: ServiceInfo,
    instances: Sequence[InstanceLike],
    red: RedLike | None,
    breaker: BreakerLike | None,
    because_of: str,
    now: float,
    *,
    health_fresh: bool = True,
) -> Judgement:
    """The state of one service. Worst evidence first; without a young verdict nothing is called healthy."""
    enabled = [status for status in instances if status.enabled]
    if not instances:
        return Judgement(UNKNOWN, "no instance is registered")
    if not enabled:
        return Judgement(MAINTENANCE, "every instance is drained")
    known = {status.instance: instance_state(status, info.interval_s, now, health_fresh) for status in enabled}
    down = [status for status in enabled if known[status.instance] == "unhealthy"]
    cause = f" because of {because_of}" if because_of else ""
    if len(down) == len(enabled):
        return Judgement(FAILING, _down(down, len(enabled)), max(status.since for status in down))
    if breaker is not None and breaker.state == "open":
        if breaker.forced:
            return Judgement(FAILING, "breaker held open by an operator", breaker.since)
        rate = f": {percent(breaker.failure_rate)} of calls fail" if breaker.failure_rate else ""
        return Judgement(FAILING, f"breaker open{rate}{cause}", breaker.since)
    if down:
        return Judgement(DEGRADED, _down(down, len(enabled)), min(status.since for status in down))
    unknown = [status for status in enabled if known[status.instance] == "unknown"]
    if unknown and len(unknown) == len(enabled):
        return Judgement(UNKNOWN, _silence(unknown, info.interval_s, now))
    if breaker is not None and breaker.state == "half_open":
        return Judgement(DEGRADED, "breaker half-open: trial calls decide", breaker.since)
    if red is not None and red.requests >= ERROR_REQUESTS and red.error_rate > ERROR_RATE:
        return Judgement(DEGRADED, f"{percent(red.error_rate)} of requests fail{cause}")
    if unknown:
        return Judgement(DEGRADED, f"{unknown[0].instance}: {_silence(unknown, info.interval_s, now)}")
    return Judgement(HEALTHY)


def instance_state(status: InstanceLike, interval_s: float | None, now: float, health_fresh: bool = True) -> str:
    """healthy, unhealthy or unknown: a verdict older than three intervals and two seconds is none."""
    if not status.enabled:
        return "drained"
    if interval_s is None or status.checked_at is None or not health_fresh:
        return "unknown"
    return status.state if now - status.checked_at <= 3 * interval_s + 2 else "unknown"


def _down(down: Sequence[InstanceLike], total: int) -> str:
    worst = down[0]
    detail = f"{worst.instance}: {worst.detail}" if worst.detail else f"{worst.instance} is unhealthy"
    return detail if total == 1 else f"{len(down)} of {plural(total, 'instance')} down, {detail}"


def _silence(unknown: Sequence[InstanceLike], interval_s: float | None, now: float) -> str:
    if interval_s is None:
        return "no health check is set up"
    checks = [status.checked_at for status in unknown if status.checked_at is not None]
    return f"no verdict for {ago(now - max(checks))}" if checks else "not checked yet"


def _service(info: ServiceInfo, instances: Sequence[InstanceLike], readings: Readings, now: float) -> Document:
    fresh = readings.fresh("health", now)
    telemetry, gateway = readings.telemetry.value, readings.breakers.value
    red = telemetry.red.get(info.name) if readings.fresh("telemetry", now) else None
    breaker = gateway.breakers.get(info.name) if readings.fresh("breakers", now) else None
    judgement = judge(info, instances, red, breaker, telemetry.blame.get(info.name, ""), now, health_fresh=fresh)
    return {
        "title": info.title or info.name,
        "state": judgement.state,
        "why": judgement.why,
        "since": _second(judgement.since),
        "instances": {
            status.instance: {
                "state": instance_state(status, info.interval_s, now, fresh),
                "url": status.url,
                "since": _second(status.since),
                "checked_at": _second(status.checked_at),
                "latency_ms": _round(status.latency_ms),
                "detail": status.detail or None,
            }
            for status in instances
        },
        "red": _red(red, readings, now),
        "spark": [_round(rate, 2) for rate in telemetry.sparks.get(info.name, ())],
        "bar": list(readings.changes.value.bars.get(info.name, ())),
        "breaker": _breaker(breaker),
    }


def _red(red: RedLike | None, readings: Readings, now: float) -> Document | None:
    if not readings.fresh("telemetry", now):
        return None
    if red is None:
        return {"rate": 0.0}
    return {
        "rate": _round(red.rate, 2),
        "error_rate": _round(red.error_rate, 4) if red.requests else None,
        "p50_ms": _round(red.p50_ms),
        "p95_ms": _round(red.p95_ms),
        "p99_ms": _round(red.p99_ms),
    }


def _breaker(breaker: BreakerLike | None) -> Document | None:
    if breaker is None:
        return None
    return {
        "state": breaker.state,
        "since": _second(breaker.since),
        "forced": True if breaker.forced else None,
        "failure_rate": _round(breaker.failure_rate, 3),
        "retry_at": _second(breaker.retry_at) if breaker.state == "open" and not breaker.forced else None,
    }


# -- the gateway --------------------------------------------------------------------------------


def judge_gateway(readings: Readings, services: Mapping[str, Document], now: float) -> Judgement:
    """The state of the data plane: do workers report, do they serve the newest revision, do requests fail?"""
    if not readings.fresh("breakers", now):
        return Judgement(UNKNOWN, readings.breakers.error or "no report from the workers")
    workers = readings.breakers.value.workers
    if not workers:
        return Judgement(FAILING, "no worker reports")
    newest, published = readings.changes.value.revision, readings.changes.value.published_at or 0.0
    late = [worker for worker in workers if newest is not None and worker.revision < newest]
    if late and now - published > LATE_WORKER:
        return Judgement(
            DEGRADED, f"{len(late)} of {plural(len(workers), 'worker')} still serve revision {late[0].revision}"
        )
    red = readings.telemetry.value.red.get("gateway") if readings.fresh("telemetry", now) else None
    if red is not None and red.requests >= ERROR_REQUESTS and red.error_rate > ERROR_RATE:
        broken = [name for name, service in services.items() if service["state"] == FAILING]
        cause = f", passing on the failures of {and_list(broken)}" if broken else ""
        return Judgement(DEGRADED, f"{percent(red.error_rate)} of requests fail{cause}")
    return Judgement(HEALTHY)


def _gateway(readings: Readings, services: Mapping[str, Document], now: float) -> Document:
    judgement = judge_gateway(readings, services, now)
    fresh = readings.fresh("breakers", now)
    telemetry = readings.telemetry.value
    return {
        "title": "gateway",
        "state": judgement.state,
        "why": judgement.why,
        "since": _second(judgement.since),
        "instances": {
            worker.id: {
                "state": "healthy" if fresh else "unknown",
                "detail": f"process {worker.pid} on {worker.node}, revision {worker.revision}",
                "checked_at": _second(worker.at),
            }
            for worker in readings.breakers.value.workers
        },
        "red": _red(telemetry.red.get("gateway"), readings, now),
        "spark": [_round(rate, 2) for rate in telemetry.sparks.get("gateway", ())],
        "bar": [],
    }


def _plane(readings: Readings, now: float) -> Document:
    changes, workers = readings.changes.value, readings.breakers.value.workers
    return {
        "revision": changes.revision,
        "published_at": _second(changes.published_at),
        "stale": True if not readings.fresh("breakers", now) else None,
        "dropped": sum(worker.dropped for worker in workers),
        "workers": {
            worker.id: {
                "revision": worker.revision,
                "at": _second(worker.at),
                "pid": worker.pid,
                "node": worker.node,
                "dropped": worker.dropped,
            }
            for worker in workers
        },
    }


# -- the verdict --------------------------------------------------------------------------------


def verdict(services: Mapping[str, Document], readings: Readings, now: float) -> Document:
    """One sentence for the whole, and the evidence in another."""
    registered = [name for name in services if name != "gateway"]
    if not readings.fresh("health", now):
        silent = f"for {ago(now - readings.health.at)}" if readings.health.at else "since this page was opened"
        title = f"Unknown: no word from the health monitor {silent}"
        return {"state": UNKNOWN, "title": title, "detail": readings.health.error, "services": [], "affected": []}
    by_state = {state: [name for name, service in services.items() if service["state"] == state] for state in RANK}
    worst = next(state for state in WORST_FIRST if by_state[state])
    names = by_state[worst]
    told = [f"{name}: {services[name]['why']}" for name in names if services[name]["why"]]
    since = min((s for name in names if (s := services[name].get("since"))), default=None)
    others = [f"{name} degraded" for name in by_state[DEGRADED]] if worst == FAILING else []
    quiet = [f"{name} unknown" for name in by_state[UNKNOWN]] if worst in {FAILING, DEGRADED} else []
    detail = " · ".join((told if len(names) > 1 else [services[names[0]]["why"]])[:3] + others[:3] + quiet[:2])
    if worst == FAILING:
        title = f"Failing: {and_list(names)}"
    elif worst == DEGRADED:
        title = f"Degraded: {and_list(names)}"
    elif not registered:
        title, worst, since = "Nothing is registered yet", UNKNOWN, None
        detail = "Add a service and its instances; they show here as soon as they are checked."
    elif worst == UNKNOWN:
        title = f"Unknown: no verdict on {and_list(names)}"
    else:
        title, since = "Everything is healthy", None
        detail = _calm(services, by_state[MAINTENANCE])
    affected = readings.telemetry.value.affected if readings.fresh("telemetry", now) else ()
    return {
        "state": HEALTHY if worst == MAINTENANCE else worst,
        "title": title,
        "detail": detail,
        "since": since,
        "services": names if worst in {FAILING, DEGRADED, UNKNOWN} else [],
        "affected": list(affected),
    }


def _calm(services: Mapping[str, Document], drained: Sequence[str]) -> str:
    backends = {name: service for name, service in services.items() if name != "gateway"}
    instances = sum(len(service["instances"]) for service in backends.values())
    parts = [plural(len(backends), "service"), plural(instances, "instance")]
    parts.append(plural(len(services["gateway"]["instances"]), "gateway worker"))
    if drained:
        parts.append(f"{and_list(drained)} drained")
    return " · ".join(parts)


def _source(readings: Readings, source: str, now: float) -> Document:
    reading: Reading[Any] = getattr(readings, source)
    return {
        "at": _second(reading.at or None),
        "stale": not readings.fresh(source, now),
        "error": reading.error or None,
    }


def _second(at: float | None) -> float | None:
    return None if at is None else round(at, 1)


def _round(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
