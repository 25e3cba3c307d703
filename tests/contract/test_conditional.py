"""``If-Match``: who read a row and changes it overwrites nobody's change, however close they come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from rest_framework.test import APIClient

from apps.events.models import Subscription
from apps.events.schemas import registry
from apps.registry.models import Service

pytestmark = pytest.mark.django_db(transaction=True)

API = "/api/v1"
HOOK = {"name": "hook", "patterns": ["test.#"], "url": "https://hook.example/"}
RULE = {"name": "rule", "order": 10, "pattern": "test.#", "broker": "default"}


@pytest.fixture
def api(settings: Any) -> APIClient:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("boss"))
    return client


def subscription(api: APIClient) -> str:
    assert api.post(f"{API}/events/subscriptions", HOOK, format="json").status_code == 201
    return f"{API}/events/subscriptions/hook"


def rule(api: APIClient) -> str:
    answer = api.post(f"{API}/events/routes", RULE, format="json")
    assert answer.status_code == 201, answer.json()
    return f"{API}/events/routes/rule"


def event_type(api: APIClient) -> str:
    registry.register("test.thing.done", {"type": "object"}, author="ann")
    return f"{API}/events/schemas/test.thing.done"


def service(api: APIClient) -> str:
    row = Service.objects.create(name="shop")
    return f"{API}/services/{row.name}"


@pytest.mark.parametrize(
    ("made", "change", "other"),
    [
        (subscription, {"rate": 5}, {"filter": "data.n > 1"}),
        (rule, {"order": 20}, {"topic": "elsewhere"}),
        (event_type, {"mode": "forward"}, {"mode": "none"}),
        (service, {"description": "sells"}, {"description": "buys"}),
    ],
)
def test_a_change_of_what_was_changed_meanwhile_is_refused(
    api: APIClient, made: Any, change: dict[str, Any], other: dict[str, Any]
) -> None:
    path = made(api)
    first = api.get(path)
    tag = first["ETag"]
    assert tag.startswith('"') and api.get(path)["ETag"] == tag
    changed = api.patch(path, change, format="json", HTTP_IF_MATCH=tag)
    assert changed.status_code == 200, changed.json()
    assert changed["ETag"] == api.get(path)["ETag"] != tag
    refused = api.patch(path, other, format="json", HTTP_IF_MATCH=tag)
    assert refused.status_code == 412 and refused.json()["failure"] == "precondition_failed"
    assert api.get(path)["ETag"] == changed["ETag"], "nothing was done"
    for stale in (tag, f"W/{changed['ETag']}", "none", '""'):
        assert api.patch(path, other, format="json", HTTP_IF_MATCH=stale).status_code == 412
    assert api.patch(path, other, format="json", HTTP_IF_MATCH=f'"x", {changed["ETag"]}').status_code == 200
    assert api.patch(path, change, format="json", HTTP_IF_MATCH="*").status_code == 200
    if made is not event_type:
        assert api.delete(path, HTTP_IF_MATCH=tag if api.get(path)["ETag"] != tag else '"x"').status_code == 412
        assert api.delete(path, HTTP_IF_MATCH=api.get(path)["ETag"]).status_code == 204
        assert api.patch(path, change, format="json", HTTP_IF_MATCH="*").status_code == 404


def test_what_happens_to_a_row_is_no_change_of_it(api: APIClient) -> None:
    path = subscription(api)
    tag = api.get(path)["ETag"]
    Subscription.objects.update(delivered=7, position=9, last_error="no", holder="relay")
    assert api.get(path)["ETag"] == tag
    assert api.post(f"{path}/pause", HTTP_IF_MATCH=tag).status_code == 200
    assert api.post(f"{path}/resume", HTTP_IF_MATCH='"x"').status_code == 412
    assert api.get(path).json()["state"] == "paused"


def test_of_two_who_change_what_they_read_at_once_one_is_refused(api: APIClient) -> None:
    path = subscription(api)
    tag = api.get(path)["ETag"]
    boss = User.objects.get()
    start = threading.Barrier(4)

    def change(rate: int) -> int:
        client = APIClient()
        client.force_authenticate(boss)
        try:
            start.wait()
            return int(client.patch(path, {"rate": rate}, format="json", HTTP_IF_MATCH=tag).status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(change, range(1, 5)))
    assert answers == [200, 412, 412, 412]
