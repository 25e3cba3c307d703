"""The embedded engine's connections: two lanes of threads, each with connections of its own.

chdb releases the GIL and its connections run side by side, so a lane is a small thread pool. Reads and
writes queue apart: a page of slow queries never holds back an insert. Both queues are bounded; past
the bound a request is refused at once (ClickHouse's code 202) and the client tries again.

Every statement is first put before ``access.judge``, as the engine itself reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import chdb
from chdb import ChdbError
from chdb.state.sqlitelike import Connection

from apps.telemetry.engine import access, blocks, config
from apps.telemetry.engine.errors import EngineError, refusal
from apps.telemetry.engine.request import Request, quote, quote_name
from apps.telemetry.engine.statement import Statement

SETTINGS = ("settings", "merge_tree_settings")
REMEMBERED, SHORT = 1000, 16 * 1024
"""Statements that are known to be allowed, and the longest of them in bytes: asking takes a millisecond."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished statement: its bytes and what it read and wrote."""

    data: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed: float = 0.0
    """Seconds."""


class Embedded:
    """The engine over one data folder; one per process."""

    def __init__(
        self, home: Path, limits: config.Limits, *, readers: int = 4, writers: int = 2, queue: int = 32
    ) -> None:
        data = home / "data"
        data.mkdir(parents=True, exist_ok=True)
        users = home / "users.xml"
        users.write_text(config.users_xml(limits))
        server = home / "config.xml"
        server.write_text(config.config_xml(limits, str(users)))
        self._address = f"{data}?config-file={server}"
        self.lost_blocks = blocks.forget_lost(data)
        """Notes of repeated inserts taken back at this start, because their rows were not kept."""
        self._reads = _Lane("read", readers, queue, self._open_reader)
        self._writes = _Lane("write", writers, queue, self._open)
        # Open for as long as the process lives: the engine unloads its tables with the last connection.
        self._anchor = self._open()
        self.version = self._anchor.query("SELECT version()", "TSVRaw").bytes().decode().strip()
        self.timezone = self._anchor.query("SELECT timezone()", "TSVRaw").bytes().decode().strip()
        broken = "SELECT count() FROM system.detached_parts WHERE startsWith(reason, 'broken')"
        self.broken_parts = int(self._anchor.query(broken, "TSVRaw").bytes())
        """Parts that could not be read at a start and were put aside (``detached`` in their table's folder)."""

        self._known = self._look()
        self._allowed = dict[str, None]()

    def _open(self) -> Connection:
        return Connection(self._address)

    def _open_reader(self) -> Connection:
        connection = self._open()
        # Settings may still be changed, this one excepted, and nothing else.
        connection.query("SET readonly = 2")
        return connection

    def _look(self) -> access.Known:
        """What this build of the engine has, and clients may not use."""

        def rows(sql: str) -> list[Any]:
            return json.loads(self._anchor.query(sql, "JSONCompact").bytes())["data"]  # type: ignore[no-any-return]

        return access.known(
            [tuple(row) for row in rows("SELECT name, alias_to, categories, is_aggregate FROM system.functions")],
            [row[0] for row in rows("SELECT name FROM system.table_functions")],
            [row[0] for table in SETTINGS for row in rows(f"SELECT name FROM system.{table}")],  # noqa: S608
        )

    async def run(self, request: Request) -> Answer:
        """Run one statement to its end; EngineError is what the engine said against it."""
        lane = self._reads if request.statement.reads else self._writes
        return await lane.run(self._execute, request)

    def pending(self) -> dict[str, int]:
        """Statements running or waiting, by lane."""
        return {lane.name: lane.pending for lane in (self._reads, self._writes)}

    def close(self) -> None:
        """Let running statements end, then close every connection."""
        for lane in (self._reads, self._writes):
            lane.close()
        self._anchor.close()

    def _execute(self, connection: Connection, request: Request) -> Answer:
        """In a lane's thread. The connection goes back as it came, or is replaced."""
        try:
            self._judge(connection, request)
            connection.query(f"USE {quote_name(request.database)}")
            if request.settings:
                pairs = (f"{name} = {quote(value)}" for name, value in request.settings.items())
                connection.query("SET " + ", ".join(pairs))
            statement = request.statement
            if statement.data is not None:
                return self._insert(connection, statement, statement.data)
            # chdb's own Connection.query post-processes some format names; the raw one never does.
            result = connection._conn.query(statement.sql, request.format, params=dict(request.parameters))
        except (ChdbError, RuntimeError, UnicodeDecodeError) as error:
            raise EngineError.from_chdb(str(error), chdb.engine_version) from None
        return Answer(
            result.bytes(),
            result.storage_rows_read(),
            result.storage_bytes_read(),
            result.rows_written(),
            result.bytes_written(),
            result.elapsed(),
        )

    def _judge(self, connection: Connection, request: Request) -> None:
        statement = request.statement
        if refused := access.judge_settings(request.settings, self._known):
            raise refused
        sql = statement.sql
        if statement.data is not None:
            sql = f"{sql} {statement.settings} FORMAT {statement.format or 'Values'}"
        if sql in self._allowed:
            return
        packed = sql.encode()
        if len(packed) > config.LONGEST_QUERY:
            raise refusal(62, "SYNTAX_ERROR", f"Max query size exceeded: {config.LONGEST_QUERY} bytes")
        # In hexadecimal: no quote, escape or odd byte of it means anything on the way.
        ask = f"SELECT formatQuerySingleLine(unhex('{packed.hex()}'))"
        try:
            asked = connection._conn.query(ask, "RawBLOB", params={})
        except RuntimeError as error:
            raise EngineError.from_chdb(str(error).partition(": In scope SELECT")[0], chdb.engine_version) from None
        if refused := access.judge(asked.bytes().decode(), self._known):
            raise refused
        if len(self._allowed) >= REMEMBERED:
            self._allowed.clear()
        if len(packed) <= SHORT:
            self._allowed[sql] = None

    def _insert(self, connection: Connection, statement: Statement, data: bytes) -> Answer:
        """Insert what the request brought, as a file: chdb's streaming insert says "done" of what failed late.

        (A view that fails, a constraint, a full disk at the last write: its ``finish`` raises for none of them.)
        """
        if not data:
            return Answer(b"")
        with _as_file(data) as path:
            done = connection._conn.query(
                f"{statement.sql} FROM INFILE {quote(path)} {statement.settings} FORMAT {statement.format or 'Values'}",
                "TabSeparated",
                params={},
            )
        return Answer(b"", 0, 0, done.rows_written(), done.bytes_written(), done.elapsed())


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The path of a file that holds ``data``, in memory where there are such files."""
    with os.fdopen(os.memfd_create("insert"), "wb") if hasattr(os, "memfd_create") else TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield f"/dev/fd/{file.fileno()}"


class _Lane:
    """Threads with a connection each, and a bound on who may wait for one."""

    def __init__(self, name: str, width: int, queue: int, open_connection: Any) -> None:
        self.name = name
        self.pending = 0
        self._most = width + queue
        self._width = width
        self._open = open_connection
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=f"clickhouse-{name}")

    async def run(self, work: Any, request: Request) -> Answer:
        if self.pending >= self._most:
            raise refusal(
                202,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                f"Too many simultaneous queries. Maximum: {self._width} to {self.name}",
            )
        self.pending += 1
        try:
            # shield: a client that hangs up leaves a statement that still runs, and still counts.
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._work, work, request)
            future.add_done_callback(self._done)
        except BaseException:
            self.pending -= 1
            raise
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[Answer]) -> None:
        self.pending -= 1
        if not future.cancelled():
            future.exception()

    def _work(self, work: Any, request: Request) -> Answer:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open()
        keep = False
        try:
            answer: Answer = work(connection, request)
            keep = not request.settings and not request.statement.local
            return answer
        finally:
            # Opening a connection costs 0.3 ms; cheaper and surer than undoing what a request or an error left.
            if not keep:
                connection.close()
                self._local.connection = None

    def close(self) -> None:
        self._threads.shutdown(wait=True)
