"""What a service's store promises, on each database that it may run on."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.covenant import store as ledger
from services.covenant.ledger import GENESIS, Draft, verify
from services.kit import store as kit
from services.kit.checks import Unwell
from services.kit.events.cloudevent import CloudEvent
from services.kit.store import Migration, Store, StoreAway, Tables
from services.mint import store as balances
from services.mint.accounts import BadTransaction
from tests.fleet import ROOT
from tests.stores import postgres, url
from tests.waiting import patient

__all__ = ["postgres", "url"]

NOTES = Tables("notes", Migration("CREATE TABLE notes (id {serial}, body TEXT NOT NULL UNIQUE)"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = Store(url, NOTES)
    await made.start()
    yield made
    await made.stop()


def add(body: str) -> Any:
    return lambda connection: connection.execute(text("INSERT INTO notes (body) VALUES (:body)"), {"body": body})


async def bodies(store: Store) -> list[str]:
    return await store.read(lambda c: [row.body for row in c.execute(text("SELECT body FROM notes ORDER BY body"))])


async def test_what_is_written_is_read_and_survives_a_restart(store: Store, url: str) -> None:
    await store.write(add("one"))
    assert await bodies(store) == ["one"]
    await store.stop()
    again = Store(url, NOTES)
    await again.start()
    assert await bodies(again) == ["one"]
    await again.stop()


FORGETFUL = """
import asyncio, sys
from sqlalchemy import text
from services.kit.store import Migration, Store, Tables

async def main(url):
    notes = Tables("notes", Migration("CREATE TABLE notes (id {serial}, body TEXT NOT NULL UNIQUE)"))
    store = Store(url, notes)
    await store.start()
    await store.write(lambda connection: connection.execute(text("INSERT INTO notes (body) VALUES ('kept')")))
    if sys.argv[2] == "raises":
        raise SystemExit(3)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("raises", 3)])
async def test_a_program_that_forgets_to_stop_its_store_ends_and_is_told(url: str, how: str, code: int) -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FORGETFUL, url, how], cwd=ROOT, capture_output=True, timeout=patient(20)
    )
    assert done.returncode == code, done.stderr
    assert b"async with store" in done.stderr
    async with Store(url, NOTES) as store:
        assert await bodies(store) == ["kept"]
    with pytest.raises(StoreAway):
        await bodies(store)


async def test_every_commit_of_sqlite_reaches_the_disk(tmp_path: Path) -> None:
    """A write says that it is durable; from a test no power cut can be had, so the setting is looked at."""
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite3'}", NOTES)
    await store.start()
    found = await store.write(lambda connection: connection.execute(text("PRAGMA synchronous")).scalar())
    await store.stop()
    assert found == 2, "FULL"


async def test_writes_that_share_a_commit_fail_alone(store: Store) -> None:
    def broken(connection: Any) -> None:
        add("half")(connection)
        raise KeyError("mine")

    results = await asyncio.gather(
        *(store.write(add(f"{number:02}")) for number in range(20)),
        store.write(broken),
        store.write(add("00")),
        *(store.write(add(f"{number:02}")) for number in range(20, 40)),
        return_exceptions=True,
    )
    assert await bodies(store) == [f"{number:02}" for number in range(40)]
    assert isinstance(results[20], KeyError)
    assert isinstance(results[21], IntegrityError)
    assert sum(isinstance(result, BaseException) for result in results) == 2


async def test_work_runs_in_the_context_of_its_caller(store: Store) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def ask(name: str) -> str:
        who.set(name)
        return await store.write(lambda _: who.get()) + await store.read(lambda _: who.get())

    assert await asyncio.gather(*(asyncio.create_task(ask(name)) for name in "abc")) == ["aa", "bb", "cc"]


async def test_readers_may_not_write(store: Store) -> None:
    if "sqlite" in str(store._url):
        with pytest.raises(StoreAway):
            await store.read(add("sneaky"))
    assert await bodies(store) == []


