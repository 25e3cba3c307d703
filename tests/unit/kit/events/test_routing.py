"""Rules of routing: what they match, where an event goes by them, and that ten thousand cost what ten do."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.events import patterns
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.routing import (
    MAX_KNOWN,
    MAX_WHY,
    Document,
    Lane,
    Routes,
    RoutesError,
    Rule,
    decode,
    overlap,
    partition_key,
)

WORD = st.sampled_from(["a", "b", "c"])
PATTERN = st.lists(WORD | st.sampled_from(["*", "#"]), min_size=1, max_size=5).map(".".join)
TYPE = st.lists(WORD, min_size=3, max_size=5).map(".".join)


def routes(*rules: Rule, former: tuple[Rule, ...] = ()) -> Routes:
    return Routes(Document(1, rules, former), "redis")


def lanes(made: Routes, event_type: str) -> list[tuple[str, str]]:
    return [(target.lane.broker, target.lane.topic) for target in made.targets(event_type)]


def test_without_a_rule_an_event_goes_to_the_default_broker_by_its_domain() -> None:
    assert lanes(routes(), "business.order.placed") == [("redis", "business")]
    assert lanes(routes(Rule("system.#", "kafka")), "business.order.placed") == [("redis", "business")]


def test_all_rules_that_match_apply_in_order_and_the_first_of_a_target_wins() -> None:
    made = routes(
        Rule("business.#", "kafka", name="first"),
        Rule("business.order.*", "rabbitmq", topic="orders", key="subject"),
        Rule("*.order.placed", "kafka", key="subject", name="too late"),
    )
    first, second = made.targets("business.order.placed")
    assert (first.lane, first.rule, first.key) == (Lane("kafka", "business"), "first", "")
    assert (second.lane, second.key) == (Lane("rabbitmq", "orders"), "subject")
    said = [(reason.matches, reason.applies) for reason in made.explain("business.order.placed")]
    assert said == [(True, True), (True, True), (True, False)]


def test_an_explanation_says_what_differs() -> None:
    made = routes(*(Rule(pattern, "kafka") for pattern in ("system.#", "business.*", "business.order.placed.twice")))
    assert [reason.why for reason in made.explain("business.order.placed")] == [
        "segment 1 is business, and the pattern asks for system",
        "it has 3 segments, and the pattern ends after 2",
        "it has 3 segments, and the pattern asks for more",
    ]


@given(st.lists(PATTERN.filter(lambda one: one.count("#") <= patterns.MAX_DEEP), max_size=8), TYPE)
def test_the_tree_of_rules_matches_as_patterns_do(given_patterns: list[str], event_type: str) -> None:
    made = routes(*(Rule(one, "kafka", topic=f"t{at}") for at, one in enumerate(given_patterns)))
    wanted = [f"t{at}" for at, one in enumerate(given_patterns) if patterns.matches(one, event_type)]
    assert [topic for broker, topic in lanes(made, event_type) if broker == "kafka"] == wanted


def test_patterns_overlap_when_some_type_matches_both() -> None:
    words = ["a", "b", "*", "#"]
    some = [".".join(one) for size in (1, 2, 3) for one in itertools.product(words, repeat=size)]
    types = [".".join(one) for size in range(1, 6) for one in itertools.product("ab", repeat=size)]
    matching = {one: {name for name in types if patterns.matches(one, name)} for one in some}
    for one, other in itertools.product(some, some):
        assert overlap(one, other) == bool(matching[one] & matching[other]), (one, other)


def test_a_reader_reads_what_rules_send_there_and_sent_there_lately() -> None:
    made = routes(
        Rule("business.order.*", "kafka", topic="orders"),
        Rule("security.#", "rabbitmq"),
        former=(Rule("business.#", "rabbitmq", topic="old"),),
    )
    assert made.reading(["business.order.placed"]) == {
        "redis": frozenset(),
        "kafka": frozenset({"orders"}),
        "rabbitmq": frozenset({"old"}),
    }
    assert made.reading(["system.#"]) == {"redis": frozenset()}
    assert made.formerly("business.order.placed") == {Lane("rabbitmq", "old")}


def test_the_key_of_a_rule_chooses_the_partition_and_changes_no_event() -> None:
    event = CloudEvent("1", "a.b.c", "/s", 0.0, {}, subject="s1", partition_key="p", extensions={"region": "north"})
    assert [partition_key(event, key) for key in ("", "subject", "region", "nothing")] == ["p", "s1", "north", "p"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"nonsense", "can't be read"),
        (b"[]", "can't be read"),
        (b"{}", "can't be read"),
        (b'{"format":2,"revision":1,"rules":"of another kind"}', "format 2"),
        (b'{"format":1,"revision":-1}', "can't be read"),
        (b'{"format":1,"revision":1,"rules":[{"pattern":"a..b","broker":"kafka"}]}', "pattern"),
        (b'{"format":1,"revision":1,"rules":[{"pattern":"#.#.#.#","broker":"kafka"}]}', "at most 3"),
        (b'{"format":1,"revision":1,"rules":[{"pattern":"#","broker":"kafka","topic":"A b"}]}', "topic"),
        (b'{"format":1,"revision":1,"rules":[{"pattern":"#","broker":"KAFKA"}]}', "broker"),
    ],
)
def test_a_document_that_does_not_hold_is_refused_whole(said: bytes, why: str) -> None:
    with pytest.raises(RoutesError, match=why):
        decode(said)


def test_members_of_a_later_release_are_passed_over_within_a_format() -> None:
    body = msgspec.json.decode(msgspec.json.encode(Document(7, (Rule("a.#", "kafka"),))))
    body["later"] = body["rules"][0]["later"] = "more"
    assert decode(msgspec.json.encode(body)) == Document(7, (Rule("a.#", "kafka"),))


def test_ten_thousand_rules_cost_what_ten_do() -> None:
    def seconds(count: int, types: int) -> float:
        made = routes(*(Rule(f"business.noun{at}.*", "kafka", topic=f"t{at}") for at in range(count)))

        def once() -> float:
            began = time.perf_counter()
            for at in range(types):
                made.targets(f"business.noun{at % count}.verb{at}")
            return time.perf_counter() - began

        return min(once() for _ in range(3))

    # Types that nobody has asked for yet, so that nothing is remembered.
    assert seconds(10_000, 2 * MAX_KNOWN) < 5 * seconds(10, 2 * MAX_KNOWN)


def test_what_is_remembered_is_bounded() -> None:
    made: Any = routes(*(Rule(f"a.b{at}.c", "kafka") for at in range(1000)))
    for at in range(3 * MAX_KNOWN):
        made.targets(f"a.b.c{at}")
    assert len(made._known) <= MAX_KNOWN
    assert len(made.explain("a.b1.c")) == MAX_WHY + 1
