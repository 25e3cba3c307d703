"""The collector process: ``python -m missioncontrol.collector`` (Granian, one worker)."""

from __future__ import annotations

import logging
import sys

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from apps.telemetry.collector.asgi import Collector, Limits
from apps.telemetry.collector.buffer import PATIENCE
from apps.telemetry.collector.store import Store, Target
from missioncontrol import VERSION, keys
from services.kit import env, garbage

KEEP_DAYS = 7
"""The TTL of the schema: older spans are refused, as ClickHouse would drop them at its next merge."""
DRAIN = 12


def build() -> Collector:
    """The app, its settings read from the environment."""
    # Decoding makes tens of thousands of tuples a request.
    garbage.settle(200_000)
    target = Target(env.clickhouse_url(), env.text("CLICKHOUSE_DATABASE", "mission"))
    body = env.integer("MC_OTLP_MAX_BODY", 16 * 1024 * 1024, low=1024)
    limits = Limits(
        body=body,
        unpacked=4 * body,
        in_flight=env.integer("MC_OTLP_IN_FLIGHT", 6 * body, low=body),
        body_seconds=env.number("MC_OTLP_BODY_TIMEOUT", 10.0),
        patience=env.number("MC_OTLP_PATIENCE", PATIENCE),
    )
    return Collector(
        Store(target),
        fleet_token=env.secret("MC_FLEET_TOKEN"),
        proof=keys.telemetry(),
        version=VERSION,
        keep_days=KEEP_DAYS,
        limits=limits,
    )


def main() -> int:
    """Serve until SIGTERM."""
    try:
        port = env.port("MC_OTLP_HTTP_PORT", 4318)
        host = env.text("MC_HOST", "127.0.0.1")
        env.secret("MC_FLEET_TOKEN")
        keys.telemetry()
    except env.EnvError as error:
        print(error, file=sys.stderr)
        return 2
    Server(
        "missioncontrol.collector:build",
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=1,
        runtime_threads=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=512 * 1024),
        websockets=False,
        backlog=1024,
        backpressure=1024,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        respawn_interval=0.2,
        workers_kill_timeout=DRAIN,
    ).serve()
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=env.text("MC_LOG_LEVEL", "INFO"))
    sys.exit(main())
