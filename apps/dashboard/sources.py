"""Read what the state document is made of from the rooms below: health, gateway, telemetry, events.

Every function blocks, and raises what its room raises when its engine is away. Owns no rule and no wording
beyond the titles of what changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from redis import RedisError

from apps.dashboard.events.groups import ReportSource
from apps.dashboard.events.source import BusSource
from apps.dashboard.judge.readings import (
    Changes,
    Plane,
    Process,
    Reading,
    Readings,
    Registry,
    RouteInfo,
    ServiceInfo,
)
from apps.dashboard.losses import LossSource
from apps.dashboard.supervisor import ProcessSource, SupervisorAway
from apps.dashboard.traffic import TrafficSource
from apps.events import outbox
from apps.events import queries as events
from apps.gateway import queries as gateway
from apps.gateway.models import Consumer, Route
from apps.health import queries as health
from apps.health.models import HealthCheck
from apps.lib import kv
from apps.lib.clock import monotonic, wall
from apps.lib.messages import Alive
from apps.lib.wire import HEARTBEAT_PREFIX, MONITOR
from apps.registry.models import Service
from apps.telemetry import queries as telemetry

log = logging.getLogger(__name__)

HOUR = 3600.0
BAR_BUCKETS = 60
ROUTES_S = 5.0
"""Seconds after which a route's new threshold counts."""
RECENT = 40
"""Changes kept in the document."""
SIGNS = ("worker", "beat", "relay", MONITOR)
"""Who gives signs of life on Redis (apps.lib.alive): processes without a port, and rounds of checks that are held."""

AWAY = (DatabaseError, RedisError, gateway.GatewayStateAway, telemetry.TelemetryAway, SupervisorAway)
"""What a source being away looks like. Anything else is a fault of ours."""
SENTENCES = {
    DatabaseError: "the database does not answer",
    RedisError: "Redis does not answer",
    gateway.GatewayStateAway: "Redis does not answer",
    telemetry.TelemetryAway: "ClickHouse does not answer",
    SupervisorAway: "the supervisor does not answer",
}

TITLES = {
    "system.instance.healthy": ("ok", "{subject} healthy"),
    "system.instance.unhealthy": ("bad", "{subject} unhealthy"),
    "system.breaker.opened": ("bad", "{subject} breaker open"),
    "system.breaker.half-opened": ("warn", "{subject} breaker half-open"),
    "system.breaker.closed": ("ok", "{subject} breaker closed"),
    "system.configuration.published": ("deploy", "revision {subject}"),
}


class RegistrySource:
    """Services as registered and the last verdict on each instance; less often routes and limits. The ORM."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteInfo] = {}
        self._policies: dict[str, str] = {}
        self._routes_due = float("-inf")

    def read(self) -> Registry:
        """DatabaseError when the database does not answer."""
        default = HealthCheck._meta.get_field("interval_s").default
        checks = {check.service_id: check for check in HealthCheck.objects.only("service_id", "interval_s", "enabled")}
        services = []
        for service in Service.objects.only("pk", "name", "title"):
            check = checks.get(service.pk)
            interval = default if check is None else check.interval_s if check.enabled else None
            services.append(ServiceInfo(service.name, service.title, interval))
        now = monotonic()
        if now >= self._routes_due:
            self._routes, self._policies = _routes(), _policies()
            self._routes_due = now + ROUTES_S
        return Registry(tuple(services), tuple(health.statuses()), self._routes, self._policies)


def _routes() -> dict[str, RouteInfo]:
    columns = ("name", "service__name", "path", "rate_limit__name", "degraded_share", "failing_share", "slow_ms")
    return {
        name: RouteInfo(name, service, path, policy or "", degraded, failing, slow, timeout * 1000)
        for name, service, path, policy, degraded, failing, slow, timeout in Route.objects.values_list(
            *columns, "timeout"
        )
    }


def _policies() -> dict[str, str]:
    own = Consumer.objects.exclude(rate_limit=None).values_list("name", "rate_limit__name")
    return dict(own)


def read_plane() -> Plane:
    """Breakers and live workers. Redis."""
    return Plane(gateway.breakers(), tuple(gateway.workers()))


class SignSource:
    """Signs of life, and the last one of who no longer gives any. Redis."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def read(self) -> Mapping[str, float]:
        """RedisError when Redis does not answer."""
        found = kv.client(settings.REDIS_URL).mget([HEARTBEAT_PREFIX + name for name in SIGNS])
        for name, text in zip(SIGNS, found, strict=True):  # type: ignore[arg-type]
            sign = settings.WIRE.open(Alive, text, HEARTBEAT_PREFIX + name)
            if sign is not None:
                self._seen[name] = sign.at
        return dict(self._seen)


