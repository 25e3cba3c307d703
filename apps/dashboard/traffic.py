"""Read from the telemetry store what the gateway saw, and beside it what services report of themselves.

Blocks; raises TelemetryAway. Owns which question is asked how often; what the answers mean is for the judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from apps.dashboard import blame
from apps.dashboard.judge.readings import Caller, Edge, Recent, RedLike, Refusal, Traffic
from apps.lib.clock import monotonic, wall
from apps.telemetry import queries as telemetry

WINDOW_S = 60.0
"""Seconds of traffic behind the numbers on a tile."""
HOUR = 3600.0
SPARK_POINTS = 60
RECENT_S = 20.0
"""Seconds, and up to ten more (the grain of the rollups), in which failures must go on to count."""
AFFECTED_S = 300.0
"""Seconds of failed requests behind "who is affected"."""
SETTLED_S = 2.0
"""Seconds until every process has sent its spans of a trace."""
HABIT = 100
"""Requests in the last hour from which a route has a usual latency."""
MOST_ROUTES = 2000
LIMITED_ROUTES, LIMITED_CALLERS = 5, 10
"""Routes and consumers looked into when limits bite."""
MOST_AFFECTED = 8
"""Rows of "who is affected"."""
MOST_REPORTERS = 200
"""Services by their own report; the busiest are kept."""


class TrafficSource:
    """Figures of the last minute each time; what changes slowly less often. One thread at a time."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._sparks: dict[str, list[float]] = {}
        self._usual: dict[str, float] = {}
        self._blame: dict[str, str] = {}
        self._own: dict[str, RedLike] = {}
        self._reporters: frozenset[str] = frozenset()
        self._met: telemetry.EdgeAffected | None = None

    def read(self) -> Traffic:
        """TelemetryAway when ClickHouse does not answer."""
        at = wall()
        since = at - WINDOW_S
        by_service = telemetry.edge_by_service(since)
        by_route = telemetry.edge_by_route(since, limit=MOST_ROUTES)
        failures = telemetry.edge_failures(since, limit=500).rows
        refusals = [one for one in failures if one.failure and 400 <= one.status < 499 and one.status != 429]
        limited = self._limited(since, failures)
        self._slowly(at)
        if self._is_due("affected", 4.0):
            self._met = telemetry.edge_affected(at - AFFECTED_S, limit=MOST_AFFECTED)
        met = self._met
        if met is not None and met.failed:
            self._investigate(at)
        else:
            self._blame = {}
        refused = Counter[str]()
        refused_routes = Counter[str]()
        for one in refusals:
            refused[one.service] += one.requests
            refused_routes[one.route] += one.requests
        return Traffic(
            reported_at=by_service.newest or 0.0,
            total=_total(by_service.whole, failures, refused),
            recent=_recent(at) if by_service.whole.errors else None,
            services={row.service: _edge(row, refused[row.service]) for row in by_service.rows},
            routes={row.route: _edge(row, refused_routes[row.route]) for row in by_route.rows},
            usual_p95_ms=self._usual,
            callers=limited,
            refusals=[Refusal(one.route, one.service, one.failure, one.requests) for one in refusals if one.route],
            affected=_affected(met.rows if met else (), limited),
            failed=met.failed if met else 0,
            failed_callers=met.consumers if met else 0,
            blame=self._blame,
            sparks=self._sparks,
            own=self._own,
            reporters=self._reporters | self._own.keys(),
        )

    def _limited(self, since: float, failures: Sequence[telemetry.EdgeFailure]) -> list[Caller]:
        """Who meets a limit, on the routes where most do."""
        routes = Counter[tuple[str, str]]()
        for one in failures:
            if one.status == 429:
                routes[one.service, one.route] += one.requests
        return [
            Caller(row.consumer, route, service, row.requests, row.limited)
            for (service, route), _ in routes.most_common(LIMITED_ROUTES)
            for row in telemetry.edge_by_consumer(since, service=service, route=route, limit=LIMITED_CALLERS).rows
            if row.limited
        ]

    def _slowly(self, at: float) -> None:
        if self._is_due("own", 4.0):
            reports = telemetry.red_by_service(WINDOW_S)
            busiest = sorted(reports, key=lambda name: -reports[name].requests)[:MOST_REPORTERS]
            self._own = {name: reports[name] for name in busiest}
        if self._is_due("sparks", 15.0):
            step = HOUR / SPARK_POINTS
            until = at - at % step
            own = telemetry.sparks(until - HOUR, until, step)
            # Who said anything in the last hour is shown, also while it says nothing.
            busiest = sorted(own, key=lambda name: -sum(own[name]))[:MOST_REPORTERS]
            self._reporters = frozenset(busiest)
            self._sparks = {name: own[name] for name in busiest}
            self._sparks |= telemetry.edge_sparks(until - HOUR, until, step)
        if self._is_due("usual", 60.0):
            # Without the minute that is judged by it.
            rows = telemetry.edge_by_route(at - HOUR, at - WINDOW_S, limit=MOST_ROUTES).rows
            self._usual = {row.route: row.p95_ms for row in rows if row.requests >= HABIT and row.p95_ms is not None}

    def _investigate(self, at: float) -> None:
        """Which dependency failures come from: read from the failed traces themselves."""
        if not self._is_due("blame", 5.0):
            return
        failed = telemetry.recent_traces(since=at - WINDOW_S, errors_only=True, limit=50)
        # The newest lack the spans that other processes have yet to send: those of two seconds ago are whole.
        whole = [summary for summary in failed if at - summary.started_at >= SETTLED_S] or failed
        self._blame = blame.causes([telemetry.trace(summary.trace_id) for summary in whole[: blame.SAMPLE]])

    def _is_due(self, what: str, every: float) -> bool:
        now = monotonic()
        if now < self._due.get(what, float("-inf")):
            return False
        self._due[what] = now + every
        return True


