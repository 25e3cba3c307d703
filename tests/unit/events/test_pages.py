"""Pages of the log: whatever is asked for, walking through them gives each event once, and by an index."""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from apps.events import sequencer
from apps.events.actions import publish_all
from apps.events.models import Event
from apps.events.queries import MOST_PROBED, following
from apps.events.storing import Draft

pytestmark = pytest.mark.django_db

TYPES = ["a.one.done", "a.two.done", "a.rare.seen", "b.one.done", "b.two.seen"]


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("admin"))
    return client


@pytest.fixture
def types() -> list[str]:
    """The types of the log that is there, by position: some come often, one long ago, many at one instant."""
    chance = random.Random(7)
    told = ["a.rare.seen"] * 3 + [chance.choice(TYPES[:2] + TYPES[3:]) for _ in range(60)]
    for start in range(0, len(told), 16):
        publish_all([Draft(each, {}, stream=f"s{chance.randrange(5)}") for each in told[start : start + 16]])
    while sequencer.number():
        pass
    return told


def walk(api: APIClient, query: str, way: str = "next") -> tuple[list[int], str]:
    """Positions page by page, and the last page's address."""
    url, found = query if "/" in query else f"/api/v1/events?page_size=7&{query}", []
    while True:
        page = api.get(url).json()
        found.append([row["position"] for row in page["results"]])
        if not page[way]:
            return [each for part in (found if way == "next" else found[::-1]) for each in part], url
        url = page[way]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("a.%23", lambda kind: kind.startswith("a.")),
        ("*.*.seen", lambda kind: kind.endswith(".seen")),
        ("a.rare.seen", lambda kind: kind == "a.rare.seen"),
        ("%23", lambda kind: True),
        ("c.%23", lambda kind: False),
    ],
)
def test_pages_of_a_pattern_hold_each_event_once_in_both_directions(
    api: APIClient, types: list[str], pattern: str, fits: Any
) -> None:
    wanted = [position for position, kind in enumerate(types, 1) if fits(kind)]
    found, last = walk(api, f"type={pattern}")
    assert found == wanted[::-1]
    assert walk(api, last, "previous")[0] == wanted[::-1]
    found, last = walk(api, f"type={pattern}&after=5")
    assert found == [position for position in wanted if position > 5]
    events, cursor = [], 0
    while (reading := following(cursor, [pattern.replace("%23", "#")], 4)).position > cursor:
        cursor = reading.position
        events += [event.position for event in reading.events]
    assert (events, cursor) == (wanted, len(types))


def test_pages_by_time_hold_each_event_once_though_many_are_of_one_instant(api: APIClient, types: list[str]) -> None:
    times = sorted(set(Event.objects.values_list("time", flat=True)))
    assert len(times) == 4
    since, until = (time.isoformat().replace("+00:00", "Z") for time in (times[1], times[3]))
    assert walk(api, f"since={since}&until={until}")[0] == list(range(48, 16, -1))
    assert walk(api, f"since={since}&until={until}&type=a.%23")[0] == [
        position for position in range(48, 16, -1) if types[position - 1].startswith("a.")
    ]


PLANS = {
    "position": Event.objects.filter(position__isnull=False).order_by("-position"),
    "after": Event.objects.filter(position__gt=5).order_by("position"),
    "type": Event.objects.filter(position__isnull=False, type="a.one.done").order_by("-position"),
    "subject": Event.objects.filter(position__isnull=False, subject="x").order_by("-position"),
    "source": Event.objects.filter(position__isnull=False, source="x").order_by("-position"),
    "correlation": Event.objects.filter(position__isnull=False, correlation_id="x").order_by("-position"),
    "stream": Event.objects.filter(stream="x", version__gt=3).order_by("version"),
    "tag": Event.objects.filter(tags__tag="x"),
    "time": Event.objects.filter(time__gte="2026-01-01T00:00Z").order_by("-time", "-position"),
    "unnumbered": sequencer.unnumbered().order_by("id"),
}


@pytest.mark.parametrize("question", PLANS)
def test_what_is_asked_is_answered_by_an_index(types: list[str], question: str) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # A table of one page is read whole whatever indexes it has.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_bitmapscan = off")
    plan = PLANS[question][:51].explain()
    assert "Seq Scan" not in plan, plan
    scans = [line for line in plan.splitlines() if "SCAN events_event" in line]
    assert all("INDEX" in line for line in scans), plan
    assert "INDEX" in plan.upper() or "PRIMARY KEY" in plan, plan


def test_a_thousand_types_of_one_pattern_cost_no_query_each(api: APIClient, django_assert_max_num_queries: Any) -> None:
    """Whoever publishes chooses their types: a query for each would let them hold up all deliveries."""
    publish_all([Draft(f"mass.t{number % 1000}.made", {}, stream=f"s{number}") for number in range(1100)])
    while sequencer.number():
        pass
    with django_assert_max_num_queries(MOST_PROBED + 5):
        reading = following(0, ["mass.#"], limit=50)
    assert [event.position for event in reading.events] == list(range(1, 51))
    found, _ = walk(api, "/api/v1/events?page_size=500&type=mass.%23")
    assert found == list(range(1100, 0, -1))
