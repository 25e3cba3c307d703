"""Write blocks to ClickHouse, and bring its schema up to date first. Knows ClickHouse, not OTLP."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from apps.telemetry.collector.buffer import Doubtful, Refused, Rejected, Unsent
from apps.telemetry.faults import code_of
from apps.telemetry.schema import runner

log = logging.getLogger(__name__)
# The client logs each failure that it raises; what is done about it is said here, once.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

WAIT = 10
"""Seconds for one insert; past them its outcome is unknown."""
# Malformed data and schemas that don't fit: the same bytes fail the same way for ever. All else (memory,
# too many parts, timeouts, restarts) is worth another try.
NEVER = frozenset({6, 26, 27, 33, 34, 38, 41, 43, 53, 69, 70, 72, 117, 131, 252, 321, 349, 386})
# Turned away before anything is written: no such table yet, too many at once, starting, disk nearly full.
AT_THE_DOOR = frozenset({60, 81, 202, 209, 243})
# A fault of the file system. Where a table is not replicated, ClickHouse notes a block's token before it moves the
# block's part into place (MergeTreeSink), so after such a fault the token may be known and the rows gone.
FILE_SYSTEM = frozenset({1001})
ONCE = {
    "insert_deduplicate": "1",
    # What a table has already may still be missing in a view that failed after it.
    "deduplicate_blocks_in_dependent_materialized_views": "1",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Which ClickHouse."""

    url: str
    database: str
    insert_settings: tuple[tuple[str, str], ...] = ()


class Store:
    """One per process. Its threads (one per table that may insert at once) hold a client each."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._client: Client | None = None
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="insert")
        self.ready = False
        self.reason = "ClickHouse has not answered yet."

    async def prepare(self) -> None:
        """Apply the schema; returns when it is applied, however long ClickHouse stays away."""
        pause = 0.1
        loop = asyncio.get_running_loop()
        while True:
            try:
                applied = await loop.run_in_executor(self._threads, self._prepare)
            except (ClickHouseError, HTTPError, OSError) as error:
                self.reason = f"ClickHouse can't be reached: {_short(error)}"
            except runner.SchemaError as error:
                self.reason = str(error)
                log.error("schema: %s", error)
            else:
                self.ready = True
                log.info("schema ready, applied now: %s", ", ".join(applied) or "nothing")
                return
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 1.5)

    async def insert(self, table: str, data: bytes, token: str) -> None:
        """Store blocks of ``table``, once for all calls with this ``token``; raises Unsent, Doubtful or Rejected."""
        if not self.ready:
            raise Unsent(self.reason)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._insert, table, data, token)

    async def close(self) -> None:
        """Close the client; inserts must have ended."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    def _prepare(self) -> list[str]:
        if self._client is None:
            self._client = clickhouse_connect.get_client(
                dsn=self._target.url,
                autogenerate_session_id=False,
                compress=False,
                connect_timeout=3,
                send_receive_timeout=WAIT,
                query_retries=0,
                client_name="mission-control-collector",
            )
        return runner.apply(self._client, self._target.database)

    def _insert(self, table: str, data: bytes, token: str) -> None:
        if self._client is None:
            raise Unsent("ClickHouse has not answered yet.")
        settings = {**ONCE, "insert_deduplication_token": token, **dict(self._target.insert_settings)}
        try:
            self._client.raw_insert(table, insert_block=data, fmt="Native", settings=settings)
        except (ClickHouseError, HTTPError, OSError) as error:
            raise _outcome(error) from None


def _outcome(error: Exception) -> Refused:
    """What an insert that failed so has left behind."""
    code = code_of(error) if isinstance(error, DatabaseError) else 0
    if code == 0:  # Not the server's word but the connection's.
        return Unsent(_short(error)) if _never_connected(error) else Doubtful(_short(error))
    if code in NEVER:
        return Rejected(_short(error))
    if code in AT_THE_DOOR:
        return Unsent(_short(error))
    return Doubtful(_short(error), answered=True, renew=code in FILE_SYSTEM)


def _never_connected(error: BaseException) -> bool:
    """Whether the request can't have left: there was no connection to send it on."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(getattr(seen, "reason", seen), NewConnectionError | ConnectTimeoutError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
