"""P6: events per second, published → stored → delivered once, beside the bare client of each broker in one run.

Ours: ``publish_all`` in batches of 500 into SQLite, the relay's pump, the broker, and the kit's consumer, whose inbox
row and handler are one transaction of its own SQLite; signed and verified; three processes. Bare: the same bytes by
redis-py, aiormq or aiokafka, published in batches of 500 with confirmation by one process, read and acknowledged by
another. In turns; medians. ``benchmarks.bus`` is the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from statistics import median
from typing import Any

import psycopg

from benchmarks.report import Falsified, Figure
from services.kit.env import ROOT
from tests import machine
from tests.postgres import cluster

QUICK = bool(os.environ.get("MC_BENCH_QUICK"))
EVENTS = 500 if QUICK else 10_000
ROUNDS = 1 if QUICK else 5
SHORT, LONG = 1000, 20_000 if QUICK else 1_000_000
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
                note=f"{broker}: ours {_span(found['ours'])}, bare {_span(found['bare'])} events/s; processor time of "
                f"an event: {', '.join(f'{name} {us:.0f} µs' for name, us in found['us'].items())}",
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
    return figures + [_long_log(kind) for kind in ("SQLite", "PostgreSQL") if kind == "SQLite" or machine.postgres()]


def _long_log(kind: str) -> Figure:
    """What a page, a query or a reader waits for in a long log, beside a short one: the question that grew most."""
    with nullcontext("sqlite") if kind == "SQLite" else cluster() as url:
        short, long = (_ask(_another(url, events), events) for events in (SHORT, LONG))
    grew = {name: long["ms"][name] / short["ms"][name] for name in short["ms"]}
    worst = max(grew, key=lambda name: grew[name])
    for name, times in grew.items():
        print(f"P6: {kind}: {name}: {short['ms'][name]:.1f} → {long['ms'][name]:.1f} ms, ×{times:.2f}", file=sys.stderr)
    return Figure(
        id="P6",
        what=f"the question that grows most from {SHORT:,} to {LONG:,} events on {kind}: {worst}",
        ours=long["ms"][worst],
        unit="ms",
        peers={f"{SHORT:,} events": short["ms"][worst]},
        ratio=grew[worst],
        must=3,
        better="lower",
        note=f"{kind}: {len(grew)} questions, half of them ×{median(grew.values()):.2f} or less; "
        f"filled in {long['filled_s']:.0f} s",
    )


def _another(url: str, events: int) -> str:
    if url == "sqlite":
        return url
    base, _, name = url.rpartition("/")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE log{events}")
    return f"{base}/log{events}" if name else url


def _ask(url: str, events: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.log", url, str(events)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Falsified(f"P6: the log of {events:,} events ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _span(rates: list[float]) -> str:
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def _measure(broker: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.bus", broker, str(EVENTS), str(ROUNDS)]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Falsified(f"P6: the run over {broker} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
