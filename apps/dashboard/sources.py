"""Read what the state document is made of from the rooms below: health, gateway, telemetry, events.

Every function blocks, and raises what its room raises when its engine is away. Owns no rule and no wording
beyond the titles of what changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import DatabaseError
from redis import RedisError

from apps.dashboard import blame
from apps.dashboard.state import Changes, Gateway, Health, Reading, Readings, ServiceInfo, Telemetry
from apps.events import queries as events
from apps.gateway import queries as gateway
from apps.health import queries as health
from apps.health.models import HealthCheck
from apps.lib.clock import monotonic, wall
from apps.registry.models import Service
from apps.telemetry import queries as telemetry

WINDOW_S = 60.0
"""Seconds of traffic behind the numbers on a tile."""
HOUR = 3600.0
SPARK_POINTS, BAR_BUCKETS = 60, 60
AFFECTED_S = 300.0
"""Seconds of failed requests behind "who is affected"."""
SETTLED_S = 2.0
"""Seconds until every process has sent its spans of a trace."""
RECENT = 40
"""Changes kept in the document."""

AWAY = (DatabaseError, RedisError, gateway.GatewayStateAway, telemetry.TelemetryAway)
"""What a source being away looks like. Anything else is a fault of ours."""
SENTENCES = {
    DatabaseError: "The database does not answer.",
    RedisError: "Redis does not answer.",
    gateway.GatewayStateAway: "Redis does not answer.",
    telemetry.TelemetryAway: "ClickHouse does not answer.",
}

TITLES = {
    "system.instance.healthy": ("ok", "{subject} healthy"),
    "system.instance.unhealthy": ("bad", "{subject} unhealthy"),
    "system.breaker.opened": ("bad", "{subject} breaker open"),
    "system.breaker.half-opened": ("warn", "{subject} breaker half-open"),
    "system.breaker.closed": ("ok", "{subject} breaker closed"),
    "system.configuration.published": ("deploy", "revision {subject}"),
}


def read_health() -> Health:
    """Services as registered and the last verdict on each instance. The ORM."""
    default = HealthCheck._meta.get_field("interval_s").default
    checks = {check.service_id: check for check in HealthCheck.objects.only("service_id", "interval_s", "enabled")}
    services = []
    for service in Service.objects.only("pk", "name", "title"):
        check = checks.get(service.pk)
        interval = default if check is None else check.interval_s if check.enabled else None
        services.append(ServiceInfo(service.name, service.title, interval))
    return Health(tuple(services), tuple(health.statuses()))


def read_gateway() -> Gateway:
    """Breakers and live workers. Redis."""
    return Gateway(gateway.breakers(), tuple(gateway.workers()))


class TelemetrySource:
    """RED each time; sparks, failed requests and their causes less often. ClickHouse; one thread at a time."""

    def __init__(self) -> None:
        self._sparks: dict[str, list[float]] = {}
        self._sparks_due = self._blame_due = self._failed_at = float("-inf")
        self._blame: dict[str, str] = {}
        self._affected: Sequence[Mapping[str, Any]] = ()

    def read(self) -> Telemetry:
        """TelemetryAway when ClickHouse does not answer."""
        now, at = monotonic(), wall()
        red = telemetry.red_by_service(WINDOW_S)
        if now >= self._sparks_due:
            step = HOUR / SPARK_POINTS
            until = at - at % step
            self._sparks = telemetry.sparks(until - HOUR, until, step)
            self._sparks_due = now + 15.0
        if any(service.errors for service in red.values()):
            self._failed_at = now
        if now - self._failed_at > AFFECTED_S:
            self._blame, self._affected = {}, ()
        elif now >= self._blame_due:
            self._investigate(at)
            self._blame_due = now + 5.0
        return Telemetry(red, self._sparks, self._blame, self._affected)

    def _investigate(self, at: float) -> None:
        """Who meets the failures, and which dependency they come from: read from the failed traces themselves."""
        failed = telemetry.recent_traces(since=at - AFFECTED_S, errors_only=True, limit=200)
        self._affected = blame.affected(failed)
        # The newest lack the spans that other processes have yet to send: those of two seconds ago are whole.
        young = [summary for summary in failed if at - summary.started_at <= WINDOW_S]
        whole = [summary for summary in young if at - summary.started_at >= SETTLED_S] or young
        self._blame = blame.causes([telemetry.trace(summary.trace_id) for summary in whole[: blame.SAMPLE]])


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
        revision = gateway.latest_revision()
        return Changes(
            recent=tuple(self._recent(at - HOUR)),
            revision=revision.number if revision else None,
            published_at=revision.created_at.timestamp() if revision else None,
            bars=self._bars,
        )

    def _recent(self, since: float) -> list[dict[str, Any]]:
        """Newest first, without the trials of a breaker that stays broken."""
        found = events.recent(types=["system.#"], since=since, limit=10 * RECENT)
        told = [change(event) for event in found if event.type != "system.breaker.half-opened"]
        return first_of_each_run(told)[:RECENT]


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
        "id": str(event.event_id),
        "at": round(event.time.timestamp(), 1),
        "kind": kind,
        "title": title.format(subject=event.subject.rpartition("/")[2]).strip(),
        "detail": str(reason)[:200] or None,
        "subject": event.subject,
    }


def sentence(error: BaseException) -> str:
    """What the page says about a source that is away."""
    return next((text for kind, text in SENTENCES.items() if isinstance(error, kind)), "It can't be read.")


def read_all() -> Readings:
    """Everything at once for a page opened while no feed runs; a room that is away is left grey."""
    at = wall()
    readings: dict[str, Any] = {}
    calls = {
        "health": read_health,
        "breakers": read_gateway,
        "telemetry": TelemetrySource().read,
        "changes": ChangeSource().read,
    }
    for name, call in calls.items():
        try:
            readings[name] = Reading(call(), at)
        except AWAY as error:
            readings[name] = Reading(getattr(Readings(), name).value, 0.0, sentence(error))
    return Readings(**readings)
