"""What the archive promises, on either database: each event of others once, in its stream, or put aside and counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection

from apps.events import queries, sequencer, tasks
from apps.events.actions import publish
from apps.events.archive import inbox
from apps.events.archive.models import Aside
from apps.events.models import Event, Stream, foreign_stream
from services.kit.events.cloudevent import CloudEvent, decode, encode
from services.kit.events.inbox import Kept
from services.kit.events.transport.base import Delivery

pytestmark = pytest.mark.django_db(transaction=True)

TYPE = "business.order.placed"
LAST = 2**63 - 1


def event(number: int, *, id: str = "", **changes: Any) -> CloudEvent:
    given = {"partition_key": "42", "sequence": number, "data": {"n": number}, "source": "orders"} | changes
    return CloudEvent(id or f"e{number}", TYPE, given.pop("source"), time.time(), given.pop("data"), **given)


def delivery(one: CloudEvent) -> Delivery:
    raw = encode(one)
    return Delivery("business", 0, "7-0", 1, raw, decode(raw))


def take(*events: CloudEvent) -> list[str]:
    return [outcome.what for outcome in inbox.take([delivery(one) for one in events])]


def reasons() -> list[str]:
    return list(Aside.objects.order_by("pk").values_list("reason", flat=True))


def log() -> list[Event]:
    while sequencer.number():
        pass
    return queries.following(0, limit=1000).events


def test_events_of_others_are_in_the_log_as_they_were_published() -> None:
    publish("system.thing.done", {})
    given = event(
        1,
        data=[None, 1.5, {"a": "é"}],
        subject="order/42",
        causation_id="c",
        correlation_id="r",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        dataschema=f"urn:mission-control:schema:{TYPE}:3",
        extensions={"region": "eu", "retry": 3, "vip": True},
    )
    assert take(given, event(2), event(3, data=None)) == ["handled"] * 3
    rows = log()
    assert [(row.position, row.stream, row.version) for row in rows[1:]] == [
        (2, "@orders/42", 1),
        (3, "@orders/42", 2),
        (4, "@orders/42", 3),
    ]
    back = rows[1].as_cloudevent()
    assert abs(back.time - given.time) < 0.001
    assert (back.id, back.data, back.extensions, back.dataschema) == (
        given.id,
        given.data,
        given.extensions,
        given.dataschema,
    )
    assert (back.partition_key, back.sequence, back.correlation_id, back.causation_id) == ("42", 1, "r", "c")
    assert (rows[1].schema_version, rows[3].data) == (3, None)
    assert not hasattr(rows[1], "outbox")


def test_a_repeat_does_nothing_and_another_body_is_refused() -> None:
    large = event(2, data={"big": 1e300, "small": 1e-300, "whole": 10**18, "real": 2.0})
    assert take(event(1), event(1), large) == ["handled", "duplicate", "handled"]
    assert take(event(1), large) == ["duplicate", "duplicate"]
    forged = event(1, data={"n": 1_000_000})
    assert take(forged, event(3)) == ["parked", "handled"]
    assert take(forged) == ["parked"]
    assert [(row.reason, row.event_id, row.times) for row in Aside.objects.all()] == [("other_body", "e1", 2)]
    assert [row.data["n"] for row in log() if "n" in row.data] == [1, 3]
    assert inbox.kept() == Kept(parked=1)


def test_the_same_id_of_two_publishers_is_two_events() -> None:
    assert take(event(1), event(1, source="bills")) == ["handled", "handled"]
    assert {row.source for row in log()} == {"orders", "bills"}


def test_a_number_that_is_taken_is_put_aside() -> None:
    """As a publisher does whose database was restored to yesterday: the same numbers, other events."""
    assert take(event(1), event(2), event(3)) == ["handled"] * 3
    assert take(event(2, id="again-2"), event(3, id="again-3"), event(4)) == ["parked", "parked", "handled"]
    assert take(event(5), event(5, id="within one batch")) == ["handled", "parked"]
    assert reasons() == ["number_taken"] * 3
    assert [row.version for row in log()] == [1, 2, 3, 4, 5]


def test_events_without_a_number_get_the_next_and_those_without_a_key_are_kept_too() -> None:
    assert take(event(0, id="a"), event(0, id="b"), event(0, id="c", partition_key="")) == ["handled"] * 3
    assert [(row.stream, row.version) for row in log()] == [("@orders/42", 1), ("@orders/42", 2), ("@orders/", 1)]
    assert [row.as_cloudevent().sequence for row in log()] == [0, 0, 0]
    assert [row.as_cloudevent().partition_key for row in log()] == ["42", "42", ""]


def test_our_own_are_in_the_log_already() -> None:
    mine = publish("system.thing.done", {})
    assert take(mine.as_cloudevent(), event(1, source="mission-control", id="forged")) == ["duplicate", "duplicate"]
    assert len(log()) == 1


def test_holes_are_known_and_close() -> None:
    take(event(3), event(4), event(9))
    assert inbox.kept().missing == 6
    take(event(1), event(2), event(7))
    stream = Stream.objects.get(name="@orders/42")
    assert (stream.version, stream.holes, stream.missing) == (9, [[5, 6], [8, 8]], 3)
    take(event(5), event(6), event(8))
    assert (inbox.kept().missing, len(log())) == (0, 9)


def test_a_number_beyond_belief_makes_no_hole() -> None:
    assert take(event(1), event(LAST, id="far"), event(2)) == ["handled", "parked", "handled"]
    assert take(event(LAST, id="first", partition_key="new"), event(0, id="next", partition_key="new")) == [
        "handled",
        "parked",
    ]
    assert reasons() == ["number_jumps", "number_jumps"]
    assert inbox.kept().missing == 0


@pytest.mark.parametrize("character", ["a", "/", "\N{SNOWMAN}", "\N{GRINNING FACE}"])
def test_the_longest_names_fit(character: str) -> None:
    long = character * 256
    assert take(event(1, source=long, partition_key=long, subject=long, id=long)) == ["handled"]
    assert log()[0].as_cloudevent().partition_key == long
    assert log()[0].stream == foreign_stream(long, long)


def test_what_no_database_can_hold_is_put_aside_and_holds_up_nobody() -> None:
    first = b'{"specversion":"1.0","id":"e","type":"a.b.c","source":"s","time":"0001-01-01T00:00:00Z"}'
    old = Delivery("a", 0, "1", 1, first, decode(first))
    odd = delivery(event(1, data={"nul": "\0"}))
    assert [one.what for one in inbox.take([odd, old, delivery(event(2))])] == ["parked", "handled", "handled"]
    assert reasons() == ["unstorable"]


async def test_an_entry_that_is_no_event_is_a_row_and_the_rows_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(inbox, "MAX_ASIDE", 3)
    here = inbox.ArchiveInbox()
    kept = await here.put_aside([Delivery("t", 0, str(n), 1, b"\0\xff" * n, None, "not JSON") for n in range(5)])
    assert kept == [True, True, True, False, False]
    assert await here.kept() == Kept(odd=3)


def test_two_archives_of_one_bus_store_each_event_once() -> None:
    batches = [[event(n, partition_key=str(n % 5), id=f"{n}") for n in range(k, k + 20)] for k in range(1, 200, 10)]
    go = threading.Barrier(4)

    def work(order: int) -> None:
        go.wait(20)
        try:
            for batch in batches if order % 2 else batches[::-1]:
                while True:
                    try:
                        take(*batch)
                        break
                    except IntegrityError:
                        continue
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(int(row.event_id) for row in log()) == list(range(1, 211))
    assert [row.position for row in log()] == list(range(1, 211))
    assert reasons() == []


def test_retention_takes_them_like_ours(settings: Any) -> None:
    take(event(1), CloudEvent("old", TYPE, "orders", time.time() - 400 * 86400, {}, partition_key="42", sequence=2))
    log()
    settings.EVENT_DAYS = 30
    tasks.prune()
    assert [row.event_id for row in log()] == ["e1"]


def test_by_hand_it_is_said_what_the_publishers_have_no_more_of(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MC_FLEET_TOKEN", "for the fleet")
    call_command("events", "repair")
    assert "0 events were fetched" in capsys.readouterr().out
    take(event(1), event(4), event(2, partition_key="7"))
    with pytest.raises(CommandError, match="no more of it"):
        call_command("events", "repair", "--source", "orders", "--key", "42")
    assert "still missing: orders, key '42', numbers 2 to 3\n" in capsys.readouterr().out
    call_command("events", "repair", "--source", "bills")
