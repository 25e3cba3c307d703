"""The event store by REST: read, never written."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from apps.events import sequencer
from apps.events.actions import publish

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
    ],
)
def test_bad_questions_get_problem_documents(api: APIClient, path: str, status: int) -> None:
    answer = api.get(f"/api/v1/{path}")
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_events_can_not_be_written(api: APIClient, method: str) -> None:
    event = publish("system.instance.healthy", {})
    assert getattr(api, method)(f"/api/v1/events/{event.event_id}", {}).status_code == 405
