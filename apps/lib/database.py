"""Is the database away? Told from a query that is wrong, which SQLite reports by the same class of error.

Pure: takes the exception, gives the problem document that its edge sends.
"""

from __future__ import annotations

import sqlite3

from services.kit.problem import Problem

RETRY_S = 2
"""Seconds after which it is worth asking again: a restart of PostgreSQL, the end of another's transaction."""

SQLITE_SAYS = {
    sqlite3.SQLITE_BUSY: "is held by another writer",
    sqlite3.SQLITE_LOCKED: "is held by another writer",
    sqlite3.SQLITE_NOMEM: "has no memory",
    sqlite3.SQLITE_READONLY: "may not be written",
    sqlite3.SQLITE_IOERR: "can't be read or written: the disk failed",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_FULL: "has no room: its disk is full",
    sqlite3.SQLITE_CANTOPEN: "can't be opened",
    sqlite3.SQLITE_NOTADB: "is damaged",
}
"""By primary result code (https://www.sqlite.org/rescode.html). Any other is a fault of the query."""

POSTGRES_SAYS = {
    "08": "can't be reached",
    "25006": "may not be written",
    "40": "was asked for the same rows by two at once",
    "53": "has no room, no memory or no free connection",
    "55P03": "is held by another writer",
    "57": "is stopping, starting or not taking queries",
    "58": "can't be read or written: the system failed",
    "XX001": "is damaged",
    "XX002": "is damaged",
}
"""By SQLSTATE or its class (PostgreSQL's documentation, appendix A)."""

TOO_LARGE = "Python int too large to convert to SQLite"
"""How Python's sqlite3 begins an OverflowError of its own; psycopg has a class for it, DataError."""


def away(error: BaseException | None) -> Problem | None:
    """503 ``database_unavailable`` when ``error`` says that the database can't serve now; else None."""
    seen = 0
    while error is not None and seen < 10:
        reason = _reason(error)
        if reason:
            detail = f"The database {reason}. Nothing was changed; try again shortly."
            return Problem(503, "database_unavailable", detail, retry_after=RETRY_S)
        # Django wraps the driver's own error, which alone has the code.
        error, seen = error.__cause__, seen + 1
    return None


def beyond(error: BaseException | None) -> Problem | None:
    """400 when a value in the query is one that no column can hold, such as a number of 65 bits; else None."""
    seen = 0
    while error is not None and seen < 10:
        of_data = type(error).__module__.startswith("psycopg") and _is_a(error, "DataError")
        half = isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed"
        if of_data or half or str(error).startswith(TOO_LARGE):
            return Problem(400, "invalid", "A value is beyond what can be stored or looked for here.")
        error, seen = error.__cause__, seen + 1
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return SQLITE_SAYS.get(code & 0xFF, "") if isinstance(code, int) else ""
    # psycopg's errors by their shape: this room must not need the driver.
    if not hasattr(error, "sqlstate") or not type(error).__module__.startswith("psycopg"):
        return ""
    state = error.sqlstate
    if state is None:
        # Made by the client: the connection could not be had, or ended.
        return "can't be reached" if _is_a(error, "OperationalError", "InterfaceError") else ""
    return POSTGRES_SAYS.get(state) or POSTGRES_SAYS.get(state[:2], "")


def _is_a(error: BaseException, *names: str) -> bool:
    return bool(set(names) & {kind.__name__ for kind in type(error).__mro__})
