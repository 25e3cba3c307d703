"""Odd parameters at every list, page and admin section: refused or found empty, never an error of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from apps.gateway import actions
from apps.gateway.models import Consumer, Route
from apps.registry.models import Instance, Service

pytestmark = [
    pytest.mark.django_db,
    # Admin takes a date without a time zone, and Django only warns of it.
    pytest.mark.filterwarnings("ignore:.*naive datetime:RuntimeWarning"),
    pytest.mark.timeout(600),
]

COMMON = {"page", "ordering", "search", "q", "id", "format", "limit", "offset"}
HUGE = "1" + "0" * 30
ODD = [
    "",
    "\x00",
    "a\x00b",
    HUGE,
    "-" + HUGE,
    str(2**63),
    str(-(2**63) - 1),
    "9" * 5000,
    "1e400",
    "nan",
    "-1",
    "0",
    "null",
    "true",
    "\ufffd\udcff".encode("utf-8", "replace").decode(),
    "%ff%fe",
    "' OR 1=1 --",
    "{}",
    "[]",
    "../../etc",
    "0001-01-01",
    "9999-12-31T23:59:59.999999Z",
    "99999-01-01",
    "2024-02-30",
    "#.#.#.a.#",
    "*." * 63 + "#",
    "a" * 2001,
    " ".join(["a"] * 2000),
    " ".join(["a"] * 20),
    "\u202e\U0001f680",
    "cj0xJnA9MjAyNA==",
    "cD0lMDA=",
    "cD0xMDAwMDAwMDAwMDAwMDAwMDAwMDAwMA==",
    "bz0tMTAwMDAw",
]
"""Among them cursors that DRF made of odd positions: ``r=1&p=2024``, ``p=%00``, ``p=10**24``, ``o=-100000``."""


FEW = [HUGE, "0001-01-01", "cD0lMDA=", " ".join(["a"] * 2000)]


@pytest.fixture(autouse=True)
def world(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CLICKHOUSE_URL = "http://127.0.0.1:1"
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    service = Service.objects.create(name="ledger")
    Instance.objects.create(service=service, name="ledger-1", url="http://127.0.0.1:7102")
    Route.objects.create(name="ledger", service=service, path="/ledger")
    actions.issue_key(Consumer.objects.create(name="demo"), author="test")
    actions.publish("test")


@pytest.fixture
def boss() -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("boss"))
    return client


def ask(client: Client, path: str, data: dict[str, Any]) -> int:
    """The status; a transaction of its own, so that one refusal of PostgreSQL doesn't spoil the next question."""
    with transaction.atomic():
        answer = client.get(path, data)
        # The error's page is drawn inside Django; only the rest of the transaction would show it.
        transaction.set_rollback(True)
    return answer.status_code


def lists() -> Iterator[tuple[str, list[str]]]:
    document = json.loads(Client().get("/api/schema/", HTTP_ACCEPT="application/json").content)
    for path, methods in document["paths"].items():
        if "get" in methods:
            names = [found["name"] for found in methods["get"].get("parameters", ()) if found["in"] == "query"]
            where = path.format_map(
                {"id": "1", "number": "1", "trace_id": "a" * 32, "service": "ledger", "name": "ledger"}
            )
            yield where, names


def test_odd_parameters_of_the_api(boss: Client) -> None:
    wrong, asked = [], 0
    for path, names in lists():
        for name in {*names, "cursor", "page_size"} | (COMMON if path.endswith("/routes") else set()):
            for value in ODD if path.endswith("/events") else FEW:
                asked += 1
                status = ask(boss, path, {name: value})
                if status >= 500 and status != 503:
                    wrong.append(f"{path}?{name}={value[:40]!r} gave {status}")
    assert not wrong, "\n".join(wrong)
    assert asked > 300


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/health/transitions", "/api/v1/breaker-transitions"])
def test_a_moment_is_understood_at_any_offset_and_out_of_the_calendar_it_is_400(boss: Client, path: str) -> None:
    assert ask(boss, path, {"since": "2024-01-01T00:00:00+21:25", "until": "2024-01-02T00:00:00-23:59"}) == 200
    assert ask(boss, path, {"since": "0001-01-01T00:00:00+21:25"}) == 400


