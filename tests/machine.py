"""What this machine has for tests, and what to say when it lacks something."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from missioncontrol.launch import engines

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of a Chromium that tests can drive."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def postgres(program: str = "initdb") -> str | None:
    """The path of a PostgreSQL server program: on PATH, or where Debian keeps it; the newest."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    return str(kept[-1]) if kept else shutil.which(program)


def redis() -> str | None:
    """The path of the machine's own Redis server, when it is new enough."""
    found = engines.look("/usr/bin/redis-server")
    return found.path if found is not None and found.version >= engines.OLDEST_REDIS else None


def rabbitmq() -> str | None:
    """The path of RabbitMQ's own start program: what Debian puts on PATH changes the user and the environment."""
    kept = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(kept[-1]) if kept else None


def lacks(marker: str) -> str:
    """Why tests with this marker can't run here; empty when they can."""
    if marker == "browser" and not chromium():
        return "Chromium isn't installed (apt-get install chromium)"
    if marker == "postgres" and not postgres():
        return "PostgreSQL isn't installed (apt-get install postgresql)"
    if marker == "redis" and not redis():
        return "Redis 7 isn't installed (apt-get install redis-server)"
    if marker == "rabbitmq" and not rabbitmq():
        return "RabbitMQ isn't installed (apt-get install rabbitmq-server)"
    if marker == "kafka" and not (shutil.which("java") and shutil.which("mvn")):
        return "Kafka runs on Java and comes by Maven, which aren't both installed (apt-get install maven)"
    if marker == "disk" and os.geteuid() != 0:
        return "a small disk can be mounted by root alone"
    return ""
