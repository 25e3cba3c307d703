"""P2: the 99th percentile at half of each gateway's own saturation, ours ÷ Envoy's.

Saturation is the median of short wrk runs; then an open-loop client asks at half of it and measures from
when each request was due. Alternating runs, medians.
"""

from __future__ import annotations

import sys
from statistics import median

from benchmarks.gateways import FIELD, LOAD_CORE, OURS, PATH, PEERS, field, quick
from benchmarks.load import saturate, steady
from benchmarks.report import Figure


def run() -> list[Figure]:
    """Measure."""
    rounds, seconds = (1, 2.0) if quick() else (5, 4.0)
    names = (OURS, *PEERS)
    with field() as found:
        half = {}
        for name in names:
            saturate(LOAD_CORE, found.ports[name], PATH, 1.0, FIELD)
            half[name] = median(saturate(LOAD_CORE, found.ports[name], PATH, 2.0, FIELD).rate for _ in range(3)) / 2
        p50: dict[str, list[float]] = {name: [] for name in names}
        p99: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                seen = steady(LOAD_CORE, found.ports[name], PATH, half[name], seconds, FIELD)
                p50[name].append(seen.p50_ms)
                p99[name].append(seen.p99_ms)
                print(
                    f"  {name} at {half[name]:.0f}/s: p50 {seen.p50_ms:.2f} p99 {seen.p99_ms:.2f} ms", file=sys.stderr
                )
        # The same client at our rate with no gateway between: what is not ours of the figure.
        direct = median(
            steady(LOAD_CORE, found.ports["upstream"], "/thing", half[OURS], seconds, FIELD).p99_ms
            for _ in range(min(rounds, 3))
        )
    worst = {name: median(values) for name, values in p99.items()}
    usual = ", ".join(f"{name} {median(p50[name]):.2f} ms at {half[name]:,.0f}/s" for name in names)
    return [
        Figure(
            "P2",
            "gateway, p99 at half of its own saturation",
            worst[OURS],
            "ms",
            {name: worst[name] for name in PEERS},
            worst[OURS] / worst["envoy"],
            must=1.0,
            aim=0.5,
            better="lower",
            note=f"medians p50 {usual}; open loop on 64 connections, timed from when each request was due; "
            f"the upstream asked directly at {half[OURS]:,.0f}/s: p99 {direct:.2f} ms",
        )
    ]
