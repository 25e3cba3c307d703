"""mint over HTTP: read balances. Nothing here changes one; only the ledger's events do."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.kit.accounts import parse_account
from services.kit.problem import refuse
from services.kit.store import Store
from services.mint import store


class EntryOut(BaseModel):
    """One side of a transaction: ``amount`` is signed, ``balance`` is what the account held afterwards."""

    transaction: str
    height: int
    other: str
    amount: str
    currency: str
    memo: str
    balance: str
    recorded_at: str


class SummaryOut(BaseModel):
    """An account and its balances by currency."""

    account: str
    balances: dict[str, str]
    updated_at: str


class AccountOut(SummaryOut):
    """... with its newest entries."""

    entries: list[EntryOut]


class PageOut(BaseModel):
    """Accounts by name; ``next`` is the cursor of the following page."""

    items: list[SummaryOut]
    next: str | None


class TotalsOut(BaseModel):
    """The sum of all balances by currency: zero, or double entry is broken."""

    totals: dict[str, str]


def router(database: Store) -> APIRouter:
    """The accounts' addresses."""
    routes = APIRouter(prefix="/v1", tags=["accounts"])

    @routes.get("/accounts", response_model=PageOut)
    async def page(
        limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: Annotated[str, Query(max_length=64)] = ""
    ) -> dict[str, Any]:
        """All accounts, by name."""
        after = cursor.replace("\x00", "")
        found = await database.read(lambda connection: store.accounts(connection, after=after, limit=limit + 1))
        return {"items": found[:limit], "next": found[limit - 1]["account"] if len(found) > limit else None}

    @routes.get("/accounts/{name}", response_model=AccountOut)
    async def one(name: str) -> dict[str, Any]:
        """One account: balances and newest entries. It exists from the first transaction that names it."""
        try:
            account = parse_account(name)
        except ValueError as error:
            raise refuse(422, "invalid", str(error)) from None
        found = await database.read(lambda connection: store.account(connection, account))
        if found is None:
            raise refuse(404, "account_unknown", f"No transaction has named the account {account} yet.")
        return found

    @routes.get("/totals", response_model=TotalsOut)
    async def totals() -> dict[str, Any]:
        """The books' own check."""
        return {"totals": await database.read(store.totals)}

    return routes
