"""What the gateway answered, as it counted it: the truth for every upstream, instrumented or not.

Every request is in these figures, whatever its caller said of sampling. They come from rollups
(schema/0004_edge.sql): ten-second steps for a window of minutes, whole minutes for longer ones. A page never
scans spans.

Each answer carries ``newest``, the time of the last word of any gateway: figures are known up to there, and
when that lies some seconds back they are stale, whatever they say. A live gateway speaks every five seconds,
traffic or not; None means that none has ever spoken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.lib import clock
from apps.telemetry.client import rows
from apps.telemetry.quantiles import EDGE, quantiles
from apps.telemetry.queries.steps import GRAIN, floor, steps

FINE_S = 900.0
"""Longest window whose figures come from ten-second steps, unless its own steps are as short."""

# Latency is told of what was sent on to a service; a refusal at the door takes no time and would flatter it.
_TIMED = "Failure = '' OR startsWith(Failure, 'upstream_')"
_COUNTS = """
    sum(Count) AS Requests,
    sumIf(Count, Status >= 500) AS Errors,
    sumIf(Count, Status >= 500 AND Failure = '') AS ServiceErrors,
    sumIf(Count, Status = 429) AS Limited,
    sumIf(Count, Status >= 400 AND Status < 500 AND Status NOT IN (429, 499)) AS ClientErrors,
    sumIf(Count, Status = 499) AS Abandoned,
    sumIf(Count, Failure != '' AND Status != 499) AS Refused
"""
_SUMS = (
    "sum(Requests), sum(Errors), sum(ServiceErrors), sum(Limited), sum(ClientErrors), sum(Abandoned), sum(Refused), "
    "groupArrayIf((Bucket, Timed), Timed > 0)"
)

_NEWEST = """(
    SELECT toUnixTimestamp64Milli(max(Newest)) FROM otel_edge_10s WHERE Time = (SELECT max(Time) FROM otel_edge_10s)
)"""
"""Milliseconds; 0 when no gateway ever spoke."""


@dataclass(frozen=True, slots=True)
class EdgeFigures:
    """What clients got of one service, route or consumer (or of all). Names are empty where not asked for."""

    service: str
    route: str
    consumer: str
    requests: int
    rate: float
    """Requests per second over the window."""
    errors: int
    """Answered 5xx, by the service or in its name."""
    error_rate: float
    """errors / requests, 0..1; 0 when there were no requests."""
    service_errors: int
    """Of these: answered so by the service itself."""
    limited: int
    """429."""
    client_errors: int
    """4xx other than 429 and 499."""
    abandoned: int
    """499: the client left before the answer."""
    refused: int
    """Answered by the gateway with a problem of its own (401, 404, 429, 502, 503 …); see ``edge_failures``."""
    p50_ms: float | None
    """Of requests that went on to a service; None when there were none. Off by 4.4% at most."""
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class EdgeReport:
    """Figures by name, and of everything together."""

    since: float
    until: float
    """The window, begun at a whole step."""
    newest: float | None
    whole: EdgeFigures
    """Over all names, those beyond the limit too."""
    names: int
    """How many there are, of which ``rows`` shows the first."""
    rows: tuple[EdgeFigures, ...]


@dataclass(frozen=True, slots=True)
class EdgeFailure:
    """One way in which requests failed or were refused."""

    service: str
    """Empty, as is ``route``, for a request that no route took."""
    route: str
    status: int
    failure: str
    """The slug of the gateway's problem; empty when the service itself answered so."""
    requests: int
    consumers: int
    """How many different ones met it."""
    last_at: float
    """Start of the last step with one."""


@dataclass(frozen=True, slots=True)
class EdgeFailures:
    """Ways of failing, most frequent first."""

    since: float
    until: float
    newest: float | None
    requests: int
    """Failed or refused, over all ways, those beyond the limit too."""
    ways: int
    rows: tuple[EdgeFailure, ...]


@dataclass(frozen=True, slots=True)
class Affected:
    """A consumer that met 5xx on a route."""

    consumer: str
    """Empty for callers without a credential."""
    service: str
    route: str
    failed: int
    requests: int
    """Of this consumer on this route, failed or not."""
    last_at: float


@dataclass(frozen=True, slots=True)
class EdgeAffected:
    """Who meets failures, worst first."""

    since: float
    until: float
    newest: float | None
    failed: int
    """Failed requests over all, those beyond the limit too."""
    consumers: int
    """Different consumers that met one."""
    rows: tuple[Affected, ...]


@dataclass(frozen=True, slots=True)
class EdgePoint:
    """One step of a series that begins ``at``; a step without requests is a point with none."""

    at: float
    requests: int
    errors: int
    limited: int
    refused: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def edge_by_service(since: float, until: float | None = None, *, limit: int = 500) -> EdgeReport:
    """Every service that requests were for, busiest first."""
    return _report(("Service",), since, until, {}, limit)


