"""Whom this installation's processes may connect to, read from the environment (the rule is apps.lib.addresses').

Knows the ports that our own processes use. Standard library only, as the launcher's settings that it reads.
"""

from __future__ import annotations

import contextlib
import os
import socket
from ipaddress import ip_address
from threading import Thread
from urllib.parse import urlsplit

from apps.lib.addresses import Guard, Network, Policy, is_here, literal, networks
from missioncontrol.launch.settings import EMBEDDED, PORTS
from services.kit import env

SERVICES = ("MC_AEGIS_PORT", "MC_COVENANT_PORT", "MC_NEXUS_PORT", "MC_MINT_PORT")
"""Those of our own ports that upstreams are for."""
ENGINES = {
    "DATABASE_URL": {"postgres": 5432, "postgresql": 5432},
    "REDIS_URL": {"redis": 6379, "rediss": 6379},
    "CELERY_BROKER_URL": {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671},
    "AMQP_URL": {"amqp": 5672, "amqps": 5671},
    "KAFKA_BOOTSTRAP_SERVERS": {"": 9092, "kafka": 9092, "kafkas": 9092},
    "CLICKHOUSE_URL": {"http": 8123, "https": 8443},
    "OTEL_EXPORTER_OTLP_ENDPOINT": {"http": 80, "https": 443},
}
"""Engines by URL, and the port of each scheme when the URL names none. Kafka may be several hosts without one."""
SEVERAL = frozenset({"KAFKA_BOOTSTRAP_SERVERS"})
"""Of these, the ones that name several hosts."""
RESOLVE_S = 2.0
"""What the start waits for the names of engines; one that is not found by then is not known by address."""


def read() -> Guard:
    """The guard; EnvError when a setting can't be read."""
    closed = {
        env.port(name, default)
        for name, default in PORTS.items()
        if name not in SERVICES and not (name in EMBEDDED and env.text(EMBEDDED[name], ""))
    }
    engines = frozenset(_engines())
    here = {(address, port) for address, port in engines if ip_address(address).is_loopback or is_here(address)}
    host = literal(env.text("MC_HOST", "127.0.0.1"))
    alone = host is not None and ip_address(host).is_loopback
    return Guard(
        Policy(
            closed=frozenset(closed | {port for _, port in here}),
            fleet=frozenset(env.port(name, PORTS[name]) for name in SERVICES),
            engines=engines - here,
            loopback=env.flag("MC_LOOPBACK_UPSTREAMS", alone),
            allow=_blocks("MC_UPSTREAM_ALLOW"),
            deny=_blocks("MC_UPSTREAM_DENY"),
        )
    )


def _blocks(name: str) -> tuple[Network, ...]:
    try:
        return networks(env.words(name))
    except ValueError as error:
        raise env.EnvError(f"{name}: {error}.") from None


def _engines() -> list[tuple[str, int]]:
    """Address and port of every engine that a URL names."""
    named: list[tuple[str, int]] = []
    for variable, defaults in ENGINES.items():
        scheme, _, rest = os.environ.get(variable, "").strip().rpartition("://")
        for place in rest.split(",") if variable in SEVERAL else (rest,):
            parts = urlsplit(f"//{place.strip()}")
            try:
                port = parts.port or defaults.get(scheme)
            except ValueError:
                continue  # whoever connects there says so
            if parts.hostname and port:
                named.append((parts.hostname, port))
    found = [(address, port) for host, port in named if (address := literal(host)) is not None]
    names = [(host, port) for host, port in named if literal(host) is None]
    return found + _resolved(names) if names else found


def _resolved(names: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Asked once and not waited for long: a process starts with its resolver away, too."""
    found: list[tuple[str, int]] = []

    def ask() -> None:
        for host, port in names:
            with contextlib.suppress(OSError):
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.extend((str(info[4][0]).partition("%")[0], port) for info in infos)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(RESOLVE_S)
    return list(found)