def test_odd_addresses_of_the_api(boss: Client) -> None:
    for noun in ("services", "instances", "routes", "keys", "revisions", "events", "tokens", "health-checks", "traces"):
        for value in (HUGE, str(2**63 - 1), "9" * 18, "-1", "%00", "a%00b", "%ff", "%ed%a0%80", "..", "a" * 3000):
            for path in (f"/api/v1/{noun}/{value}", f"/api/v1/{noun}/{value}/diff", f"/api/v1/{noun}/{value}/enable"):
                status = boss.get(path).status_code
                assert status < 500 or status == 503, f"{path} gave {status}"


def test_odd_parameters_of_pages_and_admin(boss: Client) -> None:
    wrong = []
    sections: dict[str, set[str]] = {
        "/": {"range"},
        "/services/": {"range"},
        "/services/ledger/": {"range"},
        "/traces/": {"range", "service", "name", "min_ms", "errors"},
        "/gateway/": {"range"},
        "/tokens/": {"x"},
    }
    for model, shown in admin.site._registry.items():
        fields = {entry if isinstance(entry, str) else entry[0] for entry in shown.list_filter}
        keys = {f"{field}{lookup}" for field in fields for lookup in ("__exact", "__id__exact", "__gte")} | {"q", "p"}
        if model is Route:
            keys |= {"o", "e", "all", "id__exact", "pk", "_facets", "_to_field", "_changelist_filters"}
        sections[f"/admin/{model._meta.app_label}/{model._meta.model_name}/"] = keys
        for value in (HUGE, str(2**63), "_00", "a", "-1"):
            status = ask(boss, f"/admin/{model._meta.app_label}/{model._meta.model_name}/{value}/change/", {})
            if status >= 500:
                wrong.append(f"{model.__name__} {value} gave {status}")
    for path, names in sections.items():
        for name in sorted(names):
            for value in ODD if path.endswith("/route/") and name in {"q", "p", "o"} else FEW:
                status = ask(boss, path, {name: value})
                if status >= 500:
                    wrong.append(f"{path}?{name}={value[:40]!r} gave {status}")
    assert not wrong, f"{connection.vendor}:\n" + "\n".join(wrong[:60])


ODD_JSON = [
    b"[" * 5000 + b"]" * 5000,
    b'{"name":' * 900 + b"1" + b"}" * 900,
    b'{"\\ud800": 1}',
    b'{"name": "\\u0000"}',
    b'{"name": "a\\ud800"}',
    b'{"weight": 1e400}',
    b'{"weight": ' + HUGE.encode() + b"}",
    b'{"timeout": ' + b"9" * 5000 + b"}",
    b'{"requests": ' + HUGE.encode() + b', "name": "x"}',
    b'{"timeout": Infinity}',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b'{"name": ["a"], "service": {"a": 1}, "path": 5, "hosts": "x", "auth": [[]]}',
    b'{"name": "x", "service": "\\u0000"}',
    b'{"name": "x", "service": "\\ud800", "consumer": "\\ud800", "rate_limit": "\\ud800"}',
    b'{"expires_at": "9999-12-31T23:59:59+00:00", "name": "x", "consumer": "demo"}',
    b'{"expires_at": "0001-01-01T00:00:00+14:00", "name": "x", "consumer": "demo"}',
]


def test_odd_bodies_at_every_write(boss: Client) -> None:
    document = json.loads(Client().get("/api/schema/", HTTP_ACCEPT="application/json").content)
    wrong = []
    for path, methods in document["paths"].items():
        where = path.format_map({"id": "1", "number": "1", "trace_id": "a" * 32, "service": "ledger", "name": "ledger"})
        for method in {"post", "put", "patch"} & set(methods):
            for body in ODD_JSON:
                for headers in ({}, {"HTTP_IDEMPOTENCY_KEY": "k"}):
                    with transaction.atomic():
                        answer = boss.generic(method.upper(), where, body, "application/json", **headers)
                        transaction.set_rollback(True)
                    if answer.status_code >= 500 and answer.status_code != 503:
                        wrong.append(f"{method} {where} {body[:50]!r} {headers} gave {answer.status_code}")
    assert not wrong, "\n".join(wrong)
