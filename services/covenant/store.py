"""The ledger's tables and the few statements on them. Every function runs inside the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from services.covenant.ledger import GENESIS, Draft, Entry, seal
from services.kit.accounts import NAMES
from services.kit.outbox import OUTBOX
from services.kit.store import Migration, Tables

LEDGER = Tables(
    "covenant",
    Migration(
        "CREATE TABLE entries (height BIGINT PRIMARY KEY, id TEXT NOT NULL UNIQUE, sender TEXT NOT NULL, "
        "recipient TEXT NOT NULL, amount BIGINT NOT NULL CHECK (amount > 0), currency TEXT NOT NULL, "
        "memo TEXT NOT NULL, recorded_by TEXT NOT NULL, recorded_at TEXT NOT NULL, previous_hash TEXT NOT NULL, "
        "hash TEXT NOT NULL UNIQUE)",
        "CREATE INDEX entries_by_sender ON entries (sender, height)",
        "CREATE INDEX entries_by_recipient ON entries (recipient, height)",
        # The newest entry a second time, so that a chain cut short at its end is noticed too.
        "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), height BIGINT NOT NULL, hash TEXT NOT NULL)",
        f"INSERT INTO head (one, height, hash) VALUES (1, 0, '{GENESIS}')",  # noqa: S608 - a constant
        # Kept for ever, as the entries are: a key that comes back in a year must not pay twice.
        "CREATE TABLE idempotency (consumer TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, "
        "height BIGINT NOT NULL, PRIMARY KEY (consumer, key))",
        sqlite=tuple(
            f"CREATE TRIGGER entries_no_{verb.lower()} BEFORE {verb} ON entries "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ),
        postgresql=(
            "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
            "CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries "
            "FOR EACH STATEMENT EXECUTE FUNCTION append_only()",
        ),
    ),
)
TABLES = (OUTBOX, NAMES, LEDGER)

CHUNK = 2000
"""Entries read at a time when the chain is walked."""

_COLUMNS = "height, id, sender, recipient, amount, currency, memo, recorded_by, recorded_at, previous_hash, hash"


def head(connection: Connection, *, lock: bool = False) -> tuple[int, str]:
    """Height and hash of the newest entry; ``lock`` keeps other writers out until the transaction ends."""
    # SQLite's writer holds the whole database already (BEGIN IMMEDIATE).
    tail = " FOR UPDATE" if lock and connection.dialect.name == "postgresql" else ""
    row = connection.execute(text(f"SELECT height, hash FROM head WHERE one = 1{tail}")).one()  # noqa: S608 - constants
    return row.height, row.hash


def append(connection: Connection, draft: Draft) -> Entry:
    """Put ``draft`` on top of the chain."""
    height, previous_hash = head(connection, lock=True)
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    entry = seal(draft, height=height + 1, id=str(uuid.uuid4()), recorded_at=now, previous_hash=previous_hash)
    values = ", ".join(f":{name.strip()}" for name in _COLUMNS.split(","))
    connection.execute(
        text(f"INSERT INTO entries ({_COLUMNS}) VALUES ({values})"),  # noqa: S608 - constants
        {name: getattr(entry, name) for name in Entry.__slots__},
    )
    connection.execute(
        text("UPDATE head SET height = :height, hash = :hash WHERE one = 1"),
        {"height": entry.height, "hash": entry.hash},
    )
    return entry


def remembered(connection: Connection, consumer: str, key: str) -> tuple[str, int] | None:
    """Digest and height of what ``consumer`` recorded under this idempotency key before."""
    row = connection.execute(
        text("SELECT digest, height FROM idempotency WHERE consumer = :consumer AND key = :key"),
        {"consumer": consumer, "key": key},
    ).first()
    return None if row is None else (row.digest, row.height)


def remember(connection: Connection, consumer: str, key: str, digest: str, height: int) -> None:
    """Bind an idempotency key to its entry."""
    connection.execute(
        text("INSERT INTO idempotency (consumer, key, digest, height) VALUES (:consumer, :key, :digest, :height)"),
        {"consumer": consumer, "key": key, "digest": digest, "height": height},
    )


def by_height(connection: Connection, height: int) -> Entry | None:
    """The entry at ``height``."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM entries WHERE height = :height"),  # noqa: S608 - constants
        {"height": height},
    ).first()
    return None if row is None else _entry(row)


def by_id(connection: Connection, identity: str) -> Entry | None:
    """The entry with this id."""
    row = connection.execute(
        text(f"SELECT {_COLUMNS} FROM entries WHERE id = :id"),  # noqa: S608 - constants
        {"id": identity},
    ).first()
    return None if row is None else _entry(row)


def newest(connection: Connection, *, below: int | None, account: str | None, limit: int) -> list[Entry]:
    """Entries from the newest down, under height ``below``, in which ``account`` takes part."""
    below = below if below is not None else 2**62
    part = f"SELECT {_COLUMNS} FROM entries WHERE height < :below"  # noqa: S608 - constants
    if account is None:
        query = f"{part} ORDER BY height DESC LIMIT :limit"
    else:
        # Two short index walks; an OR would make the planner sort everything that the account ever did.
        sides = [
            f"SELECT * FROM ({part} AND {side} = :account ORDER BY height DESC LIMIT :limit) AS {side}s"  # noqa: S608
            for side in ("sender", "recipient")
        ]
        query = f"{' UNION ALL '.join(sides)} ORDER BY height DESC LIMIT :limit"
    rows = connection.execute(text(query), {"below": below, "account": account, "limit": limit})
    return [_entry(row) for row in rows]


def walk(connection: Connection, above: int, limit: int) -> Iterator[Entry]:
    """Entries from height ``above`` + 1 upwards, ``limit`` at most, read in chunks."""
    query = text(f"SELECT {_COLUMNS} FROM entries WHERE height > :above ORDER BY height LIMIT :chunk")  # noqa: S608
    while limit > 0:
        rows = connection.execute(query, {"above": above, "chunk": min(CHUNK, limit)}).all()
        yield from (_entry(row) for row in rows)
        if len(rows) < min(CHUNK, limit):
            return
        above, limit = rows[-1].height, limit - len(rows)


def _entry(row: Row[Any]) -> Entry:
    return Entry(*tuple(row))  # the columns are selected in the order of the fields
