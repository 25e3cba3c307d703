"""The state document of the live feed: what was read and what was judged of it, as the pages draw it. Pure.

Owns the document's shape (docs/live-protocol.md). What anything means is apps.dashboard.judge's to say. Numbers of a
source that is stale are left out, never shown as they last were. Times are wall-clock seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apps.dashboard.frames import Document, clean
from apps.dashboard.judge import bus, freshness, own, services, traffic, verdict
from apps.dashboard.judge.freshness import Source
from apps.dashboard.judge.own import Part
from apps.dashboard.judge.readings import (
    FAILING,
    HEALTHY,
    UNKNOWN,
    BreakerLike,
    Changes,
    Edge,
    InstanceLike,
    Judgement,
    Readings,
    Receiver,
    RedLike,
    Reports,
    RouteInfo,
    ServiceInfo,
    Traffic,
)
from apps.dashboard.judge.services import Blind

HEARD = 30.0
"""Seconds for which an answer of what consumers and publishers said counts."""
QUIET = Edge()
"""No request in the window: a rate of nothing, and no share of it."""


class Picture:
    """One moment: readings, and which of them still count."""

    def __init__(self, readings: Readings, now: float) -> None:
        self.readings, self.now = readings, now
        self.parts = own.parts(readings, now)
        self.sources = freshness.sources(readings, self.parts, now)
        verdicts = self.why_not("database") or self.why_not("monitor") or self.why_not("verdicts")
        self.blind = Blind(verdicts, self.why_not("breakers"), self.why_not("telemetry") or self.why_not("traffic"))
        self.traffic = Traffic() if self.blind.traffic else readings.traffic.value
        self.breakers = {} if self.blind.breakers else readings.plane.value.breakers
        self.reports = None if self._unheard() else readings.reports.value
        self.bus = bus.heard(readings.bus.value, self.reports)
        self.routes: dict[str, dict[str, RouteInfo]] = {}
        """Service → its routes by name."""
        for route in readings.registry.value.routes.values():
            self.routes.setdefault(route.service, {})[route.name] = route

    def _unheard(self) -> bool:
        """Whether nobody can know what consumers and publishers said."""
        reading = self.readings.reports
        return bool(self.why_not("telemetry")) or not own.young(reading.at, self.now, HEARD, reading.error)

    def why_not(self, source: str) -> str:
        """Why ``source`` no longer counts; empty while it does."""
        return self.sources[source].stale if source in self.sources else ""


def build(readings: Readings, previous: Document, now: float) -> Document:
    """The state document; ``previous`` lends the moment a state began where the evidence has none."""
    picture = Picture(readings, now)
    found = _services(picture)
    found["gateway"] = _gateway(picture, {name: service["state"] for name, service in found.items()})
    found |= _reporters(picture, found)
    _date(found, previous.get("services", {}), now)
    document = {
        "verdict": _verdict(picture, found),
        "services": found,
        "gateway": _plane(picture),
        "changes": _changes(readings.changes.value),
        "events": _events(picture),
        "own": {name: _part(part) for name, part in picture.parts.items()},
        "sources": {name: _source(source) for name, source in picture.sources.items()},
    }
    result: Document = clean(document)
    return result


def _changes(changes: Changes) -> Document:
    """The newest of the last hour, and how many there were."""
    return {"recent": list(changes.recent), "total": changes.total, "cut": changes.cut or None}


def _events(picture: Picture) -> Document:
    """The log and its subscriptions; nothing of them while they can't be read."""
    if picture.why_not("bus"):
        return {}
    seen, changes, reports = picture.bus, picture.readings.changes.value, picture.reports or Reports()
    judged = bus.judge(seen, picture.now, reports)
    waits = not picture.why_not("events")

    def silent(one: Receiver) -> bool:
        return bus.is_silent(one, picture.now)

    return {
        "state": judged.state,
        "why": judged.why,
        "head": seen.head,
        "waiting": changes.waiting + _elsewhere(reports) if waits else None,
        "oldest_at": _second(changes.oldest_at) if waits and changes.waiting else None,
        "failed": sum(one.open.get("failed", 0) for one in seen.receivers),
        "retrying": sum(one.open.get("retrying", 0) for one in seen.receivers),
        "redriving": sum(one.open.get("redriving", 0) for one in seen.receivers),
        "parked": sum(one.open.get("parked", 0) for one in seen.receivers),
        "keys": seen.keys,
        "lag": sum(one.lag or 0 for one in seen.receivers if one.state == "active" and not silent(one)),
        "silent": [one.name for one in seen.receivers if silent(one)] or None,
        "away": sorted({one.broker for one in reports.waiting if one.away}) or None,
        "forged": seen.forged or None,
        "holes": seen.holes or None,
        "subscriptions": {
            one.name: {
                "state": bus.state(one, picture.now),
                "word": bus.word(one, picture.now),
                "lag": None if silent(one) else one.lag,
                "missing": one.missing or None,
                **{what: count for what, count in one.open.items() if count},
            }
            for one in seen.receivers
        },
    }


def _elsewhere(reports: Reports) -> int:
    """Events that wait in services' own outboxes; ours is counted where it lies."""
    return sum(one.events for one in reports.waiting if one.publisher not in own.TITLES)


def _date(found: Document, before: Mapping[str, Any], now: float) -> None:
    """A state that the evidence gives no moment for began when it was first seen."""
    for name, service in found.items():
        old = before.get(name, {})
        if service.get("since") is None:
            lasts = old.get("state") == service["state"] and "since" in old
            service["since"] = old["since"] if lasts else round(now, 1)


# -- services -----------------------------------------------------------------------------------


def _services(picture: Picture) -> Document:
    registry = picture.readings.registry.value
    by_service: dict[str, list[InstanceLike]] = {}
    for status in registry.instances:
        by_service.setdefault(status.service, []).append(status)
    return {info.name: _service(picture, info, by_service.get(info.name, [])) for info in registry.services}


def _service(picture: Picture, info: ServiceInfo, instances: Sequence[InstanceLike]) -> Document:
    seen, now = picture.traffic, picture.now
    breaker, routes = picture.breakers.get(info.name), picture.routes.get(info.name, {})
    met = traffic.judge(info.name, seen, routes, picture.readings.registry.value.policies)
    judgement = services.judge(info, instances, met, seen.own.get(info.name), breaker, now, picture.blind)
    fresh = not picture.blind.verdicts
    return {
        "title": info.title or info.name,
        **_judged(judgement),
        "instances": {
            status.instance: {
                "state": _instance_state(services.instance_state(status, info.interval_s, now, fresh), status, breaker),
                "url": status.url,
                "since": _second(status.since),
                "checked_at": _second(status.checked_at),
                "latency_ms": _round(status.latency_ms),
                "detail": services.instance_words(status) or None,
            }
            for status in instances
        },
        **_seen(picture, info.name),
        "routes": {name: _edge(seen.routes[name]) for name in routes if name in seen.routes},
        "bar": list(picture.readings.changes.value.bars.get(info.name, ())),
        "breaker": _breaker(breaker),
    }


def _instance_state(state: str, status: InstanceLike, breaker: BreakerLike | None) -> str:
    """What checks say, unless the gateway found out worse."""
    return "ejected" if state == "healthy" and status.instance in services.ejected(breaker) else state


def _seen(picture: Picture, name: str) -> Document:
    """What the gateway saw of it, and beside it what it reports of itself; nothing when neither can be known."""
    if picture.blind.traffic:
        return {"spark": []}
    seen = picture.traffic
    return {
        "red": _edge(seen.services.get(name, QUIET)),
        "own": _red(seen.own.get(name)),
        "spark": [_round(rate, 2) for rate in seen.sparks.get(name, ())],
    }


def _reporters(picture: Picture, known: Mapping[str, Any]) -> Document:
    """Services that nobody registered and that send telemetry: shown by what they report, and by that alone."""
    if picture.blind.traffic or picture.why_not("database"):
        return {}
    found = {}
    for name in sorted(picture.traffic.reporters):
        if name in known or name in own.TITLES:
            continue
        red = picture.traffic.own.get(name)
        found[name] = {
            "title": name,
            **_judged(services.judge_reporter(red)),
            "instances": {},
            "own": _red(red) or {"rate": 0.0},
            "spark": [_round(rate, 2) for rate in picture.traffic.sparks.get(name, ())],
            "bar": [],
            "reports": True,
        }
    return found


def _judged(judgement: Judgement) -> Document:
    return {"state": judgement.state, "why": judgement.why, "since": _second(judgement.since)}


def _edge(edge: Edge) -> Document:
    return {
        "rate": _round(edge.rate, 2),
        "requests": edge.requests,
        "errors": edge.errors,
        "error_rate": _round(edge.error_rate, 4) if edge.requests else None,
        "limited": edge.limited or None,
        "refused": edge.refused or None,
        "p50_ms": _round(edge.p50_ms),
        "p95_ms": _round(edge.p95_ms),
        "p99_ms": _round(edge.p99_ms),
    }


def _red(red: RedLike | None) -> Document | None:
    if red is None:
        return None
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


# -- the gateway and Mission Control itself -----------------------------------------------------


def _gateway(picture: Picture, states: Mapping[str, str]) -> Document:
    plane, seen = picture.readings.plane.value, picture.traffic
    gateway, unseen = picture.parts["gateway"], picture.why_not("workers")
    judgement = services.judge_gateway(
        plane.workers,
        picture.readings.changes.value,
        seen,
        states,
        picture.now,
        down=gateway.sentence if gateway.state == FAILING else "",
        unseen=unseen,
        blind=picture.blind,
    )
    return {
        "title": "gateway",
        **_judged(judgement),
        "instances": {
            worker.id: {
                "state": UNKNOWN if unseen else "healthy",
                "detail": f"process {worker.pid} on {worker.node}, revision {worker.revision}",
                "checked_at": _second(worker.at),
            }
            for worker in plane.workers
        },
        "red": None if picture.blind.traffic else _edge(seen.total),
        "spark": [_round(rate, 2) for rate in seen.sparks.get("gateway", ())],
        "bar": [],
    }


def _plane(picture: Picture) -> Document:
    changes, workers = picture.readings.changes.value, picture.readings.plane.value.workers
    return {
        "revision": changes.revision,
        "published_at": _second(changes.published_at),
        "stale": True if picture.why_not("workers") else None,
        "dropped": sum(worker.dropped for worker in workers),
        "workers": {
            worker.id: {
                "revision": worker.revision,
                "at": _second(worker.at),
                "pid": worker.pid,
                "node": worker.node,
                "dropped": worker.dropped,
                "refused": worker.refused,
            }
            for worker in workers
        },
    }


def _part(part: Part) -> Document:
    return {
        "state": part.state,
        "word": part.word,
        "why": part.why,
        "since": _second(part.since),
        "pid": part.pid or None,
        "starts": part.starts,
        "lost": dict(part.lost) or None,
    }


# -- the verdict --------------------------------------------------------------------------------


def _verdict(picture: Picture, found: Document) -> Document:
    subjects = {
        name: verdict.Subject(one["state"], one["why"], one.get("since"), len(one["instances"]))
        for name, one in found.items()
    }
    reports = picture.reports or Reports()
    told = Judgement(HEALTHY) if picture.why_not("bus") else bus.judge(picture.bus, picture.now, reports)
    judged = verdict.judge(subjects, picture.parts, picture.sources, told)
    return {
        "state": judged.state,
        "title": judged.title,
        "detail": judged.detail,
        "since": judged.since,
        "services": list(judged.services),
        "blind": list(judged.blind),
        "mend": [{"title": one.title, "url": one.url} for one in judged.links],
        "affected": None if picture.blind.traffic else _affected(picture),
        "failed": picture.traffic.failed or None,
        "failed_callers": picture.traffic.failed_callers or None,
    }


def _affected(picture: Picture) -> list[Document]:
    """Who gets no good answer, and of what: the route by its path, a limit by its name."""
    registry, rows = picture.readings.registry.value, []
    for row in picture.traffic.affected:
        route = registry.routes.get(row["route"])
        policy = registry.policies.get(row["consumer"]) or (route.policy if route else "")
        limit = {"policy": policy or None} if "limited" in row else {}
        rows.append({**row, "path": route.path if route else row["route"], **limit})
    return rows


def _source(source: Source) -> Document:
    return {"as_of": _second(source.as_of), "stale": source.stale or None}


def _second(at: float | None) -> float | None:
    return None if at is None else round(at, 1)


def _round(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
