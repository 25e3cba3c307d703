"""The event store by REST: read, never written."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from apps.events import sequencer
from apps.events.actions import publish
from apps.events.models import Event, foreign_stream

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("admin"))
    return client


def test_events_are_filtered_by_pattern_subject_and_paged(api: APIClient) -> None:
    for n in range(5):
        publish("system.instance.healthy", {"n": n}, subject=f"s{n % 2}")
    publish("business.transaction.recorded", {"n": 9})
    sequencer.number()
    page = api.get("/api/v1/events?type=system.%23&page_size=2").json()
    assert [row["data"]["n"] for row in page["results"]] == [4, 3]
    assert [row["data"]["n"] for row in api.get(page["next"]).json()["results"]] == [2, 1]
    assert len(api.get("/api/v1/events?subject=s1").json()["results"]) == 2
    assert len(api.get("/api/v1/events?type=*.*.recorded").json()["results"]) == 1


def test_the_log_is_followed_from_a_position(api: APIClient) -> None:
    for n in range(5):
        publish("system.instance.healthy", {"n": n})
    sequencer.number()
    page = api.get("/api/v1/events?after=1&page_size=2").json()
    assert [(row["position"], row["data"]["n"]) for row in page["results"]] == [(2, 1), (3, 2)]
    assert [row["position"] for row in api.get(page["next"]).json()["results"]] == [4, 5]
    assert api.get("/api/v1/events?after=5").json()["results"] == []


@pytest.mark.parametrize("forged", ["p=x", "p=2026-11-25+10:00", "r=1&p=1e9"])
def test_a_forged_cursor_is_refused_where_types_narrow_the_log(api: APIClient, forged: str) -> None:
    publish("system.instance.healthy", {})
    sequencer.number()
    answer = api.get("/api/v1/events", {"type": "system.#", "cursor": b64encode(forged.encode()).decode()})
    assert (answer.status_code, answer.json()["failure"]) == (404, "not_found")


@pytest.mark.parametrize("narrowed", [{}, {"type": "system.#"}, {"stream": "one"}, {"since": "2020-01-01T00:00:00Z"}])
def test_a_cursor_that_skips_beyond_any_database_ends_the_list(api: APIClient, narrowed: dict[str, str]) -> None:
    publish("system.instance.healthy", {}, stream="one")
    sequencer.number()
    answer = api.get("/api/v1/events", {**narrowed, "cursor": b64encode(b"o=" + b"9" * 30).decode()})
    assert (answer.status_code, answer.json()["results"]) == (200, [])


def test_a_position_may_be_written_as_forms_take_whole_numbers(api: APIClient) -> None:
    for n in range(3):
        publish("system.instance.healthy", {"n": n})
    sequencer.number()
    page = api.get("/api/v1/events", {"type": "system.#", "after": "1.0"}).json()
    assert [row["position"] for row in page["results"]] == [2, 3]


def test_a_stream_is_paged_from_its_end(api: APIClient) -> None:
    for n in range(5):
        publish("system.instance.healthy", {"n": n}, stream="one")
        publish("system.instance.healthy", {"n": 9}, stream="other")
    sequencer.number()
    page = api.get("/api/v1/events?stream=one&page_size=2").json()
    assert [row["version"] for row in page["results"]] == [5, 4]
    page = api.get(page["next"]).json()
    assert [row["version"] for row in page["results"]] == [3, 2]
    assert [row["version"] for row in api.get(page["previous"]).json()["results"]] == [5, 4]


def test_one_event(api: APIClient) -> None:
    event = publish("system.instance.healthy", {"deep": [1, {"a": None}]}, subject="s")
    body = api.get(f"/api/v1/events/{event.event_id}").json()
    assert (body["id"], body["data"], body["version"]) == (str(event.event_id), {"deep": [1, {"a": None}]}, 1)
    assert body["sent_at"] is None


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("events?type=a..b", 400),
        ("events?type=%23.%23.%23.%23", 400),
        ("events?since=soon", 400),
        ("events?after=-1", 400),
        ("events?after=1.5", 400),
        ("events?after=99999999999999999999", 400),
        ("events?type=" + "a" * 500, 400),
        ("events/01a2047b-0a9b-713b-a659-b2e7127cd94c", 404),
        ("events/nonsense", 404),
        ("events/" + "a" * 300, 400),
        ("events/%00", 400),
        ("events/nonsense?source=" + "a" * 300, 400),
    ],
)
def test_bad_questions_get_problem_documents(api: APIClient, path: str, status: int) -> None:
    answer = api.get(f"/api/v1/{path}")
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")


def foreign(source: str, event_id: str) -> Event:
    """What somebody else published."""
    return Event.objects.create(
        event_id=event_id,
        type="business.order.placed",
        source=source,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data=[source],
        stream=foreign_stream(source, event_id[:5]),
        version=1,
    )


@pytest.mark.parametrize("event_id", ["7", "a/b", "%2F", "what? #1", "schemas", "asyncapi", "..", "é" * 256])
def test_an_event_of_any_id_is_found_by_it(api: APIClient, event_id: str) -> None:
    foreign("orders", event_id)
    sequencer.number()
    [row] = api.get("/api/v1/events", {"id": event_id}).json()["results"]
    assert row["id"] == event_id
    if event_id not in {"schemas", "asyncapi"}:  # which are addresses of their own
        body = api.get(f"/api/v1/events/{quote(event_id, safe='')}").json()
        assert (body["id"], body["source"], body["data"]) == (event_id, "orders", ["orders"])


def test_an_id_of_several_publishers_asks_whose_event_is_meant(api: APIClient) -> None:
    foreign("orders", "1")
    foreign("bills", "1")
    answer = api.get("/api/v1/events/1")
    assert (answer.status_code, answer.json()["failure"]) == (409, "ambiguous_id")
    assert answer.json()["sources"] == ["orders", "bills"]
    assert api.get("/api/v1/events/1?source=bills").json()["data"] == ["bills"]
    assert api.get("/api/v1/events/1?source=nobody").status_code == 404


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_events_can_not_be_written(api: APIClient, method: str) -> None:
    event = publish("system.instance.healthy", {})
    assert getattr(api, method)(f"/api/v1/events/{event.event_id}", {}).status_code == 405
