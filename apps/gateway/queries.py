"""What pages and the API read of the gateway: breakers and workers as they report themselves, revisions as stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis
from django.conf import settings

from apps.gateway import compile as compiler
from apps.gateway.core import config
from apps.gateway.core.routing import yields_to
from apps.gateway.models import Route
from apps.gateway.plane.policies.order import in_words
from apps.gateway.revisions import ConfigRevision
from apps.lib import clock, kv, wire
from apps.lib.border import MALFORMED, is_spoilt
from apps.lib.messages import BreakerReport, Ejected, WorkerBeat

T = TypeVar("T")

FRESH_S = 10.0
"""A worker that said nothing for this long is gone, and so is what it said (apps.lib.wire)."""

BADNESS = {"closed": 0, "half_open": 1, "open": 2}


class GatewayStateAway(RuntimeError):
    """Redis, where the workers report, can't be read: what they do is unknown."""


@dataclass(frozen=True, slots=True)
class EjectedInstance:
    """An instance that some worker leaves out of its rotation. Each worker judges by its own attempts."""

    instance: str
    since: float
    until: float
    """When the last of them asks it again."""
    reason: str
    workers: int
    """How many leave it out."""


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """One service's breaker: the worst over live workers. Times are wall-clock seconds, rates 0..1."""

    service: str
    state: str
    """closed, half_open or open."""
    since: float
    forced: str | None
    """``open`` or ``closed`` while an operator holds it."""
    calls: int
    failure_rate: float | None
    """None: too few calls to say."""
    slow_rate: float | None
    retry_at: float | None
    workers: int
    """How many live workers report it."""
    at: float
    ejected: tuple[EjectedInstance, ...]
    panic: bool
    """Some worker finds too few instances fit and asks all of them."""
    in_flight: int
    limit: int
    """Requests in flight in all workers, and how many may be now."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One live gateway worker and the revision it serves."""

    id: str
    revision: int
    at: float
    pid: int
    node: str
    dropped: int
    """Telemetry records that it had no room for."""
    digest: str = ""
    refused: int = 0
    """Messages on Redis that it did not believe or could not read."""
    of: int = 0
    """How many workers its gateway runs; 0 while that is not told."""


def breakers() -> dict[str, BreakerStatus]:
    """By service; a service that no live worker reports is not there. GatewayStateAway without Redis."""
    return judge(_hash(BreakerReport, wire.BREAKER_STATE), clock.wall())


def workers() -> list[WorkerStatus]:
    """The live workers, by id. GatewayStateAway without Redis."""
    now = clock.wall()
    return [
        WorkerStatus(
            worker, beat.revision, beat.at, beat.pid, beat.node, beat.dropped, beat.digest, beat.refused, beat.of
        )
        for worker, beat in sorted(_hash(WorkerBeat, wire.GATEWAY_WORKERS).items())
        if beat.at > now - FRESH_S
    ]


ByPath = Mapping[str, list[Route]]


def routes_by_path() -> ByPath:
    """To ask ``shadowed_by`` of many routes at the cost of one query."""
    found: dict[str, list[Route]] = {}
    for route in Route.objects.only("name", "path", "match", "hosts", "methods").order_by("name"):
        found.setdefault(route.path.rstrip("/"), []).append(route)
    return found


def shadowed_by(route: Route, routes: ByPath) -> list[str]:
    """Routes on the same path that are more exact and so get some of the requests that ``route`` matches.

    One that is off gets them too, and answers 404.
    """
    others = routes.get(route.path.rstrip("/"), [])
    return [other.name for other in others if other.pk != route.pk and yields_to(route, other)]


def policies_in_words(row: Route) -> list[tuple[str, str]]:
    """Title and line of each policy of a saved route, in the order in which requests meet them.

    Of a row that no gateway could be sent, as one that another program wrote, the reason.
    """
    limit = row.rate_limit
    try:
        limits = {} if limit is None else {limit.name: compiler.rate_limit(limit)}
        return in_words(compiler.route(row), limits)
    except config.ConfigError as error:
        return [("Can't be published", str(error))]


def latest_revision() -> ConfigRevision | None:
    """The newest published revision; None before the first."""
    return ConfigRevision.objects.order_by("-number").first()


def judge(reports: Mapping[str, BreakerReport], now: float) -> dict[str, BreakerStatus]:
    """The breaker of each service out of what its workers last said, by ``service|worker``."""
    by_service: dict[str, list[BreakerReport]] = {}
    for name, report in reports.items():
        service, _, worker = name.partition("|")
        if worker and report.at > now - FRESH_S:
            by_service.setdefault(service, []).append(report)
    return {service: _worst(service, said) for service, said in sorted(by_service.items())}


def _worst(service: str, said: list[BreakerReport]) -> BreakerStatus:
    badness = max(BADNESS[report.state] for report in said)
    worst = [report for report in said if BADNESS[report.state] == badness]
    return BreakerStatus(
        service=service,
        state=worst[0].state,
        since=min(report.since for report in worst),
        forced=worst[0].state if any(report.forced for report in worst) else None,
        calls=sum(report.calls for report in said),
        failure_rate=max((report.failure_rate for report in said if report.failure_rate is not None), default=None),
        slow_rate=max((report.slow_rate for report in said if report.slow_rate is not None), default=None),
        retry_at=min((report.retry_at for report in worst if report.retry_at is not None), default=None),
        workers=len(said),
        at=max(report.at for report in said),
        ejected=_ejected(said),
        panic=any(report.panic for report in said),
        in_flight=sum(report.in_flight for report in said),
        limit=sum(report.limit for report in said),
    )


def _ejected(said: list[BreakerReport]) -> tuple[EjectedInstance, ...]:
    found: dict[str, list[Ejected]] = {}
    for report in said:
        for one in report.ejected:
            found.setdefault(one.instance, []).append(one)
    return tuple(
        EjectedInstance(instance, min(one.since for one in of), max(one.until for one in of), of[0].reason, len(of))
        for instance, of in sorted(found.items())
    )


def _hash(shape: type[T], name: str) -> dict[str, T]:
    client = kv.client(settings.REDIS_URL)
    try:
        entries: dict[Any, Any] = client.hgetall(name)  # type: ignore[assignment]
    except redis.ResponseError as error:
        if not is_spoilt(error):
            raise GatewayStateAway(f"Redis refuses: {error}") from None
        settings.WIRE.pass_over(MALFORMED, name)
        return {}  # the workers clear it away with their next report
    except redis.RedisError as error:
        raise GatewayStateAway(f"Redis can't be reached: {error}") from None
    return cast("dict[str, T]", settings.WIRE.open_all(shape, entries, name))
