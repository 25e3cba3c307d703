"""One ClickHouse client per process, made when first needed, with bounded waits.

Any failure to get an answer is ``TelemetryAway``; what ClickHouse was asked is our own SQL, so an error of
its parser is a programming error and stays one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from django.conf import settings
from urllib3.exceptions import HTTPError

from apps.telemetry.faults import code_of

WAIT = 2
"""Seconds to connect, and for an answer."""
SETTINGS = {"max_execution_time": WAIT}
# The tables are not there (the collector has not applied the schema yet), the engine is busy, or a limit
# was met: for a reader all of that is "not now". Anything else is a fault in our SQL.
NOT_NOW = frozenset({60, 81, 159, 160, 202, 209, 210, 241, 394, 439})
REFUSED = frozenset({192, 193, 497, 516})
"""Our user is not known there, its password is another, or it may not read: somebody changed it, or it is not ours."""

_lock = threading.Lock()
_clients: dict[str, Client] = {}

# clickhouse-connect logs each failure it raises; whoever catches TelemetryAway decides what to say.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class TelemetryAway(RuntimeError):
    """ClickHouse did not answer in time; the message is one sentence for a person."""


def rows(sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """The rows that ``sql`` answers; ``{name:Type}`` in it are filled from ``parameters`` by ClickHouse itself."""
    try:
        result = _client().query(sql, parameters=dict(parameters or {}), settings=SETTINGS)
    except DatabaseError as error:
        code = code_of(error)
        if code == 0:  # Not the server's word but the connection's.
            raise TelemetryAway("ClickHouse did not answer within two seconds.") from error
        if code in NOT_NOW:
            raise TelemetryAway(f"ClickHouse can't answer now (code {code}).") from error
        if code in REFUSED:
            raise TelemetryAway(f"ClickHouse refuses the login in CLICKHOUSE_URL (code {code}).") from error
        raise
    except (ClickHouseError, HTTPError, OSError) as error:
        raise TelemetryAway("ClickHouse did not answer within two seconds.") from error
    return [tuple(row) for row in result.result_rows]


def _client() -> Client:
    url = f"{settings.CLICKHOUSE_URL}|{settings.CLICKHOUSE_DATABASE}"
    client = _clients.get(url)
    if client is None:
        with _lock:
            client = _clients.get(url)
            if client is None:
                client = _clients[url] = _open()
    return client


def _open() -> Client:
    client = clickhouse_connect.get_client(
        dsn=settings.CLICKHOUSE_URL,
        autogenerate_session_id=False,
        compress=False,
        connect_timeout=WAIT,
        send_receive_timeout=WAIT,
        query_retries=0,
        client_name="mission-control",
    )
    # Set after opening: the database may not exist yet, and then the first queries say so.
    client.database = settings.CLICKHOUSE_DATABASE
    return client
