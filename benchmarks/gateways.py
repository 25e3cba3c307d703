"""The gateways that P1 and P2 compare: ours and the peers, each on a core of its own with the same policies on.

Upstream, telemetry sink, Redis and the load share the other core. Only the gateway under measurement works
while it is measured; the others idle.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from apps.gateway.core import config
from apps.lib import wire
from benchmarks.report import Falsified
from missioncontrol import keys
from services.kit.env import ROOT
from tests.redis_server import RedisServer
from tests.waiting import free_ports, listening, until

LOAD_CORE, GATEWAY_CORE = 0, 1
PEERS = ("envoy", "haproxy", "caddy", "nginx")
TRACED = ("ours", "envoy", "caddy")
ON = {
    "ours": "key, limit shared by all workers, breaker, outliers, retry, trace of every request, access record",
    "envoy": "key, limit of its own, outliers, retry, trace of every request, statistics",
    "haproxy": "key, limit of its own (stick table), passive health, retry, access record; no trace",
    "caddy": "key, passive health, retry, trace of every request, access record; no limit",
    "nginx": "key, limit of its own, passive health, retry, access record; no trace",
}
"""What each has switched on: as much of the full policy as it has."""
OURS = "ours"
PATH = "/bench/thing"
KEY = f"mc_benchmrk_{secrets.token_hex(20)}"
CONSUMERS, EACH = 1000, 10
"""Of the shared limit: so many consumers, who may ask so often a second each."""
EACH_PATH = "/each/thing"
CROWD = [f"mc_crowd{n:04}_{secrets.token_hex(20)}" for n in range(CONSUMERS)]
FIELD = f"X-API-Key: {KEY}"
TEMPLATES = ROOT / "benchmarks" / "peers"


def quick() -> bool:
    """A smoke test rather than a measurement."""
    return os.environ.get("MC_BENCH_QUICK") == "1"


@dataclass(slots=True)
class Field:
    """All that runs, and where."""

    folder: Path
    ports: dict[str, int]
    processes: dict[str, psutil.Process]
    crowd: str = ""
    """wrk's script in which each request is the next consumer's."""

    def cpu(self, name: str) -> float:
        """Processor seconds a gateway has used, with its children."""
        process = self.processes[name]
        family = [process, *process.children(recursive=True)]
        total = 0.0
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system
        return total

    def spans(self) -> int:
        """Spans the sink has counted since it was last asked."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['otlp']}/count", timeout=5) as answer:
            return int(answer.read())

    def settle_spans(self, wanted: int, seconds: float = 8.0) -> int:
        """Wait until ``wanted`` spans have come, or no more do; how many came."""
        got, deadline = 0, time.monotonic() + seconds
        while got < wanted and time.monotonic() < deadline:
            got += self.spans()
            time.sleep(0.2)
        return got


