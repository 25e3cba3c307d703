"""Apply the ordered SQL files to ClickHouse, each once, and refuse one that changed after it was applied.

Every statement is safe to repeat (IF NOT EXISTS), because ClickHouse has no transactions over DDL: a
runner killed half way through a file runs that file again, and two that start together do no harm.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

FOLDER = Path(__file__).resolve().parent

TABLE = """
CREATE TABLE IF NOT EXISTS mc_migrations
(
    Name String,
    Checksum String,
    AppliedAt DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY Name
"""


class SchemaError(RuntimeError):
    """The database and the files disagree; the message says which file and what to do."""


@dataclass(frozen=True, slots=True)
class File:
    """One migration: its name, its statements and the SHA-256 of its text."""

    name: str
    statements: tuple[str, ...]
    checksum: str


def files(folder: Path = FOLDER) -> list[File]:
    """All migrations in order."""
    return [read(path.name, path.read_text()) for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))]


def read(name: str, text: str) -> File:
    """Cut a file into statements. Checksums ignore comments and blanks, so wording can be mended."""
    bare = re.sub(r"^\s*--[^\n]*$", "", text, flags=re.MULTILINE)
    statements = tuple(part.strip() for part in bare.split(";") if part.strip())
    normal = " ".join(" ".join(statement.split()) for statement in statements)
    return File(name, statements, hashlib.sha256(normal.encode()).hexdigest())


def apply(client: Client, database: str, migrations: list[File] | None = None) -> list[str]:
    """Bring ``database`` up to date; the names applied now. SchemaError when an applied file was changed."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", database):
        raise SchemaError(f"CLICKHOUSE_DATABASE must be a plain name, not {database!r}.")
    client.command(f"CREATE DATABASE IF NOT EXISTS {database}", use_database=False)
    client.database = database
    client.command(TABLE)
    rows = client.query("SELECT Name, Checksum FROM mc_migrations FINAL").result_rows
    done = {str(name): str(checksum) for name, checksum in rows}
    fresh = []
    for migration in files() if migrations is None else migrations:
        if migration.name in done:
            if done[migration.name] != migration.checksum:
                raise SchemaError(
                    f"{migration.name} was changed after it was applied to {database}; put it back and add a new file."
                )
            continue
        for statement in migration.statements:
            client.command(statement)
        client.command(
            "INSERT INTO mc_migrations (Name, Checksum) SELECT {name:String}, {checksum:String}",
            parameters={"name": migration.name, "checksum": migration.checksum},
        )
        fresh.append(migration.name)
    return fresh