class ChangeSource:
    """What changed in the last hour, each time; the health bars less often. The ORM."""

    def __init__(self) -> None:
        self._bars: dict[str, list[str]] = {}
        self._bars_due = float("-inf")

    def read(self) -> Changes:
        """DatabaseError when the database does not answer."""
        now, at = monotonic(), wall()
        if now >= self._bars_due:
            names = Service.objects.values_list("name", flat=True)
            self._bars = {name: health.history(name, at - HOUR, at, BAR_BUCKETS) for name in names}
            self._bars_due = now + 20.0
        revision, backlog = gateway.latest_revision(), outbox.backlog()
        told, cut = _told(at - HOUR)
        return Changes(
            recent=tuple(told[:RECENT]),
            total=len(told),
            cut=cut,
            revision=revision.number if revision else None,
            published_at=revision.created_at.timestamp() if revision else None,
            bars=self._bars,
            waiting=backlog.waiting,
            oldest_at=backlog.oldest,
        )


def _told(since: float) -> tuple[list[dict[str, Any]], bool]:
    """Newest first, without the trials of a breaker that stays broken; and whether there were more than are read."""
    found = events.recent(types=["system.#"], since=since, limit=events.MOST)
    told = [change(event) for event in found if event.type != "system.breaker.half-opened"]
    return first_of_each_run(told), len(found) == events.MOST


def first_of_each_run(newest_first: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what says of a subject what was already so: a breaker that opens again each five seconds."""
    last: dict[str, str] = {}
    kept = []
    for one in reversed(newest_first):
        if last.get(one["subject"]) != one["title"]:
            kept.append(one)
        last[one["subject"]] = one["title"]
    return kept[::-1]


def change(event: Any) -> dict[str, Any]:
    """A system event as one mark of the ribbon."""
    kind, title = TITLES.get(event.type, ("info", event.type.removeprefix("system.").replace(".", " ") + " {subject}"))
    reason = event.data.get("reason") or event.data.get("summary") or ""
    return {
        "id": event.event_id,
        "at": round(event.time.timestamp(), 1),
        "kind": kind,
        "title": title.format(subject=event.subject.rpartition("/")[2]).strip(),
        "detail": str(reason)[:200] or None,
        "subject": event.subject,
    }


def note(error: BaseException) -> None:
    """Log why a source can't be read: a line while it is away, all of it when the fault is ours."""
    if isinstance(error, AWAY):
        log.warning("%s (%s)", sentence(error), error)
    else:
        log.error("A source of the live feed failed", exc_info=error)


def sentence(error: BaseException) -> str:
    """What the page says about a source that is away."""
    return next((text for kind, text in SENTENCES.items() if isinstance(error, kind)), "it can't be read")


class Sources:
    """All of them, each with what it remembers from one question to the next: source → how it is asked."""

    def __init__(self) -> None:
        self.processes = ProcessSource(settings.SUPERVISOR)
        registry, changes, signs, traffic = RegistrySource(), ChangeSource(), SignSource(), TrafficSource()
        self.database: dict[str, Callable[[], Any]] = {
            "registry": registry.read,
            "changes": changes.read,
            "bus": BusSource().read,
        }
        """Asked in Django's thread."""
        self.engines: dict[str, Callable[[], Any]] = {
            "plane": read_plane,
            "signs": signs.read,
            "traffic": traffic.read,
            "losses": LossSource().read,
            "reports": ReportSource().read,
        }
        """Asked in any thread, none by two at once."""
        if self.processes.there:
            self.engines["processes"] = self.processes.read


def nothing(name: str) -> Any:
    """What a source that was never heard says."""
    none: Mapping[str, Process] = {}
    return none if name == "processes" else getattr(Readings(), name).value


def read_all() -> Readings:
    """Everything at once for a page opened while no feed runs; a room that is away is left grey."""
    sources, at = Sources(), wall()
    asked: dict[str, Future[Any]] = {}
    # Side by side: each engine that hangs takes its whole patience.
    with ThreadPoolExecutor(max_workers=len(sources.engines), thread_name_prefix="page") as pool:
        for name, call in sources.engines.items():
            asked[name] = pool.submit(call)
        for name, call in sources.database.items():
            asked[name] = _done(call)
    # A page is drawn whatever became of one source: a fault of ours greys what depends on it, and is logged.
    return Readings(**{name: _reading(name, future, at) for name, future in asked.items()})


def _reading(name: str, asked: Future[Any], at: float) -> Reading[Any]:
    error = asked.exception()
    if error is None:
        return Reading(asked.result(), at)
    note(error)
    return Reading(nothing(name), 0.0, sentence(error))


def _done(call: Callable[[], Any]) -> Future[Any]:
    """The answer of ``call``, asked in this thread (where the request's database connection is)."""
    future: Future[Any] = Future()
    try:
        future.set_result(call())
    except AWAY as error:
        future.set_exception(error)
    return future
