"""The processes of one machine's Mission Control, as a table: what runs, when, and how it says that it's ready."""

from __future__ import annotations

from dataclasses import dataclass

from missioncontrol.launch import layout
from missioncontrol.launch.report import Stop
from missioncontrol.launch.settings import LOOPBACK, Settings

STATE, PIPES, WORK, SERVICES, CONTROL, GATEWAY = 10, 20, 30, 40, 50, 60
"""Ranks: started from the lowest, stopped from the highest, so that what faces clients drains while
everything behind it still works."""

SERVICE_NAMES = ("nexus", "covenant", "aegis", "mint")
"""The reference services; nexus first, for it takes longest."""


@dataclass(frozen=True, slots=True)
class Http:
    """Ready when ``url`` answers 200; the reason stands in the answer until then."""

    url: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ready when the process has refreshed ``mc:alive:<name>`` on Redis since it was started."""

    name: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Ready when Redis answers PING."""


Readiness = Http | Heartbeat | Ping


@dataclass(frozen=True, slots=True)
class Process:
    """One row. ``stop_wait``: seconds between asking to stop and killing; ``after``: started when these are ready."""

    name: str
    argv: tuple[str, ...]
    rank: int
    ready: Readiness
    stop_wait: int = 12
    after: tuple[str, ...] = ()
    listen: str = ""
    """The address ("host port") of a socket that the supervisor keeps for it, so that a restart refuses nobody."""

    @property
    def demo(self) -> bool:
        """One of the reference services: the rest is of use without it."""
        return self.rank == SERVICES


def table(settings: Settings, redis_binary: str) -> list[Process]:
    """Every process this run starts, in starting order. ``redis_binary`` matters only when Redis is embedded."""
    python, ports = settings.python, settings.ports
    celery = (python, "-m", "celery", "-A", "missioncontrol.celery", "--quiet")

    def http(name: str, path: str = "/ready", host: str = "") -> Http:
        return Http(f"http://{host or settings.reach}:{ports[name]}{path}")

    def module(name: str) -> tuple[str, ...]:
        return (python, "-m", name)

    rows = []
    if settings.own_redis:
        # Its password would be for all to read in a command line.
        argv = (redis_binary, str(layout.redis_config_path(settings.home)))
        rows.append(Process("redis", argv, STATE, Ping()))
    if settings.own_clickhouse:
        ready = http("MC_CLICKHOUSE_PORT", host=LOOPBACK)
        rows.append(Process("clickhouse", module("missioncontrol.clickhouse"), STATE, ready, stop_wait=20))
    rows.append(Process("collector", module("missioncontrol.collector"), PIPES, http("MC_OTLP_HTTP_PORT")))
    worker = ("worker", "--pool", "threads", "--concurrency", "4", "--loglevel", "WARNING")
    # Gossip, mingle and heartbeats are for fleets of workers that watch each other; here they are idle CPU.
    lean = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    # An empty pid file: beat would else leave one in the checkout.
    beat = ("beat", "--pidfile=", "--loglevel", "WARNING")
    rows += [
        # The worker holds the health checks: begun earlier, they would find services that aren't up yet and
        # take them out of rotation, and the first request after a start would be refused.
        Process("worker", (*celery, *worker, *lean), WORK, Heartbeat("worker"), after=SERVICE_NAMES),
        Process("beat", (*celery, *beat), WORK, Heartbeat("beat")),
        Process("relay", (python, "manage.py", "relay"), WORK, Heartbeat("relay")),
    ]
    for name in SERVICE_NAMES:
        rows.append(Process(name, module(f"services.{name}"), SERVICES, http(f"MC_{name.upper()}_PORT")))
    daphne = (*module("daphne"), "-b", settings.host, "-p", str(ports["MC_CONTROL_PORT"]), "-v", "0")
    rows += [
        Process("control", (*daphne, "missioncontrol.asgi:application"), CONTROL, http("MC_CONTROL_PORT")),
        Process(
            "gateway",
            module("missioncontrol.gateway"),
            GATEWAY,
            http("MC_GATEWAY_PORT", "/-/ready"),
            listen=f"{settings.host} {ports['MC_GATEWAY_PORT']}",
        ),
    ]
    unknown = settings.only - {row.name for row in rows}
    if unknown:
        known = ", ".join(row.name for row in rows)
        raise Stop(f"MC_PROCESSES names {', '.join(sorted(unknown))}, which is none of {known}.")
    return [row for row in rows if not settings.only or row.name in settings.only]
