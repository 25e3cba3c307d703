"""The OpenAPI document: no warnings, nothing left undescribed, and the API keeps to it whatever it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from django.test import Client
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from apps.gateway import actions
from apps.gateway.models import Consumer, RateLimitPolicy, Route
from apps.lib.roles import AREA_OF
from apps.people.actions import issue
from apps.registry.models import Instance, Service

PREFIX = "/api/v1"


@pytest.fixture(autouse=True)
def plain_static_files(settings: Any) -> None:
    """The names of static files as they are: no start of the system has collected them here."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get("/api/schema/", HTTP_ACCEPT="application/json").content)
    return found


def test_the_document_is_made_without_a_warning(tmp_path: Any) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yaml"))


def test_every_operation_says_what_it_does_who_may_and_how_it_refuses(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation.get("summary"), f"{place} has no summary"
            assert operation["tags"] and operation["tags"] != ["api"], f"{place} has no tag"
            assert operation["tags"] == [AREA_OF[path.removeprefix(f"{PREFIX}/").partition("/")[0]]], place
            assert {"token": []} in operation["security"], f"{place} needs no token"
            assert "application/problem+json" in operation["responses"]["default"]["content"], place
    assert {"token", "session"} <= set(document["components"]["securitySchemes"])


def test_the_document_covers_the_objects_of_the_system(document: dict[str, Any]) -> None:
    nouns = "services instances routes consumers keys issuers rate-limits breaker-policies service-policies"
    nouns += " tokens revisions breakers workers health-checks health events traces"
    assert {f"{PREFIX}/{noun}" for noun in nouns.split()} <= set(document["paths"])


def test_the_docs_page_asks_no_other_host(client: Client) -> None:
    page = client.get("/api/docs/")
    assert page.status_code == 200
    script = client.get("/api/docs/?script=")
    for text in (page.content.decode(), script.content.decode()):
        assert not re.search(r'["\'](https?:)?//(?!www\.w3\.org)', text)
    assert "<script>" not in page.content.decode()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "http" not in policy


@pytest.fixture
def kept_connection(db: Any) -> Iterator[None]:
    """As Django's own test client does: the end of a request does not close the test's connection."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def schema(kept_connection: None, settings: Any, redis_url: str) -> Any:
    """The API inside this process, with a little of everything in its database."""
    settings.REDIS_URL = redis_url
    settings.ALLOWED_HOSTS = ["*"]
    service = Service.objects.create(name="ledger")
    Instance.objects.create(service=service, name="ledger-1", url="http://127.0.0.1:7102")
    RateLimitPolicy.objects.create(name="standard", requests=200)
    Route.objects.create(name="ledger", service=service, path="/ledger", allow=["*"])
    actions.issue_key(Consumer.objects.create(name="demo"), author="test")
    actions.publish("test")
    return schemathesis.openapi.from_wsgi("/api/schema/?format=json", get_wsgi_application())


@pytest.fixture
def token(kept_connection: None) -> str:
    _, token = issue(User.objects.create_superuser("boss"), "test")
    return str(token)


CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


def test_whatever_is_sent_the_answer_keeps_to_the_document(schema: Any, token: str) -> None:
    tried = 0
    for found in schema.exclude(path_regex="/traces").get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        def ask(case: Any) -> None:
            nonlocal tried
            tried += 1
            # In a transaction of its own, so that one refusal of PostgreSQL doesn't spoil the next question.
            with transaction.atomic():
                case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)
                transaction.set_rollback(True)

        ask()
    assert tried > 200
