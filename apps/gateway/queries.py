"""What pages and the API read of the gateway: breakers and workers as they report themselves, revisions as stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
from django.conf import settings

from apps.gateway.core.routing import yields_to
from apps.gateway.models import Route
from apps.gateway.revisions import ConfigRevision
from apps.lib import clock, kv, wire

FRESH_S = 10.0
"""A worker that said nothing for this long is gone, and so is what it said (apps.lib.wire)."""

BADNESS = {"closed": 0, "half_open": 1, "open": 2}


class GatewayStateAway(RuntimeError):
    """Redis, where the workers report, can't be read: what they do is unknown."""


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


def breakers() -> dict[str, BreakerStatus]:
    """By service; a service that no live worker reports is not there. GatewayStateAway without Redis."""
    return judge(_hash(wire.BREAKER_STATE), clock.wall())


def workers() -> list[WorkerStatus]:
    """The live workers, by id. GatewayStateAway without Redis."""
    now = clock.wall()
    found = []
    for worker, text in sorted(_hash(wire.GATEWAY_WORKERS).items()):
        value = _record(text)
        if value and _number(value, "at") > now - FRESH_S:
            found.append(
                WorkerStatus(
                    id=worker,
                    revision=int(_number(value, "revision")),
                    at=_number(value, "at"),
                    pid=int(_number(value, "pid")),
                    node=str(value.get("node", "")),
                    dropped=int(_number(value, "dropped")),
                    digest=str(value.get("digest", "")),
                )
            )
    return found


Enabled = Mapping[str, list[Route]]
"""The routes that are on, by path."""


def enabled_routes() -> Enabled:
    """To ask ``shadowed_by`` of many routes at the cost of one query."""
    found: dict[str, list[Route]] = {}
    for route in Route.objects.filter(enabled=True).only("name", "path", "match", "hosts", "methods").order_by("name"):
        found.setdefault(route.path.rstrip("/"), []).append(route)
    return found


def shadowed_by(route: Route, enabled: Enabled) -> list[str]:
    """Routes on the same path that are more exact and so get some of the requests that ``route`` matches."""
    others = enabled.get(route.path.rstrip("/"), [])
    return [other.name for other in others if other.pk != route.pk and yields_to(route, other)]


def latest_revision() -> ConfigRevision | None:
    """The newest published revision; None before the first."""
    return ConfigRevision.objects.order_by("-number").first()


def judge(reports: Mapping[str, str], now: float) -> dict[str, BreakerStatus]:
    """The breaker of each service out of what its workers last said, in ``service|worker`` → JSON."""
    by_service: dict[str, list[dict[str, Any]]] = {}
    for name, text in reports.items():
        value = _record(text)
        service, _, worker = name.partition("|")
        if value and worker and value.get("state") in BADNESS and _number(value, "at") > now - FRESH_S:
            by_service.setdefault(service, []).append(value)
    return {service: _worst(service, said) for service, said in sorted(by_service.items())}


def _worst(service: str, said: list[dict[str, Any]]) -> BreakerStatus:
    badness = max(BADNESS[value["state"]] for value in said)
    worst = [value for value in said if BADNESS[value["state"]] == badness]
    retries = [_number(value, "retry_at") for value in worst if value.get("retry_at")]
    return BreakerStatus(
        service=service,
        state=worst[0]["state"],
        since=min(_number(value, "since") for value in worst),
        forced=_forced(worst),
        calls=sum(int(_number(value, "calls")) for value in said),
        failure_rate=_highest(said, "failure_rate"),
        slow_rate=_highest(said, "slow_rate"),
        retry_at=min(retries) if retries else None,
        workers=len(said),
        at=max(_number(value, "at") for value in said),
    )


def _forced(said: list[dict[str, Any]]) -> str | None:
    for value in said:
        forced = value.get("forced")
        if forced:
            return forced if isinstance(forced, str) else str(value["state"])
    return None


def _highest(said: list[dict[str, Any]], name: str) -> float | None:
    rates = [_number(value, name) for value in said if value.get(name) is not None]
    return max(rates) if rates else None


def _number(value: dict[str, Any], name: str) -> float:
    found = value.get(name)
    return float(found) if isinstance(found, int | float) else 0.0


def _record(text: str) -> dict[str, Any]:
    """A report, or nothing when another release wrote something that does not read."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _hash(name: str) -> dict[str, str]:
    try:
        found: dict[str, str] = kv.client(settings.REDIS_URL).hgetall(name)  # type: ignore[assignment]
    except redis.RedisError as error:
        raise GatewayStateAway(f"Redis can't be reached: {error}") from None
    return found