def _recent(at: float) -> Recent:
    services, routes = (
        telemetry.edge_by_service(at - RECENT_S),
        telemetry.edge_by_route(at - RECENT_S, limit=MOST_ROUTES),
    )
    return Recent(
        _edge(services.whole, 0),
        {row.service: _edge(row, 0) for row in services.rows},
        {row.route: _edge(row, 0) for row in routes.rows},
    )


def _total(whole: telemetry.EdgeFigures, failures: Sequence[telemetry.EdgeFailure], refused: Counter[str]) -> Edge:
    """Everything: what was for some service, and what no route took (all of which was refused)."""
    stray = [one for one in failures if not one.service]
    edge = _edge(whole, refused.total())
    requests = edge.requests + sum(one.requests for one in stray)
    errors = edge.errors + sum(one.requests for one in stray if one.status >= 500)
    rate = edge.rate * requests / edge.requests if edge.requests else requests / WINDOW_S
    return replace(edge, requests=requests, errors=errors, rate=rate)


def _edge(figures: telemetry.EdgeFigures, refused: int) -> Edge:
    return Edge(
        requests=figures.requests,
        errors=figures.errors,
        limited=figures.limited,
        refused=refused,
        rate=figures.rate,
        p50_ms=figures.p50_ms,
        p95_ms=figures.p95_ms,
        p99_ms=figures.p99_ms,
    )


def _affected(failed: Sequence[telemetry.Affected], limited: Sequence[Caller]) -> list[Mapping[str, Any]]:
    """Who gets no good answer: failures of five minutes, worst first, then limits of the last."""
    rows: list[Mapping[str, Any]] = [
        {"service": one.service, "route": one.route, "consumer": one.consumer, "failed": one.failed} for one in failed
    ]
    rows += [
        {"service": one.service, "route": one.route, "consumer": one.consumer, "limited": one.limited}
        for one in sorted(limited, key=lambda one: -one.limited)
    ]
    return rows[:MOST_AFFECTED]
