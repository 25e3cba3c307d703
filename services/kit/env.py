"""Typed readers of the process environment: the one way in which settings enter any of our processes.

Every reader names the variable in its error, so a typo is one clear sentence and not a stack trace.
A secret is read from ``NAME``, else from the file that ``NAME_FILE`` names, else from
``MC_HOME/secrets/<name>``, which the first start writes with mode 0600.

Standard library only: the launcher imports it before anything is installed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
"""The checkout; some other folder where the kit is installed alone."""


class EnvError(ValueError):
    """A setting is missing or malformed; the message is one sentence for a person."""


def text(name: str, default: str | None = None) -> str:
    """The variable's text, else ``default``; EnvError when neither is there."""
    value = os.environ.get(name, "").strip()
    if value:
        return value
    if default is None:
        raise EnvError(f"{name} is not set.")
    return default


def integer(name: str, default: int, *, low: int = 0, high: int = 2**31) -> int:
    """A whole number between ``low`` and ``high``, both allowed."""
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError:
        raise EnvError(f"{name} must be a whole number, not {raw!r}.") from None
    if not low <= value <= high:
        raise EnvError(f"{name} must be between {low} and {high}, not {value}.")
    return value


def number(name: str, default: float, *, low: float = 0.0, high: float = math.inf) -> float:
    """A decimal number between ``low`` and ``high``, both allowed, such as a duration in seconds."""
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        value = float(raw)
    except ValueError:
        raise EnvError(f"{name} must be a number, not {raw!r}.") from None
    if not low <= value <= high:
        raise EnvError(f"{name} must be between {low:g} and {high:g}, not {value:g}.")
    return value


def flag(name: str, default: bool = False) -> bool:
    """``1 true yes on`` or ``0 false no off``."""
    raw = os.environ.get(name, "").strip().lower()
    if not raw:
        return default
    if raw in {"1", "true", "yes", "on"}:
        return True
    if raw in {"0", "false", "no", "off"}:
        return False
    raise EnvError(f"{name} must be true or false, not {raw!r}.")


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list, blanks dropped."""
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]


def home() -> Path:
    """``MC_HOME``: where all state lives (database, telemetry, logs, sockets, secrets). EnvError when it is not set
    and there is no checkout to have it in."""
    given = os.environ.get("MC_HOME", "").strip()
    if not _has_home():
        raise EnvError("MC_HOME is not set: it says in which folder secrets and databases are.")
    return Path(given or ROOT / "var").expanduser().resolve()


def port(name: str, default: int) -> int:
    """A TCP port."""
    return integer(name, default, low=1, high=65535)


def secret(name: str) -> str:
    """A secret by variable, by ``*_FILE``, or from ``MC_HOME/secrets``; EnvError when there is none."""
    value = os.environ.get(name, "").strip()
    if value:
        return value
    file = os.environ.get(f"{name}_FILE", "").strip()
    path = Path(file) if file else home() / "secrets" / name.lower()
    try:
        value = path.read_text().strip()
    except OSError as error:
        raise EnvError(f"{name} is not set and {path} can't be read ({error.strerror}).") from None
    if not value:
        raise EnvError(f"{path} is empty; it should hold {name}.")
    return value


ENGINE_USER = "mission"
"""The one user that the embedded engines know."""


def redis_url() -> str:
    """``REDIS_URL``, else the embedded Redis on loopback with its password (MC_REDIS_PASSWORD)."""
    return text("REDIS_URL", "") or f"redis://{_login('MC_REDIS_PASSWORD')}127.0.0.1:{port('MC_REDIS_PORT', 6390)}/0"


BROKERS = {"redis": "REDIS_URL", "rabbitmq": "AMQP_URL", "kafka": "KAFKA_BOOTSTRAP_SERVERS"}
"""Kind of broker, as MC_BUS_DEFAULT says it → the variable that says where it is."""


def bus_default() -> str:
    """``MC_BUS_DEFAULT``: redis, rabbitmq or kafka, which carries what no routing rule sends elsewhere."""
    chosen = text("MC_BUS_DEFAULT", "redis")
    if chosen not in BROKERS:
        raise EnvError(f"MC_BUS_DEFAULT must be {', '.join(BROKERS)}, not {chosen!r}.")
    return chosen


def bus_urls() -> dict[str, str]:
    """Every broker whose place is said, by kind: the default one first. EnvError when that one's is not.

    Redis is one of them where it carries events by default, where ``REDIS_URL`` is set, and where it is embedded.
    """
    chosen = bus_default()
    found: dict[str, str] = {}
    for kind in (chosen, *BROKERS):
        place = text(BROKERS[kind], "")
        if kind == "redis" and (kind == chosen or place or _login("MC_REDIS_PASSWORD")):
            found[kind] = redis_url()
        elif place:
            found[kind] = place if "://" in place else f"{'kafka' if kind == 'kafka' else 'amqp'}://{place}"
    if chosen not in found:
        raise EnvError(f"MC_BUS_DEFAULT is {chosen}, but {BROKERS[chosen]} is not set.")
    return found


def bus_url() -> str:
    """Where events travel by default; EnvError as ``bus_urls``."""
    return bus_urls()[bus_default()]


def clickhouse_url() -> str:
    """``CLICKHOUSE_URL``, else the embedded ClickHouse on loopback with its password (MC_CLICKHOUSE_PASSWORD)."""
    at = f"127.0.0.1:{port('MC_CLICKHOUSE_PORT', 8123)}"
    return text("CLICKHOUSE_URL", "") or f"http://{_login('MC_CLICKHOUSE_PASSWORD')}{at}"


def _has_home() -> bool:
    return bool(os.environ.get("MC_HOME", "").strip()) or (ROOT / "manage.py").exists()


def _login(name: str) -> str:
    """``user:password@`` for a URL. Empty where no start has made the secret yet: the engine then refuses us."""
    known = any(os.environ.get(variable, "").strip() for variable in (name, f"{name}_FILE"))
    if not known and not (_has_home() and (home() / "secrets" / name.lower()).exists()):
        return ""
    return f"{ENGINE_USER}:{quote(secret(name), safe='')}@"


def otlp_url() -> str:
    """Where this system's own processes send OTLP/HTTP."""
    fallback = f"http://127.0.0.1:{port('MC_OTLP_HTTP_PORT', 4318)}"
    return text("OTEL_EXPORTER_OTLP_ENDPOINT", fallback).rstrip("/")


def otlp_headers(url: str) -> dict[str, str]:
    """Fields for the collector: as OTEL_EXPORTER_OTLP_HEADERS says, else the fleet token when it is not on loopback."""
    pairs = [word.partition("=") for word in words("OTEL_EXPORTER_OTLP_HEADERS")]
    if pairs:
        return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}
    if urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}:
        return {}
    return {"Authorization": f"Bearer {secret('MC_FLEET_TOKEN')}"}
