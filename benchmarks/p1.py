"""P1: requests a second on one core with full policy, ours ÷ Envoy's; Caddy and nginx beside.

Alternating runs of wrk (64 connections), medians. A run counts only if every answer was 2xx, and ours and
Envoy's only if the sink received a span for at least 99% of the requests.
"""

from __future__ import annotations

import sys
from statistics import median

from benchmarks.gateways import FIELD, LOAD_CORE, OURS, PATH, PEERS, Field, field, quick
from benchmarks.load import saturate
from benchmarks.report import Falsified, Figure

TRACED = (OURS, "envoy")


def run() -> list[Figure]:
    """Measure."""
    rounds, seconds = (2, 2.0) if quick() else (5, 4.0)
    with field() as found:
        rates, costs = measure(found, rounds, seconds)
    rate = {name: median(values) for name, values in rates.items()}
    cost = {name: median(values) for name, values in costs.items()}
    used = ", ".join(f"{name} {cost[name]:.1f} µs/request" for name in (OURS, *PEERS))
    idle = [name for name in cost if rate[name] * cost[name] / 1e6 < 0.85]
    note = f"processor time {used} (ratio by it {cost['envoy'] / cost[OURS]:.2f})"
    note += f"; {rounds} alternating runs of {seconds:g} s"
    if idle:
        note += f"; NOT saturated, the other core was the limit: {', '.join(idle)}"
    note += "; Caddy has no rate limit and nginx no tracing; 200 routes are ours alone"
    return [
        Figure(
            "P1",
            "gateway, full policy, one core",
            rate[OURS],
            "requests/s",
            {name: rate[name] for name in PEERS},
            rate[OURS] / rate["envoy"],
            must=0.8,
            aim=1.2,
            note=note,
        )
    ]


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
