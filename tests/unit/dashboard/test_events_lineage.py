"""Causes and effects as the log is asked for them: across works, bounded, and saying what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.dashboard.events import lineage
from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.models import Event
from apps.events.storing import Draft

pytestmark = pytest.mark.django_db


def effect(cause: Event | None = None, work: str = "", count: int = 1, **more: Any) -> list[Event]:
    name = str(cause.event_id) if cause is not None else ""
    made = publish_all(
        [Draft("shop.step.taken", {"n": n}, causation_id=name, correlation_id=work, **more) for n in range(count)]
    )
    sequencer.number()
    return list(Event.objects.filter(pk__in=[one.pk for one in made]).order_by("pk"))


def drawn(event: Event) -> list[tuple[int, int]]:
    return [(node.level, node.event.pk) for node in lineage.read(event).nodes if node.event]


def test_an_effect_of_another_work_is_followed_and_so_are_its_own() -> None:
    (order,) = effect(work="order")
    (bill,) = effect(order, "billing")
    (letter,) = effect(bill, "post")
    (alone,) = effect(order)
    whole = [(0, order.pk), (1, bill.pk), (2, letter.pk), (1, alone.pk)]
    for one in (order, bill, letter, alone):
        assert drawn(one) == whole
    assert lineage.read(letter).cut == ""


def test_of_too_many_effects_the_first_are_shown_and_the_rest_is_told() -> None:
    (order,) = effect(work="order")
    many = effect(order, "others", lineage.MOST + 1)
    tree = lineage.read(order)
    assert [node.event.pk for node in tree.nodes[1:] if node.event] == [one.pk for one in many[:-1]]
    assert tree.cut == f"effects after the first {lineage.MOST}"
    assert drawn(many[-1])[-1] == (1, many[-1].pk), "whoever is looked at is shown, however many came before"


def test_a_chain_is_followed_so_deep_and_no_deeper(django_assert_max_num_queries: Any) -> None:
    chain = effect(work="0")
    for n in range(lineage.DEEPEST + lineage.HIGHEST + 5):
        chain += effect(chain[-1], f"{n + 1}")
    with django_assert_max_num_queries(lineage.DEEPEST + lineage.HIGHEST + 2):
        tree = lineage.read(chain[0])
    assert len(tree.nodes) == lineage.DEEPEST + 1
    assert tree.cut == f"effects below {lineage.DEEPEST} levels"
    last = lineage.read(chain[-1])
    assert last.cut == f"causes beyond the nearest {lineage.HIGHEST}"
    assert [node.here for node in last.nodes][-1]


def test_a_long_chain_of_one_work_is_whole_and_drawn_straight(django_assert_max_num_queries: Any) -> None:
    chain = effect(work="long")
    for _ in range(lineage.DEEPEST + lineage.HIGHEST + 28):
        chain += effect(chain[-1], "long")
    with django_assert_max_num_queries(3):
        tree = lineage.read(chain[30])
    assert [node.event.pk for node in tree.nodes if node.event] == [one.pk for one in chain]
    assert tree.cut == "" and not tree.beside, "what is shown is not said to be left out"
    assert max(node.step for node in tree.nodes) == lineage.STRAIGHT
    (aside,) = effect(chain[50], "long")
    steps = {node.event.pk: node.step for node in lineage.read(aside).nodes if node.event}
    assert steps[aside.pk] == steps[chain[51].pk] == steps[chain[50].pk] + 1


def test_effects_are_found_by_an_index() -> None:
    (order,) = effect()
    effect(order)
    with CaptureQueriesContext(
        connection,
    ) as asked:
        lineage.read(order)
    (sql, *_) = [one["sql"] for one in asked.captured_queries if '"causation_id" IN' in one["sql"]]
    with connection.cursor() as cursor:
        explain = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
        if connection.vendor != "sqlite":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(explain + sql)
        assert "event_by_cause" in str(cursor.fetchall())
