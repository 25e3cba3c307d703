"""What a transaction does to balances. Pure.

Double entry: the sender's posting is minus the amount, the recipient's is plus the same amount, so
all balances of a currency add up to nothing at any time. An account opens at zero when it is first
named, and may go below zero: mint follows the ledger, it does not approve it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.accounts import parse_account
from services.kit.events.retry import Permanent
from services.kit.money import parse_amount, parse_currency


class BadTransaction(Permanent):
    """The event does not describe a transaction that can be; the message says why."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of a transaction; ``amount`` is signed minor units."""

    transaction: str
    height: int
    account: str
    other: str
    amount: int
    currency: str
    memo: str
    recorded_at: str


def postings(data: Mapping[str, Any]) -> tuple[Posting, Posting]:
    """The two postings of a ``business.transaction.recorded`` event's data; BadTransaction when it holds none."""
    try:
        sender, recipient = parse_account(data["from"]), parse_account(data["to"])
        amount, currency = parse_amount(data["amount"]), parse_currency(data["currency"])
        transaction, height, at = str(data["id"]), int(data["height"]), str(data["recorded_at"])
    except KeyError as error:
        raise BadTransaction(f"the transaction has no {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise BadTransaction(str(error)) from None
    if sender == recipient:
        raise BadTransaction("sender and recipient are the same account")
    memo = str(data.get("memo", ""))
    return (
        Posting(transaction, height, sender, recipient, -amount, currency, memo, at),
        Posting(transaction, height, recipient, sender, amount, currency, memo, at),
    )
