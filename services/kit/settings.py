"""A service's settings, read once from the environment at start.

Owns what every service is told and the defaults; the readers are the kit's ``env``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import env
from .events import keys
from .events.signing import Keys

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every service is told. Secrets are kept out of ``repr``."""

    name: str
    host: str
    port: int
    instance: str
    """This process among its twins, as the registry calls it: ``covenant-1``."""
    home: Path
    database_url: str
    bus_urls: dict[str, str]
    """Every broker that it was told of, by kind."""
    bus_default: str
    """The kind that carries what no rule sends elsewhere."""
    otlp_url: str
    gateway_url: str
    log_level: str
    fleet_token: str
    keys: Keys
    """What it signs its events by, and those that it believes."""
    version: str = VERSION
    bus_keep: int = 100_000
    """About as many events a topic keeps on a bus that is trimmed by its publishers."""
    outbox_days: int = 1
    """How long what was sent stays in the outbox."""

    def __repr__(self) -> str:
        return f"Settings({self.name}, {self.host}:{self.port})"

    @property
    def folder(self) -> Path:
        """Where services keep files of their own."""
        return self.home / "services"


def read(name: str, default_port: int) -> Settings:
    """The settings of service ``name``; EnvError when one is missing or malformed."""
    home = env.home()
    upper = name.upper()
    gateway = f"http://127.0.0.1:{env.port('MC_GATEWAY_PORT', 8080)}"
    return Settings(
        name=name,
        host=env.text("MC_HOST", "127.0.0.1"),
        port=env.port(f"MC_{upper}_PORT", default_port),
        instance=env.text(f"MC_{upper}_INSTANCE", f"{name}-1"),
        home=home,
        database_url=env.text(f"{upper}_DATABASE_URL", f"sqlite:///{home / 'services' / name}.sqlite3"),
        bus_urls=env.bus_urls(),
        bus_default=env.bus_default(),
        bus_keep=env.integer("MC_BUS_KEEP", 100_000, low=1000),
        outbox_days=env.integer("MC_OUTBOX_DAYS", 1, low=1),
        otlp_url=env.otlp_url(),
        gateway_url=env.text("MC_GATEWAY_URL", gateway).rstrip("/"),
        log_level=env.text("MC_LOG_LEVEL", "INFO").upper(),
        fleet_token=env.secret("MC_FLEET_TOKEN"),
        keys=keys.read(),
    )
