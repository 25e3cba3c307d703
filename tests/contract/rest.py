"""What suites of the REST interface share: a small configuration, clients of each role, and refusals looked at."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from rest_framework.test import APIClient

from apps.gateway import actions
from apps.gateway.models import ConfigRevision, Consumer, RateLimitPolicy, Route
from apps.people.actions import issue
from apps.registry.models import Instance, Service

PROBLEM = "application/problem+json"


@pytest.fixture(autouse=True)
def no_redis(settings: Any) -> None:
    """Delivery has its own tests; here nobody listens."""
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def world(db: Any) -> None:
    service = Service.objects.create(name="ledger")
    Instance.objects.create(service=service, name="ledger-1", url="http://127.0.0.1:7102")
    RateLimitPolicy.objects.create(name="standard", requests=200)
    Route.objects.create(name="ledger", service=service, path="/ledger", allow=["*"])
    Consumer.objects.create(name="demo")
    actions.publish("test")


def client_of(role: str) -> APIClient:
    user = User.objects.create_user(role)
    group, _ = Group.objects.get_or_create(name=role)
    user.groups.add(group)
    _, token = issue(user, "test")
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


@pytest.fixture
def viewer(db: Any) -> APIClient:
    return client_of("viewer")


@pytest.fixture
def operator(db: Any) -> APIClient:
    return client_of("operator")


@pytest.fixture
def admin(db: Any) -> APIClient:
    return client_of("admin")


def refused(response: Any, status: int, failure: str) -> dict[str, Any]:
    """The problem document, checked."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == PROBLEM
    document: dict[str, Any] = response.json()
    assert document["status"] == status and document["failure"] == failure and document["detail"]
    return document


def newest() -> ConfigRevision:
    return ConfigRevision.objects.latest()
