"""mint's tables and the few statements on them. Every function runs inside the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from services.kit.accounts import NAMES, Lookalike, claim
from services.kit.events.cloudevent import CloudEvent
from services.kit.inbox import INBOX
from services.kit.money import MAX_BALANCE, format_amount
from services.kit.store import Migration, Tables
from services.mint.accounts import BadTransaction, postings

BALANCES = Tables(
    "mint",
    Migration(
        "CREATE TABLE balances (account TEXT NOT NULL, currency TEXT NOT NULL, minor BIGINT NOT NULL, "
        "updated_at TEXT NOT NULL, PRIMARY KEY (account, currency))",
        "CREATE TABLE postings (id {serial}, transaction_id TEXT NOT NULL, height BIGINT NOT NULL, "
        "account TEXT NOT NULL, other TEXT NOT NULL, minor BIGINT NOT NULL, currency TEXT NOT NULL, "
        "memo TEXT NOT NULL, balance BIGINT NOT NULL, recorded_at TEXT NOT NULL, "
        # The same transaction in two events, however that came about, moves money once.
        "UNIQUE (transaction_id, account))",
        "CREATE INDEX postings_by_account ON postings (account, id)",
    ),
)
TABLES = (INBOX, NAMES, BALANCES)

RECENT = 20
LEDGER = "covenant"
"""Whose events are transactions, whoever else may publish their type."""


def apply(connection: Connection, event: CloudEvent) -> None:
    """Post both sides of the event's transaction; nothing when they are posted already.

    Raises BadTransaction for what the ledger should not have let in, or anybody else says: it is parked, and nothing
    moves.
    """
    if event.source != LEDGER:
        raise BadTransaction(f"{event.source} keeps no ledger: money moves by the word of {LEDGER} alone")
    for posting in postings(event.data):
        known = connection.execute(
            text("SELECT 1 FROM postings WHERE transaction_id = :transaction AND account = :account"),
            {"transaction": posting.transaction, "account": posting.account},
        ).first()
        if known is not None:
            continue
        try:
            claim(connection, posting.account)
        except Lookalike as error:
            raise BadTransaction(str(error)) from None
        balance = connection.execute(
            text(
                "INSERT INTO balances (account, currency, minor, updated_at) VALUES (:account, :currency, :minor, :at) "
                "ON CONFLICT (account, currency) DO UPDATE SET minor = balances.minor + excluded.minor, "
                "updated_at = excluded.updated_at RETURNING minor"
            ),
            {
                "account": posting.account,
                "currency": posting.currency,
                "minor": posting.amount,
                "at": posting.recorded_at,
            },
        ).scalar_one()
        if abs(balance) > MAX_BALANCE:
            raise BadTransaction(f"{posting.account} would pass the limit of {format_amount(MAX_BALANCE)}")
        connection.execute(
            text(
                "INSERT INTO postings (transaction_id, height, account, other, minor, currency, memo, balance, "
                "recorded_at) VALUES (:transaction, :height, :account, :other, :minor, :currency, :memo, :balance, :at)"
            ),
            {
                "transaction": posting.transaction,
                "height": posting.height,
                "account": posting.account,
                "other": posting.other,
                "minor": posting.amount,
                "currency": posting.currency,
                "memo": posting.memo,
                "balance": balance,
                "at": posting.recorded_at,
            },
        )


def account(connection: Connection, name: str) -> dict[str, Any] | None:
    """Balances by currency and the newest postings; None for an account never named."""
    rows = connection.execute(
        text("SELECT currency, minor, updated_at FROM balances WHERE account = :account ORDER BY currency"),
        {"account": name},
    ).all()
    if not rows:
        return None
    recent = connection.execute(
        text(
            "SELECT transaction_id, height, other, minor, currency, memo, balance, recorded_at FROM postings "
            "WHERE account = :account ORDER BY id DESC LIMIT :limit"
        ),
        {"account": name, "limit": RECENT},
    )
    return {
        "account": name,
        "balances": {row.currency: format_amount(row.minor) for row in rows},
        "updated_at": max(row.updated_at for row in rows),
        "entries": [
            {
                "transaction": row.transaction_id,
                "height": row.height,
                "other": row.other,
                "amount": format_amount(row.minor),
                "currency": row.currency,
                "memo": row.memo,
                "balance": format_amount(row.balance),
                "recorded_at": row.recorded_at,
            }
            for row in recent
        ],
    }


def accounts(connection: Connection, *, after: str, limit: int) -> list[dict[str, Any]]:
    """Accounts by name, those after ``after``, with their balances."""
    rows = connection.execute(
        text(
            "SELECT account, currency, minor, updated_at FROM balances WHERE account IN (SELECT DISTINCT account "
            "FROM balances WHERE account > :after ORDER BY account LIMIT :limit) ORDER BY account, currency"
        ),
        {"after": after, "limit": limit},
    )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(row.account, {"account": row.account, "balances": {}, "updated_at": row.updated_at})
        entry["balances"][row.currency] = format_amount(row.minor)
        entry["updated_at"] = max(entry["updated_at"], row.updated_at)
    return list(found.values())


def totals(connection: Connection) -> dict[str, str]:
    """Currency → the sum of all balances, which double entry keeps at zero."""
    rows = connection.execute(text("SELECT currency, SUM(minor) AS minor FROM balances GROUP BY currency"))
    return {row.currency: format_amount(int(row.minor)) for row in rows}
