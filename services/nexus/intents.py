"""What nexus does about an intent. Owns the sentences and the calls; knows nothing of HTTP on its own side.

Money moves only for a complete, unambiguous and affirmative ``send_money``. Anything less asks back.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from services.kit.client import Answer, Client
from services.kit.money import format_amount, parse_account, parse_amount, parse_currency
from services.kit.problem import Problem, Refused
from services.nexus.slots import Slots

QUESTIONS = {
    "amount": "How much do you want to send?",
    "currency": "In which currency?",
    "name": "Who should receive it?",
}
DESCRIPTIONS = {
    "send_money": "Send money to someone: recorded by covenant.",
    "check_balance": "Say what your account holds: read from mint.",
    "transaction_history": "List your latest transactions: read from covenant.",
    "request_money": "Ask someone for money. Understood, not carried out.",
    "exchange_currency": "Change one currency into another. Understood, not carried out.",
    "exchange_rate": "Say an exchange rate. Understood, not carried out.",
    "pay_bill": "Pay a bill. Understood, not carried out.",
    "cancel_transaction": "Cancel a payment. Understood, not carried out: the ledger is append-only.",
    "open_account": "Open an account. Accounts open by themselves with their first transaction.",
    "freeze_account": "Freeze an account or card. Understood, not carried out.",
    "set_limit": "Set a spending limit. Understood, not carried out.",
    "help": "Say what can be done.",
    "greet": "Greet.",
    "goodbye": "Part.",
    "thanks": "Be thanked.",
}
TALK = {
    "help": 'Try "send 25 AZR to thandi", "what is my balance" or "show my transactions".',
    "greet": 'Hello. Try "send 25 AZR to thandi".',
    "goodbye": "Goodbye.",
    "thanks": "You are welcome.",
}
HISTORY = 5

# "don't send it" and "did I send it?" have the words of an order and are none.
_NO_ORDER = re.compile(
    r"\b(?:don'?t|do not|never|not to|shouldn'?t|should not|didn'?t|did not|without)\b"
    r"|^\W*(?:did|have|has|had|was|were|when|why|who|which|where|if|should)\b"
    r"|^\W*(?:what (?:if|happens)|how (?:do|much|many|often))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Order:
    """What came in: who asks, in which words, with which slots and idempotency key."""

    caller: str
    text: str
    slots: Slots
    key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. ``status``: confirmed, incomplete, answered, recognised or unknown."""

    status: str
    message: str
    extra: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Client, Order], Awaitable[Outcome]]


def is_order(text: str) -> bool:
    """Whether the sentence asks for something to be done, and not whether or that it was or should not be."""
    return _NO_ORDER.search(text.replace("’", "'")) is None


async def carry_out(intent: str, client: Client, order: Order) -> Outcome:
    """Do what ``intent`` asks for; Refused when another service says no or can't answer."""
    act = ACTS.get(intent)
    if act is not None:
        return await act(client, order)
    if intent in TALK:
        return Outcome("answered", TALK[intent])
    return Outcome("recognised", f"Understood as {intent.replace('_', ' ')}, which is not carried out here.")


async def send_money(client: Client, order: Order) -> Outcome:
    """Record a transaction in covenant, from the caller's account."""
    slots = order.slots
    if missing := slots.missing:
        return _incomplete(missing, " ".join(QUESTIONS[name] for name in missing))
    if slots.unclear:
        words = {"amount": "amount", "name": "recipient"}
        unclear = " and ".join(words[name] for name in slots.unclear)
        return _incomplete(list(slots.unclear), f"Please name one {unclear} at a time.")
    assert slots.amount and slots.currency and slots.name  # noqa: S101 - for the type checker: none is missing
    try:
        amount, currency = parse_amount(slots.amount), parse_currency(slots.currency)
    except ValueError as error:
        return _incomplete(["amount"], f"{error} {QUESTIONS['amount']}")
    sender, recipient = _account(order.caller), _account(slots.name)
    if sender == recipient:
        return _incomplete(["name"], f"You are {sender} yourself. {QUESTIONS['name']}")
    body = {
        "from": sender,
        "to": recipient,
        "amount": format_amount(amount),
        "currency": currency,
        "memo": slots.memo or "",
    }
    answer = await client.post("covenant", "/v1/transactions", body, _key(order))
    if answer.status not in {200, 201}:
        raise _passed_on("covenant", answer)
    confirmation = {name: answer.body[name] for name in ("id", "height", "hash")}
    message = f"Sent {slots.amount} {currency} to {recipient}."
    return Outcome("confirmed", message, {"confirmation": confirmation})


async def check_balance(client: Client, order: Order) -> Outcome:
    """Read from mint what the account holds that the sentence names, else the caller's own."""
    account = _account(order.slots.name or order.caller)
    answer = await client.get("mint", f"/v1/accounts/{quote(account, safe='')}")
    if answer.status == 404:
        return Outcome("answered", f"{account} has no account yet: it opens with the first transaction.")
    if answer.status != 200:
        raise _passed_on("mint", answer)
    balances: dict[str, str] = answer.body["balances"]
    wanted = order.slots.currency
    if wanted is not None:
        balances = {wanted: balances.get(wanted, "0.00")}
    held = ", ".join(f"{amount} {currency}" for currency, amount in balances.items())
    return Outcome("answered", f"{account} holds {held}.", {"balances": balances})


async def transaction_history(client: Client, order: Order) -> Outcome:
    """Read the caller's latest transactions from covenant."""
    account = _account(order.caller)
    answer = await client.get("covenant", "/v1/transactions", {"account": account, "limit": str(HISTORY)})
    if answer.status != 200:
        raise _passed_on("covenant", answer)
    items = answer.body["items"]
    if not items:
        return Outcome("answered", f"{account} has no transactions yet.", {"transactions": []})
    return Outcome("answered", f"The latest {len(items)} of {account}.", {"transactions": items})


ACTS: dict[str, Act] = {
    "send_money": send_money,
    "check_balance": check_balance,
    "transaction_history": transaction_history,
}


def _incomplete(missing: list[str], question: str) -> Outcome:
    return Outcome("incomplete", question, {"missing": missing, "question": question})


def _account(name: str) -> str:
    try:
        return parse_account(name)
    except ValueError as error:
        raise Refused(Problem(422, "invalid", f"{name!r} can't be an account. {error}")) from None


def _key(order: Order) -> str:
    """The caller's idempotency key, made the caller's own; without one, a key for our own retries alone."""
    if not order.key:
        return str(uuid.uuid4())
    # A hash, since covenant sees every key as nexus's, and two callers may choose the same.
    return hashlib.sha256(f"{order.caller}\n{order.key}".encode()).hexdigest()


def _passed_on(service: str, answer: Answer) -> Refused:
    """Another service's refusal as our own, in its words."""
    detail = str(answer.body.get("detail") or f"{service} refused.")
    failure = str(answer.body.get("failure") or "refused")
    return Refused(
        Problem(answer.status if 400 <= answer.status < 500 else 502, failure, detail, extra={"by": service})
    )
