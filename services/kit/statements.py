"""Statements for work that has many events in one transaction: over all of their rows at once, and a step for each.

What SQLAlchemy does around a statement costs more than the statement where the database is in the process: so one
statement has all rows, and savepoints are said to the driver itself (docs/decisions/0036-batches-of-events.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from sqlalchemy import Connection, CursorResult, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InternalError, ProgrammingError

ROWS: Final = {"sqlite": "json_each(:rows)", "postgresql": "json_array_elements(CAST(:rows AS json))"}
KEEP: Final = {
    "sqlite": ("RELEASE SAVEPOINT step", "SAVEPOINT step"),
    # In one round trip.
    "postgresql": ("RELEASE SAVEPOINT step; SAVEPOINT step",),
}


SAID: Final = "said"
"""In a connection's ``info``: something was said to its database."""
_JSON: Final = msgspec.json.Encoder()


class Many:
    """A statement over any number of rows. ``{rows}`` in ``sql`` is a table of them: ``value ->> 0`` is the first
    column of a row, as text."""

    def __init__(self, sql: str) -> None:
        self._by = {dialect: text(sql.replace("{rows}", rows)) for dialect, rows in ROWS.items()}

    def __call__(
        self, connection: Connection, rows: Sequence[Sequence[Any]], **others: Any
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run it. Who writes passes the rows in the order of their keys, in which everybody takes their locks."""
        statement = self._by[connection.dialect.name]
        return connection.execute(statement, {"rows": _JSON.encode(rows).decode(), **others})


class Steps:
    """Work in steps within the caller's transaction: each is kept, or undone alone. As a context it is over at the end
    of the block; an error that leaves it leaves the transaction for lost."""

    def __init__(self, connection: Connection) -> None:
        self._dialect = connection.dialect
        self._cursor = connection.connection.cursor()
        self._keep = KEEP[connection.dialect.name]
        self._info = connection.info
        driver = connection.connection.driver_connection
        self._sqlite = driver if isinstance(driver, sqlite3.Connection) else None
        self._changes = 0

    def __enter__(self) -> Self:
        self._say("SAVEPOINT step")
        self._is_new()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._say("RELEASE SAVEPOINT step")
        self._cursor.close()

    def keep(self) -> None:
        """What was done since the last step stays. InternalError when a fault was passed over on PostgreSQL, which
        takes nothing after one: then it is to be undone."""
        if self._nothing_was_done():
            return
        for statement in self._keep:
            self._say(statement)
        self._is_new()

    def undo(self) -> None:
        """What was done since the last step is as if it had not been."""
        self._say("ROLLBACK TO SAVEPOINT step")

    def _is_new(self) -> None:
        self._info.pop(SAID, None)
        self._changes = self._sqlite.total_changes if self._sqlite is not None else 0

    def _nothing_was_done(self) -> bool:
        """Where that can be seen: neither said by SQLAlchemy, nor past it. What has done nothing needs no keeping, and
        what is said to a database in the process has both its threads wait for each other."""
        return self._sqlite is not None and SAID not in self._info and self._sqlite.total_changes == self._changes

    def _say(self, statement: str) -> None:
        dbapi = self._dialect.loaded_dbapi
        try:
            self._cursor.execute(statement)
        except dbapi.Error as error:
            raise DBAPIError.instance(statement, None, error, dbapi.Error, dialect=self._dialect) from error


def of_the_database(error: Exception) -> bool:
    """A fault of the database itself, whose transaction is lost, and not of what was asked of it."""
    asked = IntegrityError | DataError | ProgrammingError | InternalError
    return isinstance(error, DBAPIError) and not isinstance(error, asked)
