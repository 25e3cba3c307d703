"""What a consumer's store promises (services/kit/events/consumer.py), on each database that a service may run on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from services.kit import inbox as kit
from services.kit import parked
from services.kit.events.cloudevent import CloudEvent, encode
from services.kit.events.inbox import Kept
from services.kit.events.lanes import Outcome, Park
from services.kit.events.retry import Away, Permanent
from services.kit.events.transport.base import Delivery
from services.kit.inbox import INBOX, SqlInbox
from services.kit.lives import MAX_LIVES
from services.kit.store import Migration, Store, Tables
from tests.stores import postgres, url

__all__ = ["postgres", "url"]

SEEN = Tables("seen", Migration("CREATE TABLE seen (id {serial}, event_id TEXT NOT NULL)"))
TABLES = (INBOX, SEEN)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = Store(url, *TABLES)
    await made.start()
    yield made
    await made.stop()


def delivery(name: str, attempt: int = 1, **changes: Any) -> Delivery:
    """``a3`` is the third event of key a."""
    given = {"partition_key": name[0], "sequence": int(name[1:])} | changes
    event = CloudEvent(name, "t.thing.done", "tests", time.time(), {}, **given)
    return Delivery("t", 0, name, attempt, b"", event)


def deliveries(*names: str) -> list[Delivery]:
    return [delivery(name) for name in names]


def note(connection: Connection, event: CloudEvent) -> None:
    connection.execute(text("INSERT INTO seen (event_id) VALUES (:id)"), {"id": event.id})


def failing(failures: dict[str, Exception]) -> Callable[[Connection, CloudEvent], None]:
    """Does its work, and then fails on some."""

    def handler(connection: Connection, event: CloudEvent) -> None:
        note(connection, event)
        if event.id in failures:
            raise failures[event.id]

    return handler


async def seen(store: Store) -> list[str]:
    query = text("SELECT event_id FROM seen ORDER BY id")
    return await store.read(lambda c: [row.event_id for row in c.execute(query)])


async def column(store: Store, query: str) -> list[Any]:
    return await store.read(lambda c: [row[0] for row in c.execute(text(query))])


def what(outcomes: list[Outcome]) -> list[str]:
    return [outcome.what for outcome in outcomes]


def park(one: Delivery, kind: str = "ValueError", *, permanent: bool = False) -> Park:
    return Park(one, 5, 3.0, Outcome("failed", "no", kind, permanent))


async def test_each_event_has_its_effect_once_and_in_order(store: Store) -> None:
    inbox = SqlInbox(store, "g", note)
    batch = deliveries("a1", "b1", "a2")
    assert what(await inbox.handle(batch, careful=False)) == ["handled"] * 3
    assert what(await inbox.handle([*batch, delivery("a3")], careful=False)) == ["duplicate"] * 3 + ["handled"]
    assert await seen(store) == ["a1", "b1", "a2", "a3"]
    assert what(await SqlInbox(store, "other", note).handle(batch, careful=False)) == ["handled"] * 3


async def test_one_that_fails_undoes_itself_alone_and_holds_its_key(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("not now"), "c1": Permanent("never")}
    inbox = SqlInbox(store, "g", failing(failures))
    outcomes = await inbox.handle(deliveries("a1", "b1", "a2", "c1", "b2"), careful=False)
    assert what(outcomes) == ["failed", "handled", "held", "failed", "handled"]
    assert outcomes[0] == Outcome("failed", "not now", "ValueError")
    assert outcomes[3] == Outcome("failed", "never", "Permanent", permanent=True)
    assert await seen(store) == ["b1", "b2"]
    failures.clear()
    assert what(await inbox.handle(deliveries("a1", "a2"), careful=False)) == ["handled"] * 2


HOWEVER: dict[str, Callable[[Connection], Any]] = {
    "not at all": lambda connection: None,
    "said": lambda connection: connection.exec_driver_sql("INSERT INTO seen (event_id) VALUES ('b1')"),
    "past SQLAlchemy": lambda connection: connection.connection.cursor().execute(
        "INSERT INTO seen (event_id) VALUES ('b1')"
    ),
    "a table": lambda connection: connection.exec_driver_sql("CREATE TABLE made (id INTEGER)"),
}


@pytest.mark.parametrize("how", HOWEVER)
async def test_what_a_handler_did_stays_when_the_next_one_is_undone_however_it_was_done(store: Store, how: str) -> None:
    def handler(connection: Connection, event: CloudEvent) -> None:
        if event.id == "b1":
            HOWEVER[how](connection)
        elif event.id != "a1":
            note(connection, event)
            raise ValueError("not now")

    outcomes = await SqlInbox(store, "g", handler).handle(deliveries("a1", "b1", "c1", "d1"), careful=False)
    assert what(outcomes) == ["handled", "handled", "failed", "failed"]
    assert await seen(store) == (["b1"] if how in {"said", "past SQLAlchemy"} else [])
    if how == "a table":
        assert await column(store, "SELECT id FROM made") == []


async def test_what_was_put_behind_a_parked_one_stays_when_the_next_is_undone(store: Store) -> None:
    failures: dict[str, Exception] = {"b1": ValueError("not now")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.park(park(delivery("a1")))
    outcomes = await inbox.handle(deliveries("c1", "a2", "b1", "a3", "b2"), careful=False)
    assert what(outcomes) == ["handled", "parked", "failed", "parked", "held"]
    assert await column(store, "SELECT event_id FROM parked ORDER BY id") == ["a1", "a2", "a3"]
    assert await seen(store) == ["c1"]


async def test_a_fault_of_the_database_is_nobodys_failure(store: Store) -> None:
    fault = OperationalError("INSERT", {}, Exception("disk full"))
    inbox = SqlInbox(store, "g", failing({"a2": fault}))
    with pytest.raises(Away):
        await inbox.handle(deliveries("a1", "a2"), careful=False)
    assert await seen(store) == [] == await column(store, "SELECT event_id FROM inbox")


async def test_a_batch_ends_when_its_time_is_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "SPENDS_S", 0.0)
    inbox = SqlInbox(store, "g", note)
    assert what(await inbox.handle(deliveries("a1", "a2", "a3"), careful=False)) == ["handled", "later", "later"]


async def test_what_follows_a_parked_event_is_parked_behind_it_and_resumed_in_order(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    first, second, other = deliveries("a1", "a2", "b1")
    await inbox.park(park(first))
    assert what(await inbox.handle([second, other], careful=False)) == ["parked", "handled"]
    # Delivered again: it is a row already.
    assert what(await inbox.handle([first, second], careful=False)) == ["parked"] * 2
    assert await inbox.kept() == Kept(parked=2)
    assert 0 < await inbox.resume() <= kit.AGAIN.first_s
    await inbox.begin()
    assert await inbox.resume() == 0.0
    assert await seen(store) == ["b1"] and await column(store, "SELECT tries FROM parked ORDER BY id") == [6, 0]
    assert await inbox.resume() > 0, "it failed again"
    failures.clear()
    await inbox.begin()
    while await inbox.resume() == 0.0:
        pass
    assert await seen(store) == ["b1", "a1", "a2"] and await inbox.kept() == Kept()
    assert what(await inbox.handle(deliveries("a1", "a2", "a3"), careful=False)) == ["duplicate"] * 2 + ["handled"]


async def test_events_without_a_key_wait_for_nobody(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({"x1": Permanent("no")}))
    loose = [delivery("x1", partition_key=""), delivery("x2", partition_key="")]
    assert what(await inbox.handle(loose, careful=False)) == ["failed", "handled"]
    await inbox.park(park(loose[0]))
    assert what(await inbox.handle([delivery("x3", partition_key="")], careful=False)) == ["handled"]


async def test_an_event_that_several_lives_ended_with_is_told_from_those_beside_it(store: Store) -> None:
    batch = deliveries("b1", "a1", "b2")
    for _ in range(MAX_LIVES):
        # A life that notes what it is about to handle, and is no more.
        life = SqlInbox(store, "g", note)
        await store.write(lambda c, life=life: life.lives.choose(c, [("tests", "a1")]))
    inbox = SqlInbox(store, "g", note)
    assert what(await inbox.handle(batch, careful=True)) == ["handled", "later", "later"]
    outcomes = await inbox.handle(batch[1:], careful=True)
    assert what(outcomes) == ["failed", "later"] and outcomes[0].permanent and outcomes[0].kind == "ProcessDied"
    await inbox.park(Park(batch[1], 1, 0.0, outcomes[0]))
    assert what(await inbox.handle(batch[2:], careful=True)) == ["handled"]
    await inbox.begin()
    assert await inbox.resume() == float("inf"), "it waits for somebody's word"
    assert await column(store, "SELECT event_id FROM trying") == []


async def test_a_database_that_went_away_is_no_life_that_ended(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": OperationalError("INSERT", {}, Exception("disk full"))}
    inbox = SqlInbox(store, "g", failing(failures))
    for _ in range(MAX_LIVES + 2):
        with pytest.raises(Away):
            await inbox.handle(deliveries("a1"), careful=True)
    failures.clear()
    assert what(await inbox.handle(deliveries("a1"), careful=True)) == ["handled"]


async def test_a_parked_event_that_ends_the_process_is_not_tried_at_every_start(store: Store) -> None:
    await SqlInbox(store, "g", note).park(park(delivery("a1")))
    for _ in range(MAX_LIVES):
        life = SqlInbox(store, "g", note)
        await life.begin()
        (identity,) = await column(store, "SELECT id FROM parked")
        assert await store.write(lambda c, life=life, identity=identity: life._begin_parked(c, identity))
    inbox = SqlInbox(store, "g", note)
    await inbox.begin()
    await inbox.resume()
    assert await inbox.resume() == float("inf") and await seen(store) == []
    assert await column(store, "SELECT kind FROM parked") == ["ProcessDied"]


async def test_two_members_resume_a_parked_event_once(store: Store, url: str) -> None:
    other = Store(url, *TABLES)
    await other.start()
    members = [SqlInbox(store, "g", note), SqlInbox(other, "g", note)]
    for number in range(1, 11):
        await members[0].park(park(delivery(f"a{number}")))
    for member in members:
        await member.begin()
    for _ in range(40):
        await asyncio.gather(*(member.resume() for member in members))
    assert await seen(store) == [f"a{number}" for number in range(1, 11)]
    await other.stop()


async def test_what_is_no_event_is_kept_as_a_row_up_to_a_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "MAX_ODD", 2)
    inbox = SqlInbox(store, "g", note)
    odd = [Delivery("t", 0, str(number), 1, b"\x00\xff{", None, "not JSON") for number in range(3)]
    assert await inbox.put_aside(odd[:1]) == [True]
    assert await inbox.put_aside([odd[0]]) == [True], "it is there"
    assert await inbox.put_aside(odd[1:]) == [True, False]
    assert await inbox.put_aside(odd[:1]) == [False]
    assert await inbox.kept() == Kept(odd=2)
    await inbox.begin()
    assert await inbox.resume() == float("inf")


async def test_a_forged_event_is_a_row_that_no_handler_ever_sees(store: Store) -> None:
    inbox = SqlInbox(store, "g", note)
    body = encode(CloudEvent("a1", "t.thing.done", "tests", time.time(), {}, partition_key="a"))
    assert await inbox.put_aside([Delivery("t", 0, "1", 1, body, None, "not signed", forged=True)]) == [True]
    assert await inbox.kept() == Kept(forged=1)
    assert await column(store, "SELECT kind || ': ' || reason FROM parked") == ["forged: not signed"]
    await inbox.begin()
    # Whatever somebody makes due: it is nobody's event.
    await store.write(lambda c: c.execute(text("UPDATE parked SET due = 0")).rowcount)
    await inbox.resume()
    assert await seen(store) == [] and await inbox.kept() == Kept(forged=1)
    # And its key is not blocked by it.
    assert what(await inbox.handle(deliveries("a1"), careful=False)) == ["handled"]


async def test_what_can_not_be_parked_any_more_waits_with_the_broker(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "MAX_PARKED", 1)
    inbox = SqlInbox(store, "g", note)
    await inbox.park(park(delivery("a1")))
    await inbox.kept()
    with pytest.raises(Away, match="parked already"):
        await inbox.handle(deliveries("a2"), careful=False)
    assert what(await inbox.handle(deliveries("b1"), careful=False)) == ["handled"]


async def test_a_number_that_never_came_is_missing_until_it_comes(store: Store) -> None:
    failures: dict[str, Exception] = {"a4": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures), gapless=True)
    await inbox.handle(deliveries("a1", "a2", "a4", "b1"), careful=False)
    assert (await inbox.kept()).missing == 0, "a4 has not come yet: it failed"
    await inbox.park(park(delivery("a4")))
    await inbox.handle(deliveries("a6"), careful=False)
    assert await inbox.kept() == Kept(parked=2, missing=2)
    await inbox.handle(deliveries("a3"), careful=False)
    assert (await inbox.kept()).missing == 1
    await inbox.handle(deliveries("a5", "c3"), careful=False)
    assert (await inbox.kept()).missing == 2, "c1 and c2, for it asked for the whole log"
    late = SqlInbox(store, "late", note, gapless=True, from_the_first=False)
    await late.handle(deliveries("c3", "c4"), careful=False)
    assert (await late.kept()).missing == 0


async def test_one_that_fails_among_many_leaves_nothing_and_takes_nothing_with_it(store: Store) -> None:
    failures: dict[str, Exception] = {"k5": ValueError("half done")}
    runs: list[str] = []
    work = failing(failures)

    def handler(connection: Connection, event: CloudEvent) -> None:
        runs.append(event.id)
        work(connection, event)

    inbox = SqlInbox(store, "g", handler, gapless=True)
    # Eight keys, eight events each; the last comes twice in its batch.
    names = [f"{key}{number}" for number in range(1, 9) for key in "hijklmno"]
    batch = [*deliveries(*names), delivery("o8", 2)]
    behind = ["k6", "k7", "k8"]
    expected = {"k5": "failed", **dict.fromkeys(behind, "held")}
    outcomes = await inbox.handle(batch, careful=False)
    assert what(outcomes) == [expected.get(name, "handled") for name in names] + ["duplicate"]
    good = [name for name in names if name not in expected]
    assert runs == [name for name in names if name not in behind], "nobody is run twice for another's fault"
    assert await seen(store) == good
    assert sorted(await column(store, "SELECT event_id FROM inbox")) == sorted(good)
    assert await column(store, "SELECT last FROM heard WHERE key = 'k'") == [4]
    failures.clear()
    assert what(await inbox.handle(deliveries("k5", *behind), careful=False)) == ["handled"] * 4
    assert what(await inbox.handle(batch, careful=False)) == ["duplicate"] * 65
    assert await seen(store) == [*good, "k5", *behind]


async def test_what_a_batch_had_no_time_for_is_handled_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "SPENDS_S", 0.0)
    inbox = SqlInbox(store, "g", note)
    batch = deliveries("a1", "a2", "b1")
    for number in range(3):
        assert what(await inbox.handle(batch[number:], careful=False))[0] == "handled"
    assert await seen(store) == ["a1", "a2", "b1"]


async def test_a_handler_that_passes_over_a_fault_of_its_statement_blocks_nobody(store: Store) -> None:
    def handler(connection: Connection, event: CloudEvent) -> None:
        note(connection, event)
        if event.id == "a1":
            with contextlib.suppress(IntegrityError):
                connection.execute(text("INSERT INTO seen (event_id) VALUES (NULL)"))

    inbox = SqlInbox(store, "g", handler)
    outcomes = await inbox.handle(deliveries("b1", "a1", "b2"), careful=False)
    # PostgreSQL takes nothing more after a fault: the event can't be kept. SQLite forgets the one statement.
    whole = outcomes[1].what == "handled"
    assert whole or (outcomes[1].what, outcomes[1].kind) == ("failed", "InternalError")
    assert what([outcomes[0], outcomes[2]]) == ["handled"] * 2
    assert await seen(store) == (["b1", "a1", "b2"] if whole else ["b1", "b2"])


@pytest.mark.postgres
async def test_a_connection_that_is_cut_between_two_events_is_a_database_that_is_away(postgres: str) -> None:
    store, other = Store(postgres, *TABLES), Store(postgres, *TABLES)
    await store.start()
    await other.start()
    kill = text("SELECT pg_terminate_backend(:pid, 5000)")
    cut = True

    def handler(connection: Connection, event: CloudEvent) -> None:
        note(connection, event)
        if event.id == "a2" and cut:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            asyncio.run_coroutine_threadsafe(other.read(lambda c: c.execute(kill, {"pid": pid}).all()), loop).result(9)

    loop = asyncio.get_running_loop()
    inbox = SqlInbox(store, "g", handler)
    batch = deliveries("a1", "a2", "a3")
    with pytest.raises(Away):
        await inbox.handle(batch, careful=False)
    assert await seen(store) == []
    cut = False
    assert what(await inbox.handle(batch, careful=False)) == ["handled"] * 3
    assert await seen(store) == ["a1", "a2", "a3"]
    await store.stop()
    await other.stop()