def edge_by_route(
    since: float, until: float | None = None, *, service: str | None = None, limit: int = 100
) -> EdgeReport:
    """Every route that took requests, with its service: most failed first, then busiest."""
    return _report(("Service", "Route"), since, until, {"Service": service}, limit)


def edge_by_consumer(
    since: float, until: float | None = None, *, service: str | None = None, route: str | None = None, limit: int = 100
) -> EdgeReport:
    """Every consumer: most failed first, then busiest. Requests without a proven caller are under an empty name."""
    return _report(("Consumer",), since, until, {"Service": service, "Route": route}, limit)


def edge_failures(
    since: float,
    until: float | None = None,
    *,
    service: str | None = None,
    route: str | None = None,
    consumer: str | None = None,
    limit: int = 100,
) -> EdgeFailures:
    """5xx, 429 and every refusal of the gateway's own, by service, route, status and failure."""
    window = _Window.of(since, until)
    where, parameters = window.where({"Service": service, "Route": route, "Consumer": consumer})
    where += " AND (Failure != '' OR Status >= 500 OR Status = 429)"
    found = rows(
        f"""
        SELECT
            Service, Route, Status, Failure, sum(Count) AS Requests, uniqExact(Consumer), toUnixTimestamp(max(Time)),
            sum(Requests) OVER (), count() OVER (), {_NEWEST}
        FROM {window.table}
        WHERE {where}
        GROUP BY Service, Route, Status, Failure
        ORDER BY Requests DESC, Service, Route, Status, Failure
        LIMIT {{limit:UInt32}}
        """,  # noqa: S608 (the parts are constants of this file; values travel as parameters)
        parameters | {"limit": limit},
    )
    requests, ways, newest = found[0][7:] if found else (0, 0, 0)
    return EdgeFailures(
        window.since,
        window.until,
        _known(newest) if found else edge_newest(),
        requests,
        ways,
        tuple(EdgeFailure(*row[:6], float(row[6])) for row in found),
    )


def edge_affected(
    since: float, until: float | None = None, *, service: str | None = None, route: str | None = None, limit: int = 50
) -> EdgeAffected:
    """Which consumers met 5xx, and on which routes."""
    window = _Window.of(since, until)
    where, parameters = window.where({"Service": service, "Route": route})
    found = rows(
        f"""
        SELECT
            Consumer, Service, Route, Failed, Requests, Last,
            sum(Failed) OVER (), length(groupUniqArray(Consumer) OVER ()), {_NEWEST}
        FROM
        (
            SELECT
                Consumer, Service, Route, sumIf(Count, Status >= 500) AS Failed, sum(Count) AS Requests,
                toUnixTimestamp(maxIf(Time, Status >= 500)) AS Last
            FROM {window.table}
            WHERE {where}
            GROUP BY Consumer, Service, Route
            HAVING Failed > 0
        )
        ORDER BY Failed DESC, Consumer, Service, Route
        LIMIT {{limit:UInt32}}
        """,  # noqa: S608 (as above)
        parameters | {"limit": limit},
    )
    failed, consumers, newest = found[0][6:] if found else (0, 0, 0)
    return EdgeAffected(
        window.since,
        window.until,
        _known(newest) if found else edge_newest(),
        failed,
        consumers,
        tuple(Affected(*row[:5], float(row[5])) for row in found),
    )


def edge_series(
    since: float,
    until: float,
    step_s: float,
    *,
    service: str | None = None,
    route: str | None = None,
    consumer: str | None = None,
) -> list[EdgePoint]:
    """What one service, route or consumer (or all) got, step by step; whole tens of seconds, 2,000 at most."""
    first, count, step = steps(since, until, step_s)
    window = _Window.of(first, first + count * step, step)
    where, parameters = window.where({"Service": service, "Route": route, "Consumer": consumer})
    found = rows(
        f"""
        SELECT Step, {_SUMS}
        FROM
        (
            SELECT
                intDiv(toUnixTimestamp(Time) - {{first:UInt32}}, {{step:UInt32}}) AS Step, Bucket, {_COUNTS},
                sumIf(Count, {_TIMED}) AS Timed
            FROM {window.table}
            WHERE {where}
            GROUP BY Step, Bucket
        )
        GROUP BY Step
        """,  # noqa: S608 (as above)
        parameters | {"first": first, "step": step},
    )
    by_step = {row[0]: row[1:] for row in found}
    points = []
    for index in range(count):
        requests, errors, _, limited, _, _, refused, cells = by_step.get(index, _NOTHING)
        tails = quantiles(cells, ladder=EDGE)
        points.append(EdgePoint(float(first + index * step), requests, errors, limited, refused, *tails))
    return points


