"""Is what clients get good enough? Errors, latency and refusals of a route against what is expected of it. Pure.

The gateway's own records are judged, so a service that reports nothing is judged like one that reports all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from apps.dashboard.judge.readings import (
    DEGRADED,
    FAILING,
    HEALTHY,
    RANK,
    Caller,
    Edge,
    Judgement,
    RedLike,
    Refusal,
    RouteInfo,
    Traffic,
)
from apps.dashboard.words import milliseconds, percent, plural

LEAST_REQUESTS, LEAST_ERRORS = 10, 3
"""Fewer requests, or fewer failures, in a minute say nothing about a share."""
PROOF = 5.0
"""Failures that the newest seconds would hold if things were as they were; without any of them it is over."""
LEAST_FAILING = 5
"""Failures that it takes to call a route failing."""
REFUSED_SHARE = 0.5
"""More of a consumer's requests refused than this, by its limit or for its credentials, is said aloud."""
SLOWER, SLOWER_MS = 3.0, 200.0
"""A p95 of so many times, and so many milliseconds more than, its own last hour's is slow."""
STRANGERS = frozenset({"credentials_missing"})
"""Refusals that are not judged: whoever scans a network meets them all day."""
DEADLINE_SHARE = 0.5
"""A p95 past this share of the deadline is slow, whatever the last hour was like."""
EXPECTED = RouteInfo("", "", "")
"""What is expected of a whole service: the defaults."""


def judge(service: str, traffic: Traffic, routes: Mapping[str, RouteInfo], policies: Mapping[str, str]) -> Judgement:
    """The worst that clients of ``service`` meet by these, its own routes; HEALTHY when nothing is past what is
    expected. ``policies``: consumer → the rate limit of its own."""
    found = [Judgement(HEALTHY)]
    cause = traffic.blame.get(service, "")
    for info in routes.values():
        edge = traffic.routes.get(info.name)
        if edge is not None:
            now = traffic.recent.routes.get(info.name, Edge()) if traffic.recent else None
            found += errors(info, edge, now, cause, f" to {info.path}")
            found += slow(info, edge, traffic.usual_p95_ms.get(info.name))
    whole = traffic.services.get(service)
    if whole is not None:
        now = traffic.recent.services.get(service, Edge()) if traffic.recent else None
        found += errors(EXPECTED, whole, now, cause)
        if whole.limited:
            found += limits((caller for caller in traffic.callers if caller.service == service), routes, policies)
        if whole.refused:
            found += refusals((one for one in traffic.refusals if one.service == service), traffic.routes, routes)
    # The first of the worst: errors are told before slowness, a route before the whole.
    return min(found, key=lambda judgement: RANK[judgement.state])


def errors(expected: RouteInfo, edge: Edge, recent: Edge | None, cause: str = "", where: str = "") -> list[Judgement]:
    """Whether too large a share of the minute's answers was 500 or above, and still is as far as ``recent`` tells."""
    if edge.requests < LEAST_REQUESTS or edge.errors < LEAST_ERRORS or edge.error_rate < expected.degraded_share:
        return []
    if recent is not None and is_over(edge, recent):
        return []
    failing = edge.error_rate >= expected.failing_share and edge.errors >= LEAST_FAILING
    because = f" because of {cause}" if cause else ""
    share = f"{percent(edge.error_rate)} of {plural(edge.requests, 'request')}{where} fail{because}"
    return [Judgement(FAILING if failing else DEGRADED, share)]


def is_over(edge: Edge, recent: Edge) -> bool:
    """Whether failures have ended: none lately, although enough was asked to meet some, or nobody asks any more."""
    if recent.errors:
        return False
    return not recent.requests or recent.requests * edge.error_rate >= PROOF


def slow(expected: RouteInfo, edge: Edge, usual_ms: float | None) -> list[Judgement]:
    """Whether the slowest twentieth waits too long: past the route's own threshold, else its habit or its deadline."""
    p95 = edge.p95_ms
    if p95 is None or edge.requests < LEAST_REQUESTS:
        return []
    told = f"slow: p95 of {expected.path} is {milliseconds(p95)} ms"
    if expected.slow_ms is not None:
        over = p95 > expected.slow_ms
        return [Judgement(DEGRADED, f"{told}, past its {milliseconds(expected.slow_ms)} ms")] if over else []
    if usual_ms is not None and p95 > max(SLOWER * usual_ms, usual_ms + SLOWER_MS):
        return [Judgement(DEGRADED, f"{told}, {milliseconds(usual_ms)} ms in the last hour")]
    if p95 > DEADLINE_SHARE * expected.deadline_ms:
        return [Judgement(DEGRADED, f"{told}, of the {milliseconds(expected.deadline_ms)} ms it may take")]
    return []


def limits(callers: Iterable[Caller], routes: Mapping[str, RouteInfo], policies: Mapping[str, str]) -> list[Judgement]:
    """Consumers most of whose requests are past their limit: who, and by which policy."""
    found = []
    for caller in sorted(callers, key=lambda caller: -caller.limited):
        if caller.requests < LEAST_REQUESTS or caller.limited <= REFUSED_SHARE * caller.requests:
            continue
        policy = policy_of(caller, routes, policies)
        share = percent(caller.limited / caller.requests)
        found.append(
            Judgement(
                DEGRADED,
                f"{caller.consumer or 'callers without a key'} limited{f' by {policy}' if policy else ''}: "
                f"{share} of its requests to {_path(caller.route, routes)} get 429",
            )
        )
    return found


def refusals(found: Iterable[Refusal], seen: Mapping[str, Edge], routes: Mapping[str, RouteInfo]) -> list[Judgement]:
    """Routes most of whose requests the gateway turns away for one reason, such as a key that has expired."""
    judged = []
    for refusal in sorted(found, key=lambda refusal: -refusal.requests):
        if refusal.failure in STRANGERS:
            continue
        edge = seen.get(refusal.route, Edge())
        if edge.requests >= LEAST_REQUESTS and refusal.requests > REFUSED_SHARE * edge.requests:
            share = f"{percent(refusal.requests / edge.requests)} of {plural(edge.requests, 'request')}"
            why = refusal.failure.replace("_", " ")
            judged.append(Judgement(DEGRADED, f"{share} to {_path(refusal.route, routes)} are refused: {why}"))
    return judged


def policy_of(caller: Caller, routes: Mapping[str, RouteInfo], policies: Mapping[str, str]) -> str:
    """Which rate limit holds for this caller here: its own, else the route's; empty when there is none."""
    return policies.get(caller.consumer) or (routes[caller.route].policy if caller.route in routes else "")


def _path(route: str, routes: Mapping[str, RouteInfo]) -> str:
    return routes[route].path if route in routes else route


def own_report(red: RedLike | None) -> list[Judgement]:
    """What a service says of itself, where that is bad: never more than a degradation, for it is its word alone."""
    if red is None or red.requests < LEAST_REQUESTS or red.errors < LEAST_ERRORS:
        return []
    if red.error_rate < EXPECTED.degraded_share:
        return []
    return [Judgement(DEGRADED, f"by its own report {percent(red.error_rate)} of its requests fail")]
