"""What parked rows tell Mission Control, and what its operators' words do to them, on each database of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.kit.env import ROOT
from services.kit.events import contracts
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.inbox import Kept
from services.kit.events.lanes import Outcome, Park
from services.kit.events.reporting import DISCARD, PARKED, REDRIVE, REPLACE, RESOLVED, Command
from services.kit.events.retry import Permanent
from services.kit.events.transport.base import Delivery
from services.kit.inbox import MAX_LIVES, SqlInbox
from services.kit.store import Store
from tests.contract.test_inbox import TABLES, column, deliveries, delivery, failing, park, seen, what
from tests.stores import postgres, url

__all__ = ["postgres", "url"]


promised = contracts.read(ROOT / "services" / "kit" / "schemas")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = Store(url, *TABLES)
    await made.start()
    yield made
    await made.stop()


async def tell(inbox: SqlInbox) -> list[tuple[str, dict[str, Any]]]:
    """Everything that is untold, told."""
    said = []
    while reports := await inbox.rows.untold(2):
        for report in reports:
            assert promised.promised(report.type, report.data), f"{report.type} has no schema"
        said += [(report.type, report.data) for report in reports]
        await inbox.rows.told(reports)
    return said


def of(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple(("tests", name) for name in names)


async def test_each_row_is_told_once_and_again_when_it_changes(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.park(Park(delivery("a1"), 5, 3.0, Outcome("failed", "no", "ValueError", stack="File x, line 1")))
    await inbox.handle(deliveries("a2", "a3", "b1"), careful=False)
    said = await tell(inbox)
    assert [(kind, data["event_id"], data["state"]) for kind, data in said] == [
        (PARKED, "a1", "failed"),
        (PARKED, "a2", "parked"),
        (PARKED, "a3", "parked"),
    ]
    first = said[0][1]
    assert (first["type"], first["key"], first["tries"], first["stack"]) == ("t.thing.done", "a", 5, "File x, line 1")
    assert (first["topic"], first["partition"], first["position"], first["body"]) == ("t", 0, "a1", "")
    assert await tell(inbox) == []
    await inbox.begin()
    await inbox.resume()
    [(_, again)] = await tell(inbox)
    assert (again["event_id"], again["tries"]) == ("a1", 6) and "failing" not in again["reason"]
    assert "ValueError: no" in again["stack"] and "test_inbox.py" in again["stack"]


async def test_what_was_told_and_ended_is_told_to_have_ended(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.park(park(delivery("a1")))
    await inbox.park(park(delivery("b1")))
    reports = await inbox.rows.untold(1)
    assert [one.data["event_id"] for one in reports] == ["a1"], "and the process is killed before it hears that"
    failures.clear()
    await inbox.begin()
    while await inbox.resume() == 0.0:
        pass
    said = await tell(inbox)
    assert [(kind, data["event_id"], data["how"]) for kind, data in said] == [(RESOLVED, "a1", "handled")]
    assert await tell(inbox) == [], "b1 came and went unseen"


async def test_a_report_has_one_name_however_often_it_is_made(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({}))
    await inbox.park(park(delivery("a1")))
    first, second = await inbox.rows.untold(9), await inbox.rows.untold(9)
    assert [(one.name, one.version) for one in first] == [(one.name, one.version) for one in second]


async def test_each_change_has_a_greater_number_than_the_one_before_and_the_end_has_the_greatest(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.park(park(delivery("a1")))
    [first] = await inbox.rows.untold(9)
    await inbox.begin()
    [due] = await inbox.rows.untold(9)
    assert due.data["due"] == 0.0, "it says something else than the first, and neither was told"
    await inbox.resume()
    [again] = await inbox.rows.untold(9)
    failures.clear()
    assert await inbox.rows.obey(Command(REDRIVE, of("a1"))) == 1
    await inbox.resume()
    [end] = await inbox.rows.untold(9)
    assert end.type == RESOLVED
    numbers = [(one.data["first_at"], one.data["row"], one.data["changed"]) for one in (first, due, again, end)]
    assert numbers == sorted(set(numbers)) and len({number[:2] for number in numbers}) == 1


async def test_a_word_about_what_is_not_there_is_answered(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": ValueError("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.handle(deliveries("b1"), careful=False)
    assert await inbox.rows.obey(Command(REDRIVE, of("b1", "never"))) == 0
    await inbox.park(park(delivery("a1")))
    first = await inbox.rows.untold(9)
    assert [(one.data["event_id"], one.data.get("how")) for one in first] == [
        ("a1", None),
        ("b1", "handled"),
        ("never", "unknown"),
    ]
    assert await inbox.rows.obey(Command(DISCARD, of("never"))) == 0
    said = await tell(inbox)
    assert [data["event_id"] for _, data in said] == ["a1", "b1", "never", "never"]
    assert len({(data["event_id"], data["first_at"]) for _, data in said}) == 4, "another answer has another name"


async def test_what_is_no_event_is_told_with_its_text(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({}))
    odd = Delivery("t", 3, "7-0", 1, b"\x00\xff{", None, "not JSON")
    await inbox.put_aside([odd, Delivery("t", 3, "8-0", 1, b"{}", None, "not signed", True)])
    (_, odd), (_, forged) = await tell(inbox)
    assert (odd["kind"], odd["event_id"], odd["source"], odd["due"]) == ("odd", "t/3/7-0", "", None)
    assert "\0" not in odd["body"] and odd["reason"] == "not JSON" and forged["kind"] == "forged"
    assert await inbox.rows.obey(Command(REDRIVE, (("", "t/3/7-0"),))) == 1
    assert await inbox.resume() == float("inf"), "there is nothing to try"
    assert await inbox.rows.obey(Command(DISCARD, (("", "t/3/7-0"), ("", "t/3/8-0")))) == 2
    assert await inbox.kept() == Kept()
    assert [data["how"] for _, data in await tell(inbox)] == ["discarded"] * 2


async def test_a_word_to_redrive_tries_at_once_and_what_is_behind_follows(store: Store) -> None:
    failures: dict[str, Exception] = {"a1": Permanent("no")}
    inbox = SqlInbox(store, "g", failing(failures))
    await inbox.park(park(delivery("a1"), permanent=True))
    await inbox.handle(deliveries("a2"), careful=False)
    assert await inbox.resume() > 60
    failures.clear()
    assert await inbox.rows.obey(Command(REDRIVE, of("a1", "nobody"))) == 1
    while await inbox.resume() == 0.0:
        pass
    assert await seen(store) == ["a1", "a2"]
    assert await inbox.rows.obey(Command(REDRIVE, of("a1"))) == 0, "said again it does nothing"


async def test_what_ended_the_process_is_freed_by_an_operators_word_and_kept_from_doing_so_for_ever(
    store: Store,
) -> None:
    inbox = SqlInbox(store, "g", failing({}))
    outcome = Outcome("failed", "it ended the process 3 times", "ProcessDied", True)
    await inbox.park(Park(delivery("a1"), 1, 0.0, outcome))
    await inbox.begin()
    assert await inbox.resume() == float("inf")
    assert (await tell(inbox))[0][1]["kind"] == "ProcessDied"
    await inbox.rows.obey(Command(REDRIVE, of("a1")))
    for _ in range(MAX_LIVES):
        life = SqlInbox(store, "g", failing({}))
        await life.begin()
        [identity] = await column(store, "SELECT id FROM parked")
        assert await store.write(lambda c, life=life, identity=identity: life._begin_parked(c, identity))
    last = SqlInbox(store, "g", failing({}))
    await last.begin()
    await last.resume()
    assert await last.resume() == float("inf") and await column(store, "SELECT kind FROM parked") == ["ProcessDied"]


async def test_a_word_to_discard_ends_it_for_good_and_frees_its_key(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({"a1": ValueError("no")}))
    await inbox.park(park(delivery("a1")))
    await inbox.handle(deliveries("a2"), careful=False)
    await inbox.rows.obey(Command(DISCARD, of("a1")))
    while await inbox.resume() == 0.0:
        pass
    assert await seen(store) == ["a2"]
    assert what(await inbox.handle(deliveries("a1"), careful=False)) == ["duplicate"], "the broker delivers it again"


async def test_an_edited_event_takes_the_place_of_the_one_that_failed(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({"a1": Permanent("no")}))
    await inbox.park(park(delivery("a1"), permanent=True))
    await inbox.handle(deliveries("a2"), careful=False)
    await tell(inbox)
    edited = CloudEvent("new", "t.thing.done", "tests", 1.0, {"edited": True}, partition_key="a", causation_id="a1")
    command = Command(REPLACE, of("a1"), edited)
    assert [await inbox.rows.obey(command), await inbox.rows.obey(command)] == [1, 0]
    while await inbox.resume() == 0.0:
        pass
    assert await seen(store) == ["new", "a2"]
    ended = [(data["event_id"], data["how"]) for kind, data in await tell(inbox) if kind == RESOLVED]
    assert ("a1", "replaced") in ended and await inbox.kept() == Kept()
    assert what(await inbox.handle(deliveries("a1"), careful=False)) == ["duplicate"]


async def test_nobody_elses_event_takes_the_place_of_one(store: Store) -> None:
    inbox = SqlInbox(store, "g", failing({}))
    await inbox.park(park(delivery("a1")))
    await inbox.rows.obey(Command(REPLACE, of("a1"), CloudEvent("new", "t.thing.done", "other", 1.0, {})))
    assert await column(store, "SELECT event_id FROM parked") == ["a1"]
