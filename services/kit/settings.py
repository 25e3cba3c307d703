"""A service's settings, read once from the environment at start.

Owns the names of the variables and their defaults. A secret comes from ``NAME``, else from the file
that ``NAME_FILE`` names, else from ``MC_HOME/secrets/<name>``. Services never import the composition
root, so the few readers they need are repeated here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

VERSION = "0.1.0"
_ROOT = Path(__file__).resolve().parents[2]


class SettingsError(ValueError):
    """A setting is missing or malformed; the message is one sentence for a person."""


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
    redis_url: str
    otlp_url: str
    gateway_url: str
    log_level: str
    fleet_token: str
    version: str = VERSION

    def __repr__(self) -> str:
        return f"Settings({self.name}, {self.host}:{self.port})"

    @property
    def folder(self) -> Path:
        """Where services keep files of their own."""
        return self.home / "services"


def read(name: str, default_port: int) -> Settings:
    """The settings of service ``name``; SettingsError when one is missing or malformed."""
    home = home_folder()
    upper = name.upper()
    gateway = f"http://127.0.0.1:{port('MC_GATEWAY_PORT', 8080)}"
    collector = f"http://127.0.0.1:{port('MC_OTLP_HTTP_PORT', 4318)}"
    return Settings(
        name=name,
        host=text("MC_HOST", "127.0.0.1"),
        port=port(f"MC_{upper}_PORT", default_port),
        instance=text(f"MC_{upper}_INSTANCE", f"{name}-1"),
        home=home,
        database_url=text(f"{upper}_DATABASE_URL", f"sqlite:///{home / 'services' / name}.sqlite3"),
        redis_url=redis_url(),
        otlp_url=text("OTEL_EXPORTER_OTLP_ENDPOINT", collector).rstrip("/"),
        gateway_url=text("MC_GATEWAY_URL", gateway).rstrip("/"),
        log_level=text("MC_LOG_LEVEL", "INFO").upper(),
        fleet_token=secret("MC_FLEET_TOKEN"),
    )


def redis_url() -> str:
    """``REDIS_URL``, else Mission Control's embedded Redis on loopback with its password."""
    given = os.environ.get("REDIS_URL", "").strip()
    return given or (
        f"redis://mission:{quote(secret('MC_REDIS_PASSWORD'), safe='')}@127.0.0.1:{port('MC_REDIS_PORT', 6390)}/0"
    )


def home_folder() -> Path:
    """``MC_HOME``: where all state lives."""
    return Path(os.environ.get("MC_HOME") or _ROOT / "var").expanduser().resolve()


def text(name: str, default: str | None = None) -> str:
    """The variable's text, else ``default``; SettingsError when there is neither."""
    value = os.environ.get(name, "").strip() or default
    if value is None:
        raise SettingsError(f"{name} is not set.")
    return value


def number(name: str, default: float, *, low: float = 0.0, high: float = float("inf")) -> float:
    """A decimal number between ``low`` and ``high``, both allowed."""
    raw = os.environ.get(name, "").strip()
    try:
        value = float(raw) if raw else default
    except ValueError:
        raise SettingsError(f"{name} must be a number, not {raw!r}.") from None
    if not low <= value <= high:
        raise SettingsError(f"{name} must be between {low:g} and {high:g}, not {value:g}.")
    return value


def port(name: str, default: int) -> int:
    """A TCP port."""
    raw = os.environ.get(name, "").strip()
    try:
        value = int(raw) if raw else default
    except ValueError:
        raise SettingsError(f"{name} must be a whole number, not {raw!r}.") from None
    if not 1 <= value <= 65535:
        raise SettingsError(f"{name} must be between 1 and 65535, not {value}.")
    return value


def secret(name: str) -> str:
    """A secret by variable, by ``*_FILE``, or from ``MC_HOME/secrets``; SettingsError when there is none."""
    value = os.environ.get(name, "").strip()
    if value:
        return value
    file = os.environ.get(f"{name}_FILE", "").strip()
    path = Path(file) if file else home_folder() / "secrets" / name.lower()
    try:
        value = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"{name} is not set and {path} can't be read ({error.strerror}).") from None
    if not value:
        raise SettingsError(f"{path} is empty; it should hold {name}.")
    return value
