"""P6: events per second, published → stored → delivered once, beside the bare client of each broker in one run.

Ours: ``publish_all`` in batches of 500 into SQLite, the relay's pump, the broker, and the kit's consumer, whose inbox
row and handler are one transaction of its own SQLite; signed and verified. Bare: the same bytes by redis-py, aiormq or
aiokafka, published in batches of 500 with confirmation, read and acknowledged. Each in one process, in turns; medians.
``benchmarks.bus`` is the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

from benchmarks.report import Falsified, Figure
from services.kit.env import ROOT
from tests import machine

QUICK = bool(os.environ.get("MC_BENCH_QUICK"))
EVENTS = 500 if QUICK else 10_000
ROUNDS = 1 if QUICK else 5
BROKERS = {"redis": "redis-py", "rabbitmq": "aiormq", "kafka": "aiokafka"}


def run() -> list[Figure]:
    """Every broker that this machine has."""
    figures: list[Figure] = []
    p99 = []
    for broker, client in BROKERS.items():
        if lack := machine.lacks(broker) if broker != "redis" else "":
            print(f"P6: {broker} is left out: {lack}", file=sys.stderr, flush=True)
            continue
        found = _measure(broker)
        ours, bare = median(found["ours"]), median(found["bare"])
        p99.append(found["p99_ms"])
        figures.append(
            Figure(
                id="P6",
                what=f"events published, stored and delivered once over {broker}",
                ours=ours,
                unit="/s",
                peers={f"bare {client}": bare},
                ratio=ours / bare,
                must=0.3,
                aim=0.7,
                note=f"{broker}: ours {_span(found['ours'])}, bare {_span(found['bare'])} events/s",
            )
        )
    if p99:
        figures.append(
            Figure(
                id="P6",
                what="p99 of publish, one event, on SQLite",
                ours=median(p99),
                unit="ms",
                must=10,
                better="lower",
                note="each commit reaches the disk; the relay and a consumer run beside it",
            )
        )
    return figures


def _span(rates: list[float]) -> str:
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def _measure(broker: str) -> dict[str, list[float]]:
    argv = [sys.executable, "-m", "benchmarks.bus", broker, str(EVENTS), str(ROUNDS)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Falsified(f"P6: the run over {broker} ended with {done.returncode}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found
