"""What the launcher is told by the environment: where state lives, which ports, which engines run elsewhere."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from missioncontrol.launch.report import Stop
from services.kit import env

PORTS = {
    "MC_CONTROL_PORT": 8000,
    "MC_GATEWAY_PORT": 8080,
    "MC_OTLP_HTTP_PORT": 4318,
    "MC_CLICKHOUSE_PORT": 8123,
    "MC_REDIS_PORT": 6390,
    "MC_AEGIS_PORT": 7101,
    "MC_COVENANT_PORT": 7102,
    "MC_NEXUS_PORT": 7103,
    "MC_MINT_PORT": 7104,
}
"""Every port of one machine's Mission Control and its default."""

OWNERS = {"MC_OTLP_HTTP_PORT": "collector"}
"""The process behind a port whose variable doesn't name it."""

PATIENCE = 60.0
"""Seconds for a start on a machine that has nothing else to do."""

LOOPBACK = "127.0.0.1"
EMBEDDED = {"MC_REDIS_PORT": "REDIS_URL", "MC_CLICKHOUSE_PORT": "CLICKHOUSE_URL"}
"""The engines that a URL replaces; they listen on loopback whatever ``MC_HOST`` says."""
NO_PROXY = ("no_proxy", "NO_PROXY")
"""Both spellings: clients differ in which they read first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings. ``ports`` holds only those that this run will listen on."""

    root: Path
    home: Path
    venv: Path
    host: str
    ports: Mapping[str, int]
    patience: float
    """Seconds for every process to be ready (``MC_START_SECONDS``, else in proportion to the machine's load)."""
    only: frozenset[str]
    """The processes that run on this machine (``MC_PROCESSES``); empty means all."""
    hang_s: float = 60.0
    """A process that runs and shows no life for so long is killed and started again; 0: none is."""

    @property
    def python(self) -> str:
        """The interpreter of the virtual environment."""
        return str(self.venv / "bin" / "python")

    @property
    def reach(self) -> str:
        """The address at which this machine reaches a process that listens on ``host``, ready for a URL."""
        local = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{local}]" if ":" in local else local

    @property
    def redis_url(self) -> str:
        """Redis, embedded or not; read when asked, for the first start makes its password."""
        return env.redis_url()

    @property
    def own_redis(self) -> bool:
        """Redis is embedded, not given by URL."""
        return "MC_REDIS_PORT" in self.ports

    @property
    def own_clickhouse(self) -> bool:
        """ClickHouse is embedded, not given by URL."""
        return "MC_CLICKHOUSE_PORT" in self.ports

    def children_env(self) -> dict[str, str]:
        """The environment of every process: the caller's own, made complete, and thrifty where nobody chose."""
        known = dict(os.environ)
        # A user's wish not to write byte code would cost every start seconds of compiling.
        known.pop("PYTHONDONTWRITEBYTECODE", None)
        # The virtual environment must see its own packages and the checkout, nothing else.
        known.pop("PYTHONHOME", None)
        known |= {name: str(port) for name, port in self.ports.items()}
        known |= {"MC_HOME": str(self.home), "MC_HOST": self.host, "PYTHONUNBUFFERED": "1"}
        known["PATH"] = f"{self.venv / 'bin'}{os.pathsep}{known.get('PATH', os.defpath)}"
        known["VIRTUAL_ENV"] = str(self.venv)
        # One arena and one BLAS thread a process: a dozen small processes share few cores.
        for name, value in (("MALLOC_ARENA_MAX", "2"), ("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1")):
            known.setdefault(name, value)
        # A proxy of the user's is for the world: it can't reach what listens here, and would be told our secrets.
        ours = [LOOPBACK, "localhost", "::1", self.reach.strip("[]")]
        direct = [word for name in NO_PROXY for word in env.words(name)]
        return known | dict.fromkeys(NO_PROXY, ",".join(dict.fromkeys(direct + ours)))


def read() -> Settings:
    """Settings from the environment; Stop with a sentence when one of them makes no sense."""
    try:
        ports = {name: env.port(name, default) for name, default in PORTS.items() if not _elsewhere(name)}
        settings = Settings(
            root=env.ROOT,
            home=env.home(),
            venv=Path(env.text("MC_VENV", str(env.ROOT / ".venv"))).expanduser().absolute(),
            host=env.text("MC_HOST", LOOPBACK),
            ports=ports,
            patience=env.number("MC_START_SECONDS", PATIENCE * _busy()),
            hang_s=env.number("MC_HANG_SECONDS", 60.0),
            only=frozenset(env.words("MC_PROCESSES")),
        )
    except env.EnvError as error:
        raise Stop(str(error)) from None
    _refuse_twins(ports)
    return settings


def check_ports(settings: Settings) -> None:
    """Stop, naming every port that can't be listened on and the variable that moves it."""
    taken = []
    for name, port in settings.ports.items():
        if settings.only and OWNERS.get(name, name.split("_")[1].lower()) not in settings.only:
            continue
        host = LOOPBACK if name in EMBEDDED else settings.host
        problem = _refusal(host, port)
        if problem in {errno.EADDRNOTAVAIL, socket.EAI_NONAME}:
            raise Stop(f"MC_HOST is {host}, which is no address of this machine: set MC_HOST to one that is.")
        if problem == errno.EACCES:
            raise Stop(f"Port {port} ({name}) may not be used by this user: set {name} to one above 1023.")
        if problem:
            taken.append(f"{port} ({name})")
    if len(taken) == 1:
        raise Stop(f"Port {taken[0]} is taken by another process: stop that, or set the variable to a free port.")
    if taken:
        listed = ", ".join(taken[:-1]) + f" and {taken[-1]}"
        raise Stop(f"Ports {listed} are taken by other processes: stop those, or set the variables to free ports.")


def open_engines() -> list[str]:
    """The variables whose URL names a server on another machine and no password: who reaches it may do all we may."""
    found = []
    for name in ("REDIS_URL", "CLICKHOUSE_URL", "DATABASE_URL", "CELERY_BROKER_URL", "AMQP_URL"):
        parts = urlsplit(env.text(name, ""))
        if parts.hostname and not parts.password and not _loopback(parts.hostname):
            found.append(name)
    return found


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _busy() -> float:
    """How many times longer than alone a process takes on this machine now: between 1 and 5."""
    return min(5.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def _elsewhere(name: str) -> bool:
    return name in EMBEDDED and bool(env.text(EMBEDDED[name], ""))


def _refuse_twins(ports: Mapping[str, int]) -> None:
    owners: dict[int, str] = {}
    for name, port in ports.items():
        if port in owners:
            raise Stop(f"{owners[port]} and {name} are both {port}: give each a port of its own.")
        owners[port] = name


def _refusal(host: str, port: int) -> int:
    """Zero when the port can be listened on, else the error number."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the servers do: a connection of a former run in TIME_WAIT doesn't hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except socket.gaierror as error:
            return int(error.errno or socket.EAI_NONAME)
        except OSError as error:
            return int(error.errno or errno.EADDRINUSE)
    return 0
