"""The embedded ClickHouse process: ``python -m missioncontrol.clickhouse``.

Not started when ``CLICKHOUSE_URL`` names a server. Loopback only, whatever ``MC_HOST`` says.
"""

from __future__ import annotations

import sys

import uvicorn

from apps.telemetry.engine.config import MIB, Limits
from apps.telemetry.engine.embedded import Embedded
from apps.telemetry.engine.http import Interface
from apps.telemetry.engine.login import Login
from missioncontrol import VERSION
from services.kit import env

DRAIN = 10
"""Seconds that running statements get after SIGTERM."""


def build() -> Interface:
    """The interface, its engine opened by the server's lifespan."""
    home = env.home() / "clickhouse"
    limits = Limits(
        memory=env.integer("MC_CLICKHOUSE_MEMORY_MB", 1200, low=300) * MIB,
        free=env.integer("MC_CLICKHOUSE_FREE_MB", 100, low=0) * MIB,
        fsync=env.flag("MC_CLICKHOUSE_FSYNC"),
    )
    login = Login(env.ENGINE_USER, env.secret("MC_CLICKHOUSE_PASSWORD"))
    return Interface(lambda: Embedded(home, limits), login, version=VERSION)


def main() -> int:
    """Serve until SIGTERM."""
    try:
        port = env.port("MC_CLICKHOUSE_PORT", 8123)
        app = build()
    except env.EnvError as error:
        print(error, file=sys.stderr)
        return 2
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=128,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