async def test_too_many_waiting_writes_are_refused_and_not_queued(store: Store, monkeypatch: Any) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_: Any) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)

    first = asyncio.create_task(store.write(slow))
    await asyncio.sleep(0.1)
    waiting = [asyncio.create_task(store.write(lambda _: None)) for _ in range(kit.MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(StoreAway, match="Too many writes"):
        await store.write(lambda _: None)
    gate.set()
    await asyncio.gather(first, *waiting)


async def test_a_write_after_the_stop_is_refused(url: str) -> None:
    store = Store(url, NOTES)
    await store.start()
    await store.stop()
    with pytest.raises(StoreAway):
        await store.write(add("late"))
    with pytest.raises(StoreAway):
        await bodies(store)


async def test_migrations_run_once_in_order_and_an_older_program_is_kept_out(url: str) -> None:
    more = Migration("ALTER TABLE notes ADD COLUMN colour TEXT", "UPDATE notes SET colour = 'red'")
    grown = Tables("notes", *NOTES.steps, more)
    for tables in (NOTES, grown, grown):
        store = Store(url, tables)
        await store.start()
        await store.stop()
    old = Store(url, NOTES)
    with pytest.raises(RuntimeError, match="version 2 of the tables notes, newer than this program"):
        await old.start()
    await old.stop()


async def test_what_one_group_of_tables_adds_does_not_concern_the_others(url: str) -> None:
    """A service's own tables, and those of a kit that grew meanwhile."""
    ours = Tables("ours", Migration("CREATE TABLE ours (id {serial})"))
    grown = Tables("notes", *NOTES.steps, Migration("INSERT INTO notes (body) VALUES ('added')"))
    for tables in ((NOTES,), (NOTES, ours), (ours, grown), (grown, ours)):
        async with Store(url, *tables) as store:
            kept = await bodies(store)
            if ours in tables:
                await store.write(lambda connection: connection.execute(text("INSERT INTO ours DEFAULT VALUES")))
    assert kept == ["added"], "each step once"


async def test_a_locked_database_is_unwell_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own trouble: another process holds the write lock for too long."""
    monkeypatch.setattr(kit, "BUSY_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path / 'locked.sqlite3'}"
    store = Store(url, NOTES)
    await store.start()
    other = create_engine(url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(Unwell):
            await store.probe()
        with pytest.raises(StoreAway):
            await store.write(add("blocked"))
        connection.exec_driver_sql("ROLLBACK")
    other.dispose()
    await store.probe()
    await store.write(add("free"))
    assert await bodies(store) == ["free"]
    await store.stop()


def draft(amount: int = 100, sender: str = "a", recipient: str = "b") -> Draft:
    return Draft(sender, recipient, amount, "AZR", "été", "tests")


async def test_the_ledger_chains_pages_and_refuses_changes(url: str) -> None:
    store = Store(url, *ledger.TABLES)
    await store.start()
    entries = await asyncio.gather(
        *(
            store.write(lambda c, n=number: ledger.append(c, draft(n + 1, recipient="bc"[n % 2])))
            for number in range(30)
        )
    )
    assert [entry.height for entry in entries] == list(range(1, 31))
    walked = await store.read(lambda c: list(ledger.walk(c, 0, 1000)))
    assert walked == list(entries) and verify(walked) == (30, entries[-1].hash, None)
    assert await store.read(ledger.head) == (30, entries[-1].hash)
    theirs = await store.read(lambda c: ledger.newest(c, below=21, account="b", limit=4))
    assert [entry.height for entry in theirs] == [19, 17, 15, 13]
    both = await store.read(lambda c: ledger.newest(c, below=None, account="a", limit=3))
    assert [entry.height for entry in both] == [30, 29, 28]
    assert await store.read(lambda c: ledger.by_id(c, entries[4].id)) == entries[4]
    for statement in ("UPDATE entries SET amount = 1", "DELETE FROM entries WHERE height = 30"):
        with pytest.raises((DBAPIError, StoreAway)):
            await store.write(lambda c, sql=statement: c.execute(text(sql)))
    assert await store.read(lambda c: len(list(ledger.walk(c, 0, 1000)))) == 30
    await store.stop()


async def test_two_processes_on_one_ledger_keep_one_chain(url: str) -> None:
    stores = [Store(url, *ledger.TABLES) for _ in range(2)]
    for store in stores:
        await store.start()
    await asyncio.gather(*(store.write(lambda c: ledger.append(c, draft())) for _ in range(25) for store in stores))
    walked = await stores[0].read(lambda c: list(ledger.walk(c, 0, 1000)))
    assert verify(walked, height=0, previous_hash=GENESIS)[::2] == (50, None)
    for store in stores:
        await store.stop()


async def test_a_transaction_moves_balances_once_however_often_its_event_comes(url: str) -> None:
    store = Store(url, *balances.TABLES)
    await store.start()
    data = {"id": "t1", "height": 1, "from": "a", "to": "b", "amount": "2.50", "currency": "AZR", "recorded_at": "2026"}
    event = CloudEvent(id="e1", source="covenant", type="business.transaction.recorded", time=0.0, data=data)
    for _ in range(3):
        await store.write(lambda c: balances.apply(c, event))
    other = CloudEvent(
        id="e2", source="covenant", type=event.type, time=0.0, data=data | {"id": "t2", "currency": "USD"}
    )
    await store.write(lambda c: balances.apply(c, other))
    found = await store.read(lambda c: balances.account(c, "b"))
    assert found is not None and found["balances"] == {"AZR": "2.50", "USD": "2.50"}
    assert await store.read(balances.totals) == {"AZR": "0.00", "USD": "0.00"}
    assert [item["account"] for item in await store.read(lambda c: balances.accounts(c, after="a", limit=5))] == ["b"]
    await store.stop()


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "alicе"},
        {"to": "a1ice", "id": "t2"},
        {"currency": "XTS"},
        {"amount": "1e3"},
        {"amount": "10000000000000"},
    ],
)
async def test_what_the_ledger_should_not_have_let_in_moves_nothing(url: str, changes: dict[str, str]) -> None:
    store = Store(url, *balances.TABLES)
    await store.start()
    data = {"id": "t1", "height": 1, "from": "bob", "to": "alice", "amount": "1", "currency": "AZR", "recorded_at": "2"}
    first = CloudEvent(id="e1", source="covenant", type="business.transaction.recorded", time=0.0, data=data)
    await store.write(lambda c: balances.apply(c, first))
    odd = CloudEvent(id="e2", source="covenant", type=first.type, time=0.0, data=data | {"id": "t2"} | changes)
    with pytest.raises(BadTransaction, match=r"letters of one script|looks like|no currency|plain decimal"):
        await store.write(lambda c: balances.apply(c, odd))
    found = await store.read(lambda c: balances.accounts(c, after="", limit=9))
    assert [(one["account"], one["balances"]) for one in found] == [
        ("alice", {"AZR": "1.00"}),
        ("bob", {"AZR": "-1.00"}),
    ]
    await store.stop()


async def test_no_balance_passes_its_limit(url: str) -> None:
    store = Store(url, *balances.TABLES)
    await store.start()
    data = {"from": "bob", "to": "alice", "amount": "999999999999.99", "currency": "AZR", "recorded_at": "2"}
    steps = [
        CloudEvent(id=f"e{step}", source="covenant", type="", time=0.0, data=data | {"id": f"t{step}", "height": step})
        for step in range(101)
    ]
    for step in steps[:100]:
        await store.write(lambda c, event=step: balances.apply(c, event))
    with pytest.raises(BadTransaction, match="limit"):
        await store.write(lambda c: balances.apply(c, steps[100]))
    assert await store.read(balances.totals) == {"AZR": "0.00"}
    await store.stop()
