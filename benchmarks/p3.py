"""P3: OTLP/HTTP protobuf spans per second on one core, until queryable, beside bare inserts of the same rows.

The collector and the embedded ClickHouse share core 0; the load comes from core 1: requests of 512 spans
with eight attributes each, their bodies made beforehand, over several connections. A span counts when the
collector has answered 200 and ClickHouse then counts it; the clock stops when the last one is counted.

The peer is ClickHouse alone on the same core: the rows that the collector stored, as Arrow in blocks of 50,000 made
beforehand, inserted into the same table with the same views. Rounds of both alternate, on one plant.

Rates are per second of that core, as the kernel counts the processes' time on it: on a core that is busy with this
alone it is the same as per second of the clock, and on a machine that does other things as well it still is true.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct

import psutil
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from benchmarks.report import Falsified, Figure
from services.kit.env import ENGINE_USER
from tests.clickhouse import ask
from tests.waiting import free_port, until

ROOT = Path(__file__).resolve().parent.parent
SPANS = 512
BODIES = 300
CONNECTIONS = 128
QUICK = bool(os.environ.get("MC_BENCH_QUICK"))
SECONDS = float(os.environ.get("BENCH_P3_SECONDS", "2" if QUICK else "8"))
ROUNDS = 1 if QUICK else 3
ARROW_ROWS, ARROW_BODIES = 50_000, 8
ARROW_WRITERS = 2
WORK_CORE, LOAD_CORE = 0, 1
TABLES = ("otel_traces", "otel_traces_trace_id_ts", "otel_red_10s", "otel_red_1m")

MARK, MARKS = Struct("<BBQ"), itertools.count()
"""A field that OTLP does not know (15), to make each request's bytes its own."""

ROUTES = [f"/v1/things/{number}" for number in range(20)]
SERVICES = ("gateway", "nexus", "covenant", "mint")


def body(seed: int) -> bytes:
    """One export of SPANS spans: four services' shapes, five spans a trace, one in fifty failed."""
    chance = random.Random(seed)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    service = SERVICES[seed % len(SERVICES)]
    for key, value in (("service.name", service), ("service.version", "1.0.0"), ("host.name", "bench")):
        group.resource.attributes.add(key=key).value.string_value = value
    spans = group.scope_spans.add()
    spans.scope.name = "bench"
    now = time.time_ns()
    trace_id = b""
    for number in range(SPANS):
        if number % 5 == 0:
            trace_id = chance.randbytes(16)
        span = spans.spans.add(trace_id=trace_id, span_id=chance.randbytes(8), kind=2 + number % 2)
        if number % 5:
            span.parent_span_id = chance.randbytes(8)
        route = chance.choice(ROUTES)
        span.name = f"GET {route}"
        span.start_time_unix_nano = now + number * 20_000
        span.end_time_unix_nano = span.start_time_unix_nano + int(chance.lognormvariate(15, 1.5))
        failed = chance.random() < 0.02
        span.status.code = 2 if failed else 0
        for key, value in (
            ("http.request.method", "GET"),
            ("http.route", route),
            ("url.path", f"{route}/{chance.randrange(10_000)}"),
            ("server.address", "127.0.0.1"),
            ("user_agent.original", "bench/1.0"),
            ("mc.consumer", f"consumer-{chance.randrange(50)}"),
        ):
            span.attributes.add(key=key).value.string_value = value
        span.attributes.add(key="http.response.status_code").value.int_value = 503 if failed else 200
        span.attributes.add(key="client.port").value.int_value = chance.randrange(1024, 65_536)
    return request.SerializeToString()


class Plant:
    """The two processes, on one core if wanted, with a home of their own."""

    def __init__(self, *, pinned: bool = True) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mc-p3-"))
        self.clickhouse_port, self.otlp_port = free_port(), free_port()
        environment = os.environ | {
            "MC_HOME": str(self.home),
            "MC_CLICKHOUSE_PORT": str(self.clickhouse_port),
            "MC_OTLP_HTTP_PORT": str(self.otlp_port),
            "MC_CLICKHOUSE_PASSWORD": (password := secrets.token_hex(16)),
            "MC_FLEET_TOKEN": secrets.token_hex(16),
            "MC_LOG_LEVEL": "WARNING",
        }
        self.password = password
        self.clickhouse_url = f"http://{ENGINE_USER}:{password}@127.0.0.1:{self.clickhouse_port}"
        for name in ("CLICKHOUSE_URL", "CLICKHOUSE_DATABASE", "MC_HOST"):
            environment.pop(name, None)
        pin = ["taskset", "-c", str(WORK_CORE)] if pinned else []
        self.processes = [
            subprocess.Popen(
                [*pin, sys.executable, "-m", f"missioncontrol.{name}"],
                cwd=ROOT,
                env=environment,
            )
            for name in ("clickhouse", "collector")
        ]

    def ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.otlp_port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)

    def query(self, sql: str) -> str:
        return ask(f"{self.clickhouse_url}/?database=mission", sql)

    def ask(self, sql: str, data: bytes | None = None) -> bytes:
        """What ClickHouse answers; ``data`` follows an INSERT."""
        url = f"http://127.0.0.1:{self.clickhouse_port}/"
        named = {"database": "mission", "query": sql}
        answer = requests.post(url, params=named, data=data, auth=(ENGINE_USER, self.password), timeout=60)
        if answer.status_code != 200:
            raise Falsified(f"ClickHouse answered {answer.status_code}: {answer.text[:200]}")
        return bytes(answer.content)

    def cpu_seconds(self) -> float:
        """Of core time, so far."""
        total = 0.0
        for process in self.processes:
            root = psutil.Process(process.pid)
            for one in (root, *root.children(recursive=True)):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def plant(*, pinned: bool = True) -> Iterator[Plant]:
    """Up and ready, and gone afterwards."""
    running = Plant(pinned=pinned)
    try:
        until(running.ready, 30, what="collector ready")
        yield running
    finally:
        running.close()


