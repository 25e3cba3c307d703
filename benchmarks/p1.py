"""P1: requests a second on one core with full policy, ours ÷ Envoy's and ÷ HAProxy's; Caddy and nginx beside.

Alternating runs of wrk (64 connections), medians; the upstream asked directly shows what the load can do at
most. A run counts only if every answer was 2xx, and a tracing gateway's only if the sink received a span for
at least 99% of the requests. Then a shared limit: a thousand consumers at ten a second each, who ask more often.
"""

from __future__ import annotations

import sys
from statistics import median

from benchmarks.gateways import (
    CONSUMERS,
    EACH,
    EACH_PATH,
    FIELD,
    LOAD_CORE,
    ON,
    OURS,
    PATH,
    PEERS,
    TRACED,
    Field,
    field,
    quick,
)
from benchmarks.load import crowd, saturate
from benchmarks.report import Falsified, Figure

LIMITED = (OURS, "haproxy", "nginx")
"""Those that can hold a limit for each of many consumers out of the box."""


def run() -> list[Figure]:
    """Measure."""
    rounds, seconds = (2, 2.0) if quick() else (5, 4.0)
    with field() as found:
        rates, costs = measure(found, rounds, seconds)
        direct = median(
            saturate(LOAD_CORE, found.ports["upstream"], "/thing", seconds / 2, FIELD).rate for _ in range(3)
        )
        answers, admitted = measure_shared(found, rounds, seconds)
    rate = {name: median(values) for name, values in rates.items()}
    cost = {name: median(values) for name, values in costs.items()}
    used = ", ".join(f"{name} {cost[name]:.1f} µs/request" for name in (OURS, *PEERS))
    idle = [name for name in cost if rate[name] * cost[name] / 1e6 < 0.85]
    note = f"processor time {used} (ratio to Envoy by it {cost['envoy'] / cost[OURS]:.2f})"
    note += f"; {rounds} alternating runs of {seconds:g} s; the upstream asked directly {direct:,.0f}/s"
    if idle:
        note += f"; NOT saturated, the other core was the limit: {', '.join(idle)}"
    note += "".join(f"\n    {name}: {what}" for name, what in ON.items()) + "\n    200 routes are ours alone"
    shared = {name: median(values) for name, values in answers.items()}
    let_in = ", ".join(f"{name} {median(values):,.0f}/s" for name, values in admitted.items())
    return [
        Figure(
            "P1",
            "gateway, full policy, one core, ÷ Envoy",
            rate[OURS],
            "requests/s",
            {name: rate[name] for name in PEERS},
            rate[OURS] / rate["envoy"],
            must=1.5,
            aim=2.5,
            note=note,
        ),
        Figure(
            "P1 haproxy",
            "... ÷ HAProxy with key and stick-table limit, which does not trace",
            rate[OURS],
            "requests/s",
            {"haproxy": rate["haproxy"]},
            rate[OURS] / rate["haproxy"],
            must=0.3,
            aim=0.6,
        ),
        Figure(
            "P1 limit",
            f"{CONSUMERS:,} consumers at {EACH}/s each, who ask more often; ÷ HAProxy",
            shared[OURS],
            "answers/s",
            {name: shared[name] for name in LIMITED if name != OURS},
            shared[OURS] / shared["haproxy"],
            note=f"let in: {let_in}, of {CONSUMERS * EACH:,}/s that may; ours is the only limit shared by all nodes",
        ),
    ]


def measure_shared(found: Field, rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Answers/s and requests let in a second, per gateway and round, when every consumer asks more than it may."""
    answers: dict[str, list[float]] = {name: [] for name in LIMITED}
    admitted: dict[str, list[float]] = {name: [] for name in LIMITED}
    for _ in range(rounds):
        for name in LIMITED:
            seen = crowd(LOAD_CORE, found.ports[name], EACH_PATH, seconds, found.crowd)
            print(f"  {name}: {seen.rate:.0f} answers/s, let in {seen.admitted / seen.seconds:.0f}/s", file=sys.stderr)
            if seen.other:
                raise Falsified(f"{name} gave {seen.other} answers that are neither 200 nor 429")
            if seen.admitted > 1.1 * CONSUMERS * EACH * (seen.seconds + 1):
                raise Falsified(f"{name} let {seen.admitted} in within {seen.seconds:g} s: it does not hold the limit")
            answers[name].append(seen.rate)
            admitted[name].append(seen.admitted / seen.seconds)
    return answers, admitted


def measure(found: Field, rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Requests/s and processor µs a request, per gateway and round."""
    names = (OURS, *PEERS)
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        saturate(LOAD_CORE, found.ports[name], PATH, 1.0, FIELD)  # warm
    for _ in range(rounds):
        for name in names:
            found.settle_spans(10**9, 1.5)
            before = found.cpu(name)
            seen = saturate(LOAD_CORE, found.ports[name], PATH, seconds, FIELD)
            spent = found.cpu(name) - before
            if name in TRACED:
                spans = found.settle_spans(seen.requests)
                if spans < 0.99 * seen.requests:
                    raise Falsified(f"{name} reported {spans} spans for {seen.requests} requests")
            rates[name].append(seen.rate)
            costs[name].append(1e6 * spent / seen.requests)
            print(f"  {name}: {seen.rate:.0f} requests/s, {costs[name][-1]:.1f} µs each", file=sys.stderr)
    return rates, costs
