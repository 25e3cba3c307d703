"""What is asked for by a misspelt member, or in a coding that is not read, is refused and not done without it."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Event
from tests.unit.events.letters.delivery import failed, hook, published

pytestmark = pytest.mark.django_db

PATH = "/api/v1/events"
NO_SUCH = ["There is no such field."]


@pytest.fixture
def api(settings: Any) -> APIClient:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("boss"))
    return client


@pytest.mark.parametrize(
    ("address", "body", "named"),
    [
        ("jobs/replay", {"subscription": "hook", "filter": {"type": "test.#"}}, {"filter": {"type": NO_SUCH}}),
        ("jobs/replay", {"subscription": "hook", "dry-run": True}, {"dry-run": NO_SUCH}),
        ("jobs/redrive", {"subscription": "hook", "dryrun": True}, {"dryrun": NO_SUCH}),
        ("jobs/redrive", {"subscription": "hook", "filter": {"types": ["x.#"]}}, {"filter": {"types": NO_SUCH}}),
        (
            "dead-letters/discard",
            {"subscription": "hook", "filter": {"reason": "http_4xx", "kee": "a"}, "note": "old"},
            {"filter": {"kee": NO_SUCH}},
        ),
        ("schemas/test.thing.done/versions", {"schema": {"type": "object"}, "dry": True}, {"dry": NO_SUCH}),
        ("subscriptions/hook/rotate", {"overlap": 5}, {"overlap": NO_SUCH}),
        ("subscriptions/hook/seek", {"start": "now", "to": 7}, {"to": NO_SUCH}),
    ],
)
def test_a_misspelt_member_is_named_and_nothing_is_done(
    api: APIClient, address: str, body: dict[str, Any], named: dict[str, Any]
) -> None:
    failed(hook(url="https://hook.example/"), "a")
    answer = api.post(f"{PATH}/{address}", body, format="json")
    assert answer.status_code == 400, answer.json()
    assert answer.json()["errors"] == named
    assert not RedriveJob.objects.exists() and DeadLetter.objects.get().state == "failed"


def test_where_a_subscription_stands_is_not_changed_by_a_patch(api: APIClient) -> None:
    published("a")
    hook(url="https://hook.example/")
    answer = api.patch(f"{PATH}/subscriptions/hook", {"start": "now"}, format="json")
    assert answer.status_code == 400 and answer.json()["errors"] == {"start": NO_SUCH}


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b'{"type": "test.thing.done"}', mtime=0), b'{"type": "test.thing.done"}'],
    ids=["gzip", "plain"],
)
def test_a_body_in_a_coding_is_refused_by_what_it_is(api: APIClient, body: bytes) -> None:
    answer = api.generic("POST", PATH, body, "application/json", HTTP_CONTENT_ENCODING="gzip")
    assert answer.status_code == 415 and "not as gzip" in answer.json()["detail"]
    assert not Event.objects.exists()


def test_a_number_without_end_is_refused_in_the_words_of_json(api: APIClient) -> None:
    body = b'{"type": "test.thing.done", "data": {"n": ' + b"9" * 5000 + b"}}"
    answer = api.generic("POST", PATH, body, "application/json")
    assert answer.status_code == 400 and answer.json()["detail"] == "A number in the JSON has thousands of digits."


def test_why_a_secret_was_replaced_is_in_the_audit_trail(api: APIClient) -> None:
    row = hook(url="https://hook.example/")
    answer = api.post(f"{PATH}/subscriptions/{row.name}/rotate", {"reason": "it was in a log"}, format="json")
    assert answer.status_code == 200, answer.json()
    told = LogEntry.objects.filter(content_type__model="subscription", object_repr=row.name)
    assert any(entry.changes.get("rotated") == ["", "it was in a log"] for entry in told)
