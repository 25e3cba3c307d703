"""covenant over HTTP: record, read and verify transactions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from opentelemetry import metrics
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from sqlalchemy import Connection

from services.covenant import store
from services.covenant.ledger import GENESIS, Draft, Entry, verify
from services.kit.accounts import Lookalike, claim, parse_account
from services.kit.auth import consumer
from services.kit.money import parse_amount, parse_currency
from services.kit.outbox import Outbox
from services.kit.problem import refuse
from services.kit.store import Store

RECORDED = "business.transaction.recorded"
VERIFY_LIMIT = 200_000
"""Entries that one call verifies; about two seconds of one core."""

Account = Annotated[str, BeforeValidator(lambda value: parse_account(_text(value)))]
Currency = Annotated[str, BeforeValidator(lambda value: parse_currency(_text(value)))]
Amount = Annotated[
    int,
    BeforeValidator(parse_amount),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": r"^\d{1,12}(\.\d{1,2})?$"}, {"type": "number"}],
            "description": "Above 0, at most two decimals, below 10^12; text or number.",
            "examples": ["25.00"],
        }
    ),
]


class Transaction(BaseModel):
    """What to record. ``from`` is the caller when it is left out."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)

    sender: Account | None = Field(default=None, alias="from")
    recipient: Account = Field(alias="to")
    amount: Amount
    currency: Currency
    memo: str = Field(default="", max_length=280)


class EntryOut(BaseModel):
    """A transaction in the chain; ``docs/services.md`` says how ``hash`` is made."""

    id: str
    height: int
    hash: str
    previous_hash: str
    sender: str = Field(alias="from")
    recipient: str = Field(alias="to")
    amount: str
    currency: str
    memo: str
    recorded_by: str
    recorded_at: str


class PageOut(BaseModel):
    """Newest first; ``next`` is the cursor of the following page."""

    items: list[EntryOut]
    next: str | None


class HeadOut(BaseModel):
    """The newest entry: keep it elsewhere and you can prove any later change to the past."""

    height: int
    hash: str


class VerifyOut(BaseModel):
    """``valid`` speaks of the heights from ``first`` to ``last``; ``next`` is where to go on, if there is more."""

    valid: bool
    first: int
    last: int
    last_hash: str
    head: HeadOut
    broken_at: int | None = None
    reason: str | None = None
    next: int | None = None


def router(database: Store, outbox: Outbox) -> APIRouter:
    """The ledger's addresses."""
    routes = APIRouter(prefix="/v1", tags=["ledger"])
    recorded = metrics.get_meter("services.covenant").create_counter(
        "covenant.transactions", description="Transactions recorded."
    )

    @routes.post("/transactions", status_code=201, response_model=EntryOut, response_model_by_alias=True)
    async def record(
        body: Transaction,
        request: Request,
        response: Response,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=128)] = None,
    ) -> dict[str, Any]:
        """Append a transaction; the same ``Idempotency-Key`` and body give the same entry again."""
        caller = consumer(request)
        sender = body.sender or parse_account(caller)
        if sender == body.recipient:
            raise refuse(422, "same_account", "Sender and recipient are the same account.")
        if "\x00" in body.memo:
            raise refuse(422, "invalid", "The memo holds a NUL character.")
        draft = Draft(sender, body.recipient, body.amount, body.currency, body.memo, caller)
        entry, replayed = await database.write(lambda connection: _record(connection, outbox, draft, idempotency_key))
        if replayed:
            response.headers["Idempotent-Replayed"] = "true"
        else:
            outbox.nudge()
            recorded.add(1, {"currency": entry.currency})
        response.headers["Location"] = f"/v1/transactions/{entry.id}"
        return entry.public()

    @routes.get("/transactions", response_model=PageOut, response_model_by_alias=True)
    async def page(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[int | None, Query(ge=1, le=2**62)] = None,
        account: Annotated[str | None, Query(max_length=64)] = None,
    ) -> dict[str, Any]:
        """Transactions, newest first, of everyone or of one account."""
        who = None if account is None else _account(account)
        found = await database.read(
            lambda connection: store.newest(connection, below=cursor, account=who, limit=limit + 1)
        )
        more = str(found[limit - 1].height) if len(found) > limit else None
        return {"items": [entry.public() for entry in found[:limit]], "next": more}

    @routes.get("/transactions/{identity}", response_model=EntryOut, response_model_by_alias=True)
    async def one(identity: str) -> dict[str, Any]:
        """One transaction by its id."""
        found = await database.read(lambda connection: store.by_id(connection, identity.replace("\x00", "")))
        if found is None:
            raise refuse(404, "not_found", "There is no transaction with this id.")
        return found.public()

    @routes.get("/head", response_model=HeadOut)
    async def head() -> dict[str, Any]:
        """The newest height and hash; height 0 and 64 zeros when the ledger is empty."""
        height, newest = await database.read(store.head)
        return {"height": height, "hash": newest}

    @routes.get("/verify", response_model=VerifyOut)
    async def check(
        since: Annotated[int, Query(ge=1, le=2**62, description="First height to verify.")] = 1,
        limit: Annotated[int, Query(ge=1, le=VERIFY_LIMIT)] = VERIFY_LIMIT,
    ) -> dict[str, Any]:
        """Recompute the chain and name the first height that does not hold."""
        return await database.read(lambda connection: _verify(connection, since, limit))

    return routes


def _record(connection: Connection, outbox: Outbox, draft: Draft, key: str | None) -> tuple[Entry, bool]:
    """The entry, and whether it had been there before."""
    digest = draft.digest()
    if key is not None and (before := store.remembered(connection, draft.recorded_by, key)) is not None:
        if before[0] != digest:
            raise refuse(422, "idempotency_key_reused", "This idempotency key belongs to a different transaction.")
        entry = store.by_height(connection, before[1])
        if entry is None:
            raise refuse(500, "ledger_broken", f"The entry at height {before[1]} is missing; see /v1/verify.")
        return entry, True
    entry = store.append(connection, draft)
    try:
        for account in (draft.sender, draft.recipient):
            claim(connection, account)
    except Lookalike as error:
        raise refuse(422, "account_lookalike", f"{error} Nothing was recorded.") from None
    if key is not None:
        store.remember(connection, draft.recorded_by, key, digest, entry.height)
    outbox.record(
        connection,
        RECORDED,
        entry.public(),
        subject=entry.id,
        partition_key="ledger",
        sequence=entry.height,
    )
    return entry, False


def _verify(connection: Connection, since: int, limit: int) -> dict[str, Any]:
    height, newest = store.head(connection)
    start, previous = since - 1, GENESIS
    if start > 0:
        before = store.by_height(connection, start)
        if before is None:
            raise refuse(404, "not_found", f"The ledger has no height {start}.")
        previous = before.hash
    last, last_hash, fault = verify(store.walk(connection, start, limit), height=start, previous_hash=previous)
    answer: dict[str, Any] = {
        "valid": fault is None,
        "first": since,
        "last": last,
        "last_hash": last_hash,
        "head": {"height": height, "hash": newest},
    }
    if fault is not None:
        return {**answer, "broken_at": fault.height, "reason": fault.reason}
    if last < height:
        if last - start == limit:
            return {**answer, "next": last + 1}
        return {**answer, "valid": False, "broken_at": last + 1, "reason": "the entry is missing"}
    if last > height or last_hash != newest:
        return {**answer, "valid": False, "broken_at": last, "reason": "it is not the head that was recorded"}
    return answer


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("This must be text.")
    return value


def _account(value: str) -> str:
    try:
        return parse_account(value)
    except ValueError as error:
        raise refuse(422, "invalid", str(error)) from None
