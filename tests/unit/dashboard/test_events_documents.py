"""How documents, differences, trees and ways are drawn, without a browser or a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from apps.dashboard.events import charts, document, flow, hops, lineage, links
from apps.dashboard.judge.readings import Waiting
from apps.events.models import Event
from services.kit.events.schema import Fault

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def event(number: int, cause: str = "", seconds: float = 0.0, work: str = "w") -> Event:
    return Event(
        pk=number,
        event_id=f"e{number}",
        source="shop",
        type="shop.order.placed",
        time=NOON + timedelta(seconds=seconds),
        causation_id=cause,
        correlation_id=work,
    )


def test_a_fault_stands_beside_the_line_that_it_is_about() -> None:
    faults = (Fault("/items/1/price", "type", "a number is expected"), Fault("", "required", "id is missing"))
    drawn = document.lines({"items": [{"price": 1}, {"price": "x"}], "a/b": None}, faults)
    marked = {line.text: line.fault for line in drawn if line.fault}
    assert marked == {"{": "id is missing", '"price": "x"': "a number is expected"}
    assert [line.text for line in drawn if line.pointer == "/a~1b"] == ['"a/b": null']
    assert (
        "\n".join(line.text for line in document.lines({"a": {"": [], "b": {}}})) == '{\n"a": {\n"": [],\n"b": {}\n}\n}'
    )


def test_a_fault_at_what_is_not_drawn_is_told_at_the_top() -> None:
    drawn = document.lines({"a": 1}, (Fault("/gone", "x", "must be there"),))
    assert "must be there" in drawn[0].fault and "/gone" in drawn[0].fault


def test_a_huge_document_is_drawn_up_to_a_bound() -> None:
    assert len(document.lines(list(range(1_000_000)))) == document.MOST_LINES + 1
    assert len(document.lines("x" * 1_000_000)[0].text) < document.LONGEST + 50


def test_a_difference_names_each_place_and_true_is_not_one() -> None:
    found = document.diff({"a": 1, "b": [1, 2], "c": {"d": 1}, "e": 0}, {"a": True, "b": [1], "c": {"d": 1}, "f": "x"})
    assert [(one.pointer, one.kind) for one in found] == [
        ("/a", "changed"),
        ("/b/1", "removed"),
        ("/e", "removed"),
        ("/f", "added"),
    ]
    assert document.diff({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []


def test_a_tree_begins_at_the_first_cause_and_marks_where_we_are() -> None:
    first, second, third = event(1), event(2, "e1", 1.5), event(3, "e2", 2.0)
    other = event(4)
    tree = lineage.grow(second, [third, second, first, other])
    assert [(node.level, node.event and node.event.event_id, node.here) for node in tree.nodes] == [
        (0, "e1", False),
        (1, "e2", True),
        (2, "e3", False),
    ]
    assert tree.nodes[1].gap_s == pytest.approx(1.5)
    assert [one.event_id for one in tree.beside] == ["e4"]


def test_events_that_cause_each_other_in_a_circle_are_drawn_once() -> None:
    ring = [event(1, "e3"), event(2, "e1"), event(3, "e2")]
    tree = lineage.grow(ring[0], ring)
    assert sorted(node.event.event_id for node in tree.nodes if node.event) == ["e1", "e2", "e3"]
    itself = event(9, "e9")
    assert len(lineage.grow(itself, [itself]).nodes) == 1


def test_a_cause_that_is_lost_is_told() -> None:
    one = event(1, "long-gone")
    tree = lineage.grow(one, [one], "long-gone")
    assert (tree.nodes[0].lost, tree.nodes[1].level) == ("long-gone", 1)


def test_a_way_is_timed_from_the_record() -> None:
    span: Any = SimpleNamespace(
        service="mint",
        started_at=100.25,
        duration_ms=3.0,
        status="Error",
        status_message="no such account",
        attributes={
            "messaging.message.id": "e1",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "mint",
        },
    )
    assert hops.handling([span], "e1") == [span] and hops.handling([span], "e2") == []
    way = hops.hops(100.0, 7, hops.Sending("shop", 100.02, 3, ""), [span])
    assert [(hop.title, hop.state, hop.after_ms and round(hop.after_ms)) for hop in way] == [
        ("Recorded", "healthy", 0.0),
        ("In the log", "healthy", None),
        ("On the bus", "healthy", 20),
        ("Handled by mint", "failing", 250),
    ]
    assert "at try 3" in way[2].detail and way[3].detail == "no such account"
    assert [hop.state for hop in hops.hops(1.0, None, None, [])] == ["healthy", "unknown", "unknown"]
    assert hops.hops(1.0, 1, hops.Sending("shop", None, 4, "no route"), [])[2].state == "failing"
    alone = hops.hops(1.0, 1, None, [], "billing")[2]
    assert (alone.word, alone.detail) == ("not sent", "billing alone gets it, from the log")
    others = hops.hops(1.0, 1, None, [], publisher="ledger")[2]
    assert (others.word, others.detail) == ("came from it", "ledger put it there")


@pytest.mark.parametrize("odd", ["catalogue", "..", "a/b", "a?b", "rows", "", "%2e"])
def test_an_odd_id_has_an_address_of_its_own(odd: str) -> None:
    assert links.event_url(SimpleNamespace(event_id=odd, source="mission-control")).startswith("/events/event/?id=")
    plain = SimpleNamespace(event_id="0190-abc", source="shop/one")
    assert links.event_url(plain) == "/events/0190-abc/?source=shop%2Fone"


@pytest.mark.parametrize("count", [5, 50, 500])
def test_a_flow_of_any_size_is_laid_out_within_bounds(count: int) -> None:
    types = [
        flow.Type(f"d{n % 9}.n{n % 40}.v{n}", n / 7, {f"p{n % 60}": 1.0}, [f"s{n % 300}", "nobody"])
        for n in range(count)
    ]
    takers = {f"s{n}": flow.Taker(f"s{n}") for n in range(300)}
    rows = flow.rows_of(types, takers)
    assert sum(len(row.types) for row in rows) == count and len(rows) <= flow.ROWS
    picture = flow.lay_out(rows, takers)
    assert len(picture.boxes) <= 3 * flow.ROWS and picture.height <= flow.ROWS * flow.ROW + flow.TOP
    assert all(0 <= box.y <= picture.height - flow.BOX and box.x + box.width <= picture.width for box in picture.boxes)
    assert {line.weight for line in picture.lines} <= {0, 1, 2, 3, 4}
    assert flow.lay_out(flow.rows_of([], {}), {}).boxes == []


def test_what_is_wrong_stands_on_top_of_the_flow_and_alone() -> None:
    types = [flow.Type(f"shop.n{n}.done", 9.0, {"shop": 9.0}, ["fine"]) for n in range(60)]
    types += [flow.Type(f"bank.sum.v{n}", 0.01, {"bank": 0.01}, ["broken"] if n == 7 else ["fine"]) for n in range(8)]
    types += [flow.Type("post.card.sent", 1.0, {"post": 1.0})]
    takers = {"fine": flow.Taker("fine"), "broken": flow.Taker("broken", "failing", "breaker open")}
    rows = flow.rows_of(types, takers)
    assert [row.name for row in rows[:2]] == ["bank.sum.v7", "post.card.sent"]
    assert rows[1].state == "untaken" and rows[1].told == "nobody takes it"
    (shop,) = [row for row in rows if row.name.startswith("shop.")]
    assert (shop.name, shop.told, shop.rate) == ("shop.#", "60 types", 540.0)
    picture = flow.lay_out(rows, takers)
    assert [box.name for box in picture.boxes if box.kind == "taker"] == ["broken", "fine"]
    assert picture.lines[-1].state == "failing", "above the others"
    assert [one.name for one in flow.wrong(takers)] == ["broken"]


def test_more_domains_than_rows_end_in_one_box_that_counts_them() -> None:
    types = [flow.Type(f"d{n}.x.y", float(n), {f"p{n}": float(n)}, [f"s{n}"]) for n in range(40)]
    takers = {f"s{n}": flow.Taker(f"s{n}") for n in range(40)}
    rows = flow.rows_of(types, takers)
    assert rows[0].name == "d39.x.y" and (rows[-1].name, rows[-1].told) == ("others", "27 types")
    last = [box for box in flow.lay_out(rows, takers).boxes if box.name == flow.MORE]
    assert [(box.kind, box.short, box.told) for box in last] == [
        ("producer", "others", "27 more"),
        ("taker", "others", "27 more"),
    ]


def test_a_type_that_is_the_prefix_of_others_stands_by_itself() -> None:
    names = ["shop.order", "shop.order.placed", "shop.order.placed.again"]
    rows = flow.rows_of([flow.Type(name, 1.0) for name in names], {})
    assert sorted(row.name for row in rows) == names
    assert len(flow.rows_of([flow.Type(name, 1.0) for name in names], {}, most=2)) == 2


def test_own_types_are_idle_when_nobody_published_them_and_never_missed() -> None:
    assert flow.Type("system.replay.done", seen=False).idle and not flow.Type("shop.order.placed", seen=False).idle
    assert not flow.Type("system.replay.done").untaken and flow.Type("shop.order.placed").untaken


def test_a_publisher_that_can_not_get_rid_of_its_events_is_seen_among_many() -> None:
    types = [flow.Type(f"d{n}.x.y", 9.0, {f"p{n}": 9.0}, ["fine"]) for n in range(40)]
    types += [flow.Type("bank.sum.moved", 0.0, {"bank": 0.0}, ["fine"])]
    takers = {"fine": flow.Taker("fine")}
    held = {"bank": "12 wait for kafka"}
    (bank,) = [box for box in flow.lay_out(flow.rows_of(types, takers), takers, held).boxes if box.name == "bank"]
    assert (bank.kind, bank.state, bank.told) == ("producer", "failing", "12 wait for kafka")


def test_what_a_publisher_holds_is_told_by_its_name_among_producers() -> None:
    held = charts.held(
        [
            Waiting("relay", "kafka", 12, 90.0, False),
            Waiting("relay", "redis", 3, 1.0, True),
            Waiting("covenant", "redis", 3, 1.0, False),
            Waiting("mint", "kafka", 0, 0.0, True),
        ]
    )
    assert held == {"mission-control": "12 wait for kafka · 3 wait for redis", "mint": "kafka is away"}
