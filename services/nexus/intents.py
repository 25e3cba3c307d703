"""What nexus does about an intent. Owns the sentences and the calls; knows nothing of HTTP on its own side.

Money moves only for a sentence that services.nexus.payments understands whole. Anything less asks back.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from services.kit.accounts import parse_account
from services.kit.client import Answer, Client
from services.kit.money import format_amount, parse_amount, parse_currency
from services.kit.problem import Problem, Refused
from services.nexus.payments import Payment
from services.nexus.slots import Slots

QUESTIONS = {
    "amount": "How much do you want to send?",
    "currency": "In which currency?",
    "name": "Who should receive it?",
    "order": 'Nothing was sent. Only a plain order for now is carried out, such as "send 25 AZR to thandi".',
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


@dataclass(frozen=True, slots=True)
class Order:
    """What came in: who asks, what the words name, the payment they order if any, the idempotency key, and
    the most (minor units) that a sentence may move."""

    caller: str
    slots: Slots
    payment: Payment | None
    key: str
    most: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. ``status``: confirmed, incomplete, answered, recognised or unknown."""

    status: str
    message: str
    extra: dict[str, Any] = field(default_factory=dict)


Act = Callable[[Client, Order], Awaitable[Outcome]]


async def carry_out(intent: str, client: Client, order: Order) -> Outcome:
    """Do what ``intent`` asks for; Refused when another service says no or can't answer."""
    act = ACTS.get(intent)
    if act is not None:
        return await act(client, order)
    if intent in TALK:
        return Outcome("answered", TALK[intent])
    return Outcome("recognised", f"Understood as {intent.replace('_', ' ')}, which is not carried out here.")


async def send_money(client: Client, order: Order) -> Outcome:
    """Record a transaction in covenant, from the caller's account; ask back unless it is ordered beyond doubt."""
    payment = order.payment
    if payment is None:
        return _ask_back(order.slots)
    amount, currency = parse_amount(payment.amount), parse_currency(payment.currency)
    if amount > order.most:
        return _incomplete(["amount"], f"A sentence moves {format_amount(order.most)} at most. {QUESTIONS['amount']}")
    sender, recipient = _account(order.caller), payment.name
    if sender == recipient:
        return _incomplete(["name"], f"You are {sender} yourself. {QUESTIONS['name']}")
    body = {
        "from": sender,
        "to": recipient,
        "amount": format_amount(amount),
        "currency": currency,
        "memo": payment.memo,
    }
    answer = await client.post("covenant", "/v1/transactions", body, _key(order))
    if answer.status not in {200, 201}:
        raise _passed_on("covenant", answer)
    confirmation = {name: answer.body[name] for name in ("id", "height", "hash")}
    message = f"Sent {payment.amount} {currency} to {recipient}."
    return Outcome("confirmed", message, {"confirmation": confirmation})


def _ask_back(slots: Slots) -> Outcome:
    """What to say instead of moving money: the question that leads on from what the sentence did say."""
    if missing := slots.missing:
        return _incomplete(missing, " ".join(QUESTIONS[name] for name in missing))
    if slots.unclear:
        words = {"amount": "amount", "name": "recipient"}
        unclear = " and ".join(words[name] for name in slots.unclear)
        return _incomplete(list(slots.unclear), f"Please name one {unclear} at a time.")
    try:
        parse_amount(slots.amount)
    except ValueError as error:
        return _incomplete(["amount"], f"{error} {QUESTIONS['amount']}")
    return _incomplete(["order"], QUESTIONS["order"])


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
