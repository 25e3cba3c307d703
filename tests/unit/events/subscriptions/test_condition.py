"""Conditions: what they say, what they refuse, and that no text makes an answer dear."""

from __future__ import annotations

import resource
import time

import pytest

from apps.events.subscriptions.condition import Condition, ConditionError, Odd
from services.kit.events.cloudevent import CloudEvent

EVENT = CloudEvent(
    id="1",
    type="business.order.placed",
    source="orders",
    time=1.8e9,
    data={"total": 120.5, "country": "DE", "tags": ["a", "b"]},
    partition_key="o-1",
    extensions={"priority": 7, "gift": True},
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("data.total > 100", True),
        ("data.total > 100.0 && event.source == 'orders'", True),
        ("event.type.startsWith('system.')", False),
        ("data.country in ['DE', 'FR'] && 'a' in data.tags", True),
        ("has(data.coupon)", False),
        ("event.priority > 5 && event.gift && event.partitionkey == 'o-1'", True),
        ("data.country.matches('^(D|F)')", True),
        ("data.missing == 1 || event.id == '1'", True),
        ("data.country.matches(r'^D\\w$') // matches(data.country)", True),
        ('\'matches(it)\'.matches( """matches[(]i\'?t[)]""" ) && !has(data.matches)', True),
    ],
)
def test_it_reads_attributes_and_data(text: str, answer: bool) -> None:
    assert Condition(text)(EVENT) is answer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data.", "Syntax error"),
        ("type == 'a' +", "Syntax error"),
        ("nothing.there == 1", "undeclared reference"),
        ("'a'", "must say true or false"),
        ("1 + 1", "must say true or false"),
        ("data.tags.all(x, x == 'a')", "undeclared reference"),
        ("data.tags.map(x, x + x) == []", "undeclared reference"),
        ("(" * 500 + "true" + ")" * 400, "recursion"),
        ("true" + " || true" * 200, "at most 1,000"),
        ("\x00", "Syntax error"),
        ("data.country.matches(data.pattern)", "as it stands"),
        ("data.country.matches('a' + data.pattern)", "as it stands"),
        ("data.country.matches('a', data.pattern)", "as it stands"),
        ("matches(data.country, data.pattern)", "as it stands"),
        ("data.country.matches // '\n (data.pattern)", "as it stands"),
        ("data.a == r'\\' && data.country.matches(data.b) && data.c == ''", "as it stands"),
        ("data.a == '''it's''' && data.country.matches(data.b) && data.c == ''", "as it stands"),
        ("data.country.`matches`(data.pattern)", "Syntax error|as it stands"),
        ("'" + "\\" * 999, "Syntax error"),
        ("'''" * 333, "Syntax error"),
    ],
)
def test_what_is_no_condition_is_refused_when_it_is_said(text: str, says: str) -> None:
    with pytest.raises(ConditionError, match=says):
        Condition(text)


@pytest.mark.parametrize(
    "text", ["data.missing > 1", "data.country > 1", "data.total", "event.nothing == 'a'", "data.country.matches('(')"]
)
def test_no_answer_is_said_and_is_not_true(text: str) -> None:
    with pytest.raises(Odd, match=r"\w"):
        Condition(text)(EVENT)


@pytest.mark.parametrize("data", [None, "text", [1, 2], {"total": 2**70}, {"total": float("inf")}, {"é": {"x": None}}])
def test_odd_data_is_no_crash(data: object) -> None:
    event = CloudEvent(id="1", type="a.b.c", source="s", time=0.0, data=data)
    try:
        assert Condition("data.total > 1.5")(event) in {True, False}
    except Odd as odd:
        assert str(odd)


@pytest.mark.parametrize(
    "text",
    [
        "data.s.matches('(x+x+)+y')",
        "data.s.matches('(a|b|c|d|e)*(x{500}){2}y')",
        "data.s" + " + data.s" * 28 + " == ''",
        " || ".join(["data.s.matches('(x+x+)+y')"] * 30),
        "data.l == data.l && data.l + data.l != data.l",
    ],
)
def test_a_large_event_and_a_hostile_condition_cost_a_bounded_time(text: str) -> None:
    event = CloudEvent(id="1", type="a.b.c", source="s", time=0.0, data={"s": "x" * 700_000, "l": list(range(100_000))})
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        Condition(text)(event)
    except Odd:
        pass
    assert time.process_time() - began < 3.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000
