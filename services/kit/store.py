"""A service's own database: SQLAlchemy Core on SQLite (WAL) or PostgreSQL, off the event loop.

All writes go through one thread, which commits whatever waits as one transaction (group commit):
each piece of work is atomic by its savepoint, and its caller gets an answer only after the commit
has reached the disk. One fsync then serves many callers. Reads have threads and connections of
their own. Work runs inside the caller's context, so spans keep their parents.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from .checks import Unwell
from .events.retry import Away
from .problem import Problem, Refused
from .statements import SAID, of_the_database

T = TypeVar("T")

MAX_WAITING = 1024
"""Writes that may wait; past it the service refuses early instead of queueing for ever."""
MAX_BATCH = 128
BUSY_SECONDS = 5
READERS = 2

_log = logging.getLogger("services.store")


class Migration:
    """One step of a schema: statements, and more for one kind of database. ``{serial}`` is its counting primary key."""

    def __init__(self, *statements: str, sqlite: Sequence[str] = (), postgresql: Sequence[str] = ()) -> None:
        self._statements, self._more = statements, {"sqlite": sqlite, "postgresql": postgresql}

    def of(self, dialect: str) -> list[str]:
        """The statements for a database of this kind."""
        serial = "INTEGER PRIMARY KEY AUTOINCREMENT" if dialect == "sqlite" else "BIGSERIAL PRIMARY KEY"
        return [one.replace("{serial}", serial) for one in (*self._statements, *self._more[dialect])]


class Tables:
    """Tables that belong together: a name, and the steps that make them, each run once and in order.

    Every group is counted by itself, so what one adds does not concern the others. A later version adds a step at the
    end and never changes one that has run somewhere.
    """

    def __init__(self, name: str, *steps: Migration) -> None:
        self.name, self.steps = name, steps


class StoreAway(Refused, Away):
    """The database can't do it now; nothing was changed and the caller may try again."""

    def __init__(self, detail: str) -> None:
        super().__init__(Problem(503, "store_unavailable", detail, retry_after=1))


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    context: contextvars.Context
    future: Future[Any]