class Load:
    """Threads that send prepared bodies until the time is up, each marked: a body that comes again is stored once."""

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._port, self._bodies = port, bodies
        self._lock = threading.Lock()
        self._next = 0
        self.acknowledged = 0
        self.errors: list[str] = []

    def run(self, seconds: float) -> None:
        """Returns when every connection has its last answer."""
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=self._send, args=(deadline,)) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, deadline: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            while time.monotonic() < deadline and not self.errors:
                with self._lock:
                    data = self._bodies[self._next % len(self._bodies)] + MARK.pack(0x7A, 8, next(MARKS))
                    self._next += 1
                connection.request("POST", "/v1/traces", data, {"Content-Type": "application/x-protobuf"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200 or ExportTraceServiceResponse.FromString(content).HasField("partial_success"):
                    self.errors.append(f"{answer.status}: {content[:200]!r}")
                    return
                with self._lock:
                    self.acknowledged += SPANS
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(repr(error))
        finally:
            connection.close()


def measure(running: Plant, bodies: list[bytes], seconds: float) -> tuple[float, float]:
    """Spans per second of the clock, and per second of the processes' CPU."""
    before = int(running.query("SELECT count() FROM otel_traces"))
    load = Load(running.otlp_port, bodies)
    cpu, started = running.cpu_seconds(), time.monotonic()
    load.run(seconds)
    if load.errors:
        raise Falsified(f"P3: the collector answered {load.errors[0]}")
    stored = int(running.query("SELECT count() FROM otel_traces")) - before
    elapsed = time.monotonic() - started
    if stored != load.acknowledged:
        raise Falsified(f"P3: {load.acknowledged} spans acknowledged, {stored} queryable")
    return stored / elapsed, stored / (running.cpu_seconds() - cpu)


def arrow(running: Plant) -> list[bytes]:
    """Rows that the collector stored, as bodies of Arrow."""
    there = int(running.query("SELECT count() FROM otel_traces")) // ARROW_ROWS
    bodies = [
        running.ask(f"SELECT * FROM otel_traces LIMIT {ARROW_ROWS} OFFSET {ARROW_ROWS * number} FORMAT ArrowStream")  # noqa: S608
        for number in range(min(there, ARROW_BODIES))
    ]
    if not bodies:
        raise Falsified("P3: too few spans stored for the peer's rows")
    return bodies


def bare(running: Plant, bodies: list[bytes], seconds: float) -> tuple[float, float]:
    """Rows per second that ClickHouse alone takes as Arrow, until queryable: of the clock, and of core time."""
    before = int(running.query("SELECT count() FROM otel_traces"))
    cpu, started = running.cpu_seconds(), time.monotonic()
    turns = itertools.count()

    def write() -> int:
        done = 0
        while time.monotonic() - started < seconds:
            running.ask("INSERT INTO otel_traces FORMAT ArrowStream", bodies[next(turns) % len(bodies)])
            done += ARROW_ROWS
        return done

    with ThreadPoolExecutor(ARROW_WRITERS) as writers:
        acknowledged = sum(future.result() for future in [writers.submit(write) for _ in range(ARROW_WRITERS)])
    stored = int(running.query("SELECT count() FROM otel_traces")) - before
    elapsed = time.monotonic() - started
    if stored != acknowledged:
        raise Falsified(f"P3: {acknowledged} rows of Arrow acknowledged, {stored} queryable")
    return stored / elapsed, stored / (running.cpu_seconds() - cpu)


def run() -> list[Figure]:
    """The medians of ROUNDS alternating rounds after a short warm-up."""
    if (os.cpu_count() or 1) < 2:
        raise Falsified("P3 needs two cores: one for the work, one for the load")
    os.sched_setaffinity(0, {LOAD_CORE})
    ours: list[tuple[float, float]] = []
    peers: list[tuple[float, float]] = []
    try:
        bodies = [body(seed) for seed in range(BODIES)]
        with plant() as running:
            measure(running, bodies, 2)
            rows = arrow(running)
            bare(running, rows, 1)
            for _ in range(ROUNDS):
                for table in TABLES:
                    running.query(f"TRUNCATE TABLE {table}")
                ours.append(measure(running, bodies, SECONDS))
                peers.append(bare(running, rows, SECONDS))
    finally:
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)))
    rate, peer = (sorted(per_cpu for _, per_cpu in rounds)[ROUNDS // 2] for rounds in (ours, peers))
    clock, bare_clock = (", ".join(f"{one:,.0f}" for one, _ in rounds) for rounds in (ours, peers))
    return [
        Figure(
            id="P3",
            what="OTLP/HTTP protobuf spans per second of one core, until queryable",
            ours=rate,
            unit="spans/s",
            peers={"Arrow into ClickHouse": peer},
            ratio=rate / peer,
            must=0.25,
            aim=0.5,
            better="higher",
            note=f"by the clock {clock} beside {bare_clock}; {SPANS} spans of 8 attributes a request, "
            f"{ARROW_ROWS:,} rows an insert of the peer's; same rows, table and views",
        )
    ]