@contextlib.contextmanager
def field() -> Iterator[Field]:
    """Everything started, each gateway seen to let the key in and nobody else."""
    programs = {name: find(name) for name in ("wrk", "taskset", "nginx", "envoy", "haproxy", "caddy")}
    if len(os.sched_getaffinity(0)) < 2:
        raise Falsified("two cores are needed: one for the gateway, one for everything else")
    folder = Path(tempfile.mkdtemp(prefix="mc-gateways-"))
    names = ("upstream", "otlp", "redis", OURS, *PEERS)
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    found = Field(folder, ports, {})
    try:
        _start_all(found, programs)
        for name in (OURS, *PEERS):
            _check(name, ports[name])
        yield found
    finally:
        family = [member for process in found.processes.values() if process.is_running() for member in _family(process)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        for member in psutil.wait_procs(family, 10)[1]:
            member.kill()
        shutil.rmtree(folder, ignore_errors=True)


def find(name: str) -> str:
    """A program beside this Python or on PATH; Falsified when there is none."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise Falsified(
            f"{name} is not installed (pip install -r benchmarks/requirements.txt; apt-get install wrk nginx haproxy)"
        )
    return path


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def _start_all(found: Field, programs: dict[str, str]) -> None:
    folder, ports = found.folder, found.ports

    def start(name: str, core: int, *command: str, **env: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command], cwd=ROOT, env={**os.environ, **env}, stdout=log, stderr=log
            )
        found.processes[name] = psutil.Process(process.pid)
        if name in ports:
            try:
                until(lambda: listening(ports[name]), 20, what=name)
            except AssertionError:
                raise Falsified(f"{name} did not start: {(folder / f'{name}.log').read_text()[-2000:]}") from None

    (folder / "keys").write_text("\n".join([KEY, *CROWD]) + "\n")
    (folder / "crowd").write_text("\n".join(CROWD) + "\n")
    (folder / "map").write_text(f'"{KEY}" bench;\n' + "".join(f'"{key}" {key[3:12]};\n' for key in CROWD))

    def template(file: str, name: str) -> str:
        text = (TEMPLATES / file).read_text()
        values = {"LISTEN_PORT": ports.get(name), "UPSTREAM_PORT": ports["upstream"], "OTLP_PORT": ports["otlp"]}
        files = {"KEYS_FILE": folder / ("crowd" if name == "crowd" else "keys"), "KEYS_MAP": folder / "map"}
        for word, value in {**values, **files, "API_KEY": KEY, "FOLDER": folder}.items():
            text = text.replace(word, str(value))
        path = folder / f"{name}-{file}"
        path.write_text(text)
        return str(path)

    start("upstream", LOAD_CORE, programs["nginx"], "-c", template("upstream.conf", "upstream"))
    start("otlp", LOAD_CORE, sys.executable, "-m", "benchmarks.sink", str(ports["otlp"]))
    store = RedisServer(folder / "redis", port=ports["redis"])
    start("redis", LOAD_CORE, store.binary, str(store.config))
    collector = f"http://127.0.0.1:{ports['otlp']}"
    start(
        "envoy",
        GATEWAY_CORE,
        programs["envoy"],
        "-c",
        template("envoy.yaml", "envoy"),
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    )
    caddy = {
        "GOMAXPROCS": "1",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
    }
    start(
        "caddy",
        GATEWAY_CORE,
        programs["caddy"],
        "run",
        "--adapter",
        "caddyfile",
        "--config",
        template("Caddyfile", "caddy"),
        XDG_CONFIG_HOME=str(folder),
        XDG_DATA_HOME=str(folder),
        **caddy,
    )
    start("nginx", GATEWAY_CORE, programs["nginx"], "-c", template("nginx.conf", "nginx"))
    start("haproxy", GATEWAY_CORE, programs["haproxy"], "-db", "-f", template("haproxy.cfg", "haproxy"))
    found.crowd = template("crowd.lua", "crowd")
    pepper = secrets.token_hex(16)
    os.environ.setdefault("MC_WIRE_KEY", secrets.token_hex(16))
    os.environ.setdefault("MC_REVISION_KEY", secrets.token_hex(16))
    publish(ports, store.url, pepper)
    start(
        OURS,
        GATEWAY_CORE,
        sys.executable,
        "-m",
        "missioncontrol.gateway",
        MC_HOME=str(folder / "home"),
        MC_KEY_PEPPER=pepper,
        MC_FLEET_TOKEN=secrets.token_hex(16),
        MC_GATEWAY_PORT=str(ports[OURS]),
        MC_GATEWAY_WORKERS="1",
        REDIS_URL=store.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector,
    )


def publish(ports: dict[str, int], redis_url: str, pepper: str) -> None:
    """Our configuration: the same policies, and 200 routes around the one that is measured."""
    consumers = {KEY: "bench", **{key: key[3:12] for key in CROWD}}
    hashes = {key: hmac.new(pepper.encode(), key.encode(), hashlib.sha256).hexdigest() for key in consumers}
    upstream = (config.Instance("one", f"http://127.0.0.1:{ports['upstream']}"),)
    others = tuple(config.Route(f"other{n}", "bench", f"/team{n}/api/v1") for n in range(200))
    document = config.Document(
        revision=1,
        created_at=time.time(),
        services=(config.Service("bench", upstream, fleet=True),),
        routes=(
            config.Route("bench", "bench", "/bench", rate_limit="limit"),
            config.Route("each", "bench", "/each", rate_limit="each"),
            *others,
        ),
        rate_limits=(config.RateLimit("limit", 100_000_000), config.RateLimit("each", EACH)),
        consumers=tuple(config.Consumer(name) for name in consumers.values()),
        keys=tuple(config.Key(hashes[key], key[:11], name) for key, name in consumers.items()),
    )
    config.check(document)
    with redis.Redis.from_url(redis_url) as client:
        signed = keys.signer().close(wire.CONFIG_CURRENT, config.encode(document), time.time())
        client.set(wire.CONFIG_CURRENT, signed)


def _check(name: str, port: int) -> None:
    """The gateway lets the key in, turns the keyless away and reaches the upstream."""

    def ask(field: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", headers=dict([field.split(": ", 1)]))
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    try:
        until(lambda: ask(FIELD)[0] == 200, 10, what=f"{name} to serve")
    except AssertionError as error:
        raise Falsified(str(error)) from None
    if ask(FIELD) != (200, b"0123456789"):
        raise Falsified(f"{name} does not pass the upstream's answer on")
    if ask("X-API-Key: wrong")[0] != 401:
        raise Falsified(f"{name} lets a wrong key in")