class Store:
    """The database at ``url``, which at start gets what is missing of ``tables``, in the order given.

    ``async with store:`` starts and stops it. A program that ends without ``stop`` has the writes under way finished,
    and is told.
    """

    def __init__(self, url: str, *tables: Tables) -> None:
        self._url = make_url(url)
        if self._url.drivername in {"postgres", "postgresql"}:
            self._url = self._url.set(drivername="postgresql+psycopg")
        self._tables = tables
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MAX_WAITING)
        self._writer: Engine | None = None
        self._reader: Engine | None = None
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._closed = False

    async def start(self) -> None:
        """Open, migrate and begin to take work."""
        await asyncio.to_thread(self._open)
        # Python waits for a thread that is no daemon before it lets anybody end it: for ever, where nobody stops us.
        self._thread = threading.Thread(target=self._run, name="store-write", daemon=True)
        self._thread.start()
        atexit.register(self._finish)

    async def stop(self) -> None:
        """Finish what waits and close; later work is refused."""
        self._closed = True
        atexit.unregister(self._finish)
        if self._thread is not None:
            await asyncio.to_thread(self._jobs.put, None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._pool.shutdown()
        for engine in (self._writer, self._reader):
            if engine is not None:
                engine.dispose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _finish(self) -> None:
        """The program ends and did not stop us: what is under way is finished all the same."""
        self._closed = True
        _log.warning("A store was not stopped before its program ended: use 'async with store:', or await its stop().")
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` atomically; returns once its commit is durable. What ``work`` raises undoes it and is raised."""
        future: Future[T] = Future()
        if self._closed:
            raise StoreAway("The service is stopping.")
        try:
            self._jobs.put_nowait(_Job(work, contextvars.copy_context(), future))
        except queue.Full:
            raise StoreAway("Too many writes are waiting.") from None
        return await asyncio.wrap_future(future)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run read-only ``work`` on a consistent view of the database."""
        if self._closed:
            raise StoreAway("The service is stopping.")
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, self._read, work)

    async def probe(self) -> None:
        """Unwell unless the writer takes the write lock and gives it back."""
        try:
            await self.write(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        except Refused as error:
            raise Unwell(error.problem.detail) from None

    def _open(self) -> None:
        sqlite = self._url.get_backend_name() == "sqlite"
        if sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writer = _engine(self._url.render_as_string(False), 1, write=True)
        self._reader = _engine(self._url.render_as_string(False), READERS, write=False)
        with self._writer.begin() as connection:
            migrate(connection, self._tables)

    def _read(self, work: Callable[[Connection], T]) -> T:
        assert self._reader is not None  # noqa: S101 - start comes first
        try:
            with self._reader.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            _log.warning("read failed: %s", error)
            raise StoreAway("The database can't be read now.") from error

    def _run(self) -> None:
        while True:
            batch = [self._jobs.get()]
            while len(batch) < MAX_BATCH and batch[-1] is not None:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            jobs = [job for job in batch if job is not None and job.future.set_running_or_notify_cancel()]
            if jobs:
                self._commit(jobs)
            if batch[-1] is None:
                return

    def _commit(self, jobs: Sequence[_Job]) -> None:
        assert self._writer is not None  # noqa: S101 - start comes first
        done: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            with self._writer.begin() as connection:
                done.extend(_attempt(connection, job) for job in jobs)
        except SQLAlchemyError as error:
            _log.warning("write failed: %s", error)
            for job in jobs:
                job.future.set_exception(StoreAway("The database can't be written now."))
            return
        for job, result, failure in done:
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)


def _attempt(connection: Connection, job: _Job) -> tuple[_Job, Any, BaseException | None]:
    """One job in its savepoint. A fault of the database itself ends the batch, whose state is then unknown."""
    try:
        with connection.begin_nested():
            return job, job.context.run(job.work, connection), None
    except Exception as error:
        # Whatever the work raised belongs to its caller, through the future; a fault of the database does not.
        if of_the_database(error):
            raise
        return job, None, error


def _engine(url: str, size: int, *, write: bool) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(
            url, pool_size=size, max_overflow=0, pool_pre_ping=True, connect_args={"connect_timeout": 3}
        )
    engine = create_engine(
        url, pool_size=size, max_overflow=0, connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        connection.execute("PRAGMA journal_mode=WAL")
        # What is accepted is on the disk before anyone is told (NORMAL could lose it with the power).
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA query_only={'OFF' if write else 'ON'}")

    @event.listens_for(engine, "before_cursor_execute")
    def _says(connection: Connection, *_said: Any) -> None:
        connection.info[SAID] = True

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock first, so a second process waits here and not half-way.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def migrate(connection: Connection, tables: Sequence[Tables]) -> None:
    """Run the steps that this database has not had, inside the caller's transaction."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        # Two processes may start at once; the lock is given back with the transaction.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7370021)")
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS schema_versions (tables TEXT PRIMARY KEY, version INTEGER NOT NULL)"
    )
    versions = {
        row.tables: row.version for row in connection.exec_driver_sql("SELECT tables, version FROM schema_versions")
    }
    note = text(
        "INSERT INTO schema_versions (tables, version) VALUES (:tables, :version) "
        "ON CONFLICT (tables) DO UPDATE SET version = excluded.version"
    )
    for group in tables:
        name, version, newest = group.name, versions.get(group.name, 0), len(group.steps)
        if version > newest:
            raise RuntimeError(
                f"The database has version {version} of the tables {name}, newer than this program knows ({newest})."
            )
        for step in group.steps[version:]:
            for statement in step.of(dialect):
                connection.exec_driver_sql(statement)
        if version < newest:
            connection.execute(note, {"tables": name, "version": newest})