def edge_sparks(since: float, until: float, step_s: float) -> dict[str, list[float]]:
    """Requests per second for every service, step by step from ``since``."""
    first, count, step = steps(since, until, step_s)
    window = _Window.of(first, first + count * step, step)
    where, parameters = window.where({})
    found = rows(
        f"""
        SELECT Service, intDiv(toUnixTimestamp(Time) - {{first:UInt32}}, {{step:UInt32}}) AS Step, sum(Count)
        FROM {window.table}
        WHERE {where} AND Service != ''
        GROUP BY Service, Step
        ORDER BY Service, Step
        """,  # noqa: S608 (as above)
        parameters | {"first": first, "step": step},
    )
    lines: dict[str, list[float]] = {}
    for service, index, total in found:
        lines.setdefault(service, [0.0] * count)[index] = total / step
    return lines


def edge_newest() -> float | None:
    """When a gateway last said anything, in wall-clock seconds; None when none ever did."""
    ((newest,),) = rows(f"SELECT {_NEWEST}")
    return _known(newest)


def _known(newest: int) -> float | None:
    return newest / 1e3 if newest else None


_NOTHING: tuple[Any, ...] = (0, 0, 0, 0, 0, 0, 0, [])


@dataclass(frozen=True, slots=True)
class _Window:
    """Which steps of which rollup are read."""

    table: str
    since: int
    until: float

    @classmethod
    def of(cls, since: float, until: float | None, step: float = GRAIN) -> _Window:
        end = clock.wall() if until is None else until
        fine = end - since <= FINE_S or step % 60 != 0
        return cls("otel_edge_10s" if fine else "otel_edge_1m", floor(since, GRAIN if fine else 60), end)

    def where(self, names: Mapping[str, str | None]) -> tuple[str, dict[str, Any]]:
        """The condition, and its parameters."""
        wanted = {name: value for name, value in names.items() if value is not None}
        clauses = ["Time >= toDateTime({since:UInt32})", "Time < toDateTime({until:UInt32})", "Count > 0"]
        clauses += [f"{name} = {{{name.lower()}:String}}" for name in wanted]
        parameters: dict[str, Any] = {name.lower(): value for name, value in wanted.items()}
        return " AND ".join(clauses), parameters | {"since": self.since, "until": math.ceil(self.until)}

    @property
    def seconds(self) -> float:
        return max(1.0, self.until - self.since)


def _report(
    names: tuple[str, ...], since: float, until: float | None, filters: Mapping[str, str | None], limit: int
) -> EdgeReport:
    window = _Window.of(since, until, 60)
    where, parameters = window.where(filters)
    if names != ("Consumer",):
        where += " AND Service != ''"
    inner = f"""
        SELECT {", ".join(names)}, Bucket, {_COUNTS}, sumIf(Count, {_TIMED}) AS Timed
        FROM {window.table}
        WHERE {where}
        GROUP BY {", ".join(names)}, Bucket
    """  # noqa: S608 (as above)
    order = "sum(Requests) DESC" if names == ("Service",) else "sum(Errors) DESC, sum(Requests) DESC"
    # The sum of all comes from the same reading as its parts, so that they agree; it is the first row.
    (_, *whole), *found = rows(
        f"""
        SELECT grouping({names[0]}) AS Whole, {_SUMS}, count() OVER () - 1, {_NEWEST}, {", ".join(names)}
        FROM ({inner})
        GROUP BY GROUPING SETS (({", ".join(names)}), ())
        ORDER BY Whole DESC, {order}, {", ".join(names)}
        LIMIT {{limit:UInt32}} + 1
        """,  # noqa: S608 (as above)
        parameters | {"limit": limit},
    )
    sums = len(_NOTHING)
    return EdgeReport(
        since=float(window.since),
        until=window.until,
        newest=_known(whole[sums + 1]),
        whole=_figures({}, whole[:sums], window.seconds),
        names=whole[sums],
        rows=tuple(
            _figures(dict(zip(names, row[sums + 3 :], strict=True)), row[1 : sums + 1], window.seconds) for row in found
        ),
    )


def _figures(names: Mapping[str, str], sums: Any, seconds: float) -> EdgeFigures:
    requests, errors, service_errors, limited, client_errors, abandoned, refused, cells = sums
    p50, p95, p99 = quantiles(cells, ladder=EDGE)
    return EdgeFigures(
        service=names.get("Service", ""),
        route=names.get("Route", ""),
        consumer=names.get("Consumer", ""),
        requests=requests,
        rate=requests / seconds,
        errors=errors,
        error_rate=errors / requests if requests else 0.0,
        service_errors=service_errors,
        limited=limited,
        client_errors=client_errors,
        abandoned=abandoned,
        refused=refused,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )
