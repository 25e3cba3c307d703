"""Every address of the control process and every role: who reads, who acts, who is sent away.

What an operation needs is written here only where it differs from the rule (viewers read, admins
write), so that an operation that is added is strict until somebody writes down that it isn't.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from apps.gateway import actions
from apps.gateway.models import Consumer, Route
from apps.lib.roles import ADMIN, OPERATOR, RANK, VIEWER
from apps.people.actions import issue
from apps.registry.models import Instance, Service
from missioncontrol.fleet import roles

STRICTER = {
    ("get", "consumers"): ADMIN,
    ("get", "keys"): ADMIN,
    ("post", "breakers/{service}/open"): OPERATOR,
    ("post", "breakers/{service}/close"): OPERATOR,
    ("post", "breakers/{service}/release"): OPERATOR,
    ("post", "instances/{id}/enable"): OPERATOR,
    ("post", "instances/{id}/disable"): OPERATOR,
    ("post", "events/dead-letters/discard"): OPERATOR,
    ("post", "events/dead-letters/{id}/discard"): OPERATOR,
    ("post", "events/dead-letters/{id}/resolve"): OPERATOR,
    ("post", "events/dead-letters/{id}/note"): OPERATOR,
    ("post", "events/dead-letters/{id}/edit"): OPERATOR,
    ("post", "events/jobs/redrive"): OPERATOR,
    ("post", "events/jobs/replay"): OPERATOR,
    ("post", "events/jobs/{id}/pause"): OPERATOR,
    ("post", "events/jobs/{id}/resume"): OPERATOR,
    ("post", "events/jobs/{id}/cancel"): OPERATOR,
    ("post", "events/subscriptions/{name}/pause"): OPERATOR,
    ("post", "events/subscriptions/{name}/resume"): OPERATOR,
    ("post", "events/subscriptions/{name}/disable"): OPERATOR,
    ("post", "events/subscriptions/{name}/seek"): OPERATOR,
    ("post", "events/subscriptions/{name}/test"): OPERATOR,
    ("post", "events"): OPERATOR,
    ("post", "tokens"): VIEWER,
    ("delete", "tokens/{id}"): VIEWER,
}
"""By method and address; an address without a variable speaks for what lies below it too, when reading."""

OPEN = {"health", "ready", "login/", "admin/login/", "admin/logout/", "api/schema", "api/docs"}
"""What strangers may ask: nothing there is about the system that runs."""


@pytest.fixture(autouse=True)
def world(db: Any, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CLICKHOUSE_URL = "http://127.0.0.1:1"
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    roles(lambda line: None)
    service = Service.objects.create(name="ledger")
    Instance.objects.create(service=service, name="ledger-1", url="http://127.0.0.1:7102")
    Route.objects.create(name="ledger", service=service, path="/ledger")
    actions.issue_key(Consumer.objects.create(name="demo"), author="test")
    actions.publish("test")


def user(role: str | None, *, staff: bool = False) -> User:
    made = User.objects.create_user(role or "nobody", is_staff=staff)
    if role:
        made.groups.add(Group.objects.get(name=role))
    return made


def needed(method: str, path: str) -> str:
    if (method, path) in STRICTER:
        return STRICTER[method, path]
    if method == "get":
        return STRICTER.get((method, path.partition("/")[0]), VIEWER)
    return ADMIN


def operations() -> Iterator[tuple[str, str]]:
    document = json.loads(Client().get("/api/schema/", HTTP_ACCEPT="application/json").content)
    for path, methods in document["paths"].items():
        yield from ((method, path.removeprefix("/api/v1/")) for method in methods if method != "parameters")


def place(path: str) -> str:
    values = {"id": "1", "number": "1", "trace_id": "a" * 32, "service": "ledger", "name": "ledger"}
    if path.startswith("events") and not path.startswith(("events/dead-letters", "events/jobs")):
        values["id"] = "00000000-0000-4000-8000-000000000000"
    return "/api/v1/" + path.format_map(values)


@pytest.mark.parametrize("by", ["token", "session"])
@pytest.mark.parametrize("role", [None, "nobody", VIEWER, OPERATOR, ADMIN])
def test_each_operation_asks_for_its_role(role: str | None, by: str) -> None:
    client = APIClient(raise_request_exception=False)
    if role == "nobody" and by == "token":
        holder = user(VIEWER)
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(holder, 'test')[1]}")
        holder.groups.clear()
    elif role is not None:
        made = user(None if role == "nobody" else role)
        if by == "token":
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(made, 'test')[1]}")
        else:
            client.force_login(made)
    wrong = []
    for method, path in operations():
        # What destroys comes to nothing: no row goes by this name. The check of the role comes first.
        where = place(path)
        if method == "delete":
            where = "/".join(
                "nothing" if part == "ledger" else "99" if part == "1" else part for part in where.split("/")
            )
        status = getattr(client, method)(where, {}, format="json").status_code
        if role is None:
            fine = status == 401
        elif role == "nobody" or RANK[role] < RANK[needed(method, path)]:
            fine = status == 403
        else:
            fine = status not in {401, 403, 405, 500}
        if not fine:
            wrong.append(f"{method} {where} gave {status}")
    assert not wrong, "\n".join(wrong)


def pages() -> list[str]:
    found: list[str] = []

    def walk(patterns: Any, before: str) -> None:
        for entry in patterns:
            route = before + str(entry.pattern).removeprefix("^").removesuffix("/?$").removesuffix("$")
            if isinstance(entry, URLResolver):
                walk(entry.url_patterns, route)
            elif isinstance(entry, URLPattern) and not route.startswith("api/v1/"):
                found.append(route)

    walk(get_resolver().url_patterns, "")
    return found


def concrete(route: str) -> str:
    for variable, value in (
        ("<slug:name>", "ledger"),
        ("<str:trace_id>", "a" * 32),
        ("<path:object_id>", "1"),
        ("<path:name>", "ledger"),
        ("<int:pk>", "1"),
        ("<int:content_type_id>", "1"),
        ("<app_label>", "gateway"),
    ):
        route = route.replace(variable, value)
    return "/" + route


def test_no_page_shows_a_stranger_or_the_roleless_anything() -> None:
    stranger, nobody = Client(raise_request_exception=False), Client(raise_request_exception=False)
    nobody.force_login(user(None))
    asked = 0
    for route in pages():
        if any(character in route for character in "(?[\\") or route in OPEN:
            continue
        asked += 1
        for method in ("get", "post"):
            answer = getattr(stranger, method)(concrete(route))
            assert answer.status_code in {302, 301, 403, 404, 405}, f"{method} {route}: {answer.status_code}"
            if answer.status_code == 302:
                assert "/login/" in answer["Location"], route
        answer = nobody.get(concrete(route))
        assert answer.status_code in {301, 302, 403, 404, 405}, f"{route}: {answer.status_code}"
    assert asked > 30


@pytest.mark.parametrize(("role", "may"), [(VIEWER, set()), (OPERATOR, {"gateway.breakeroverride"})])
def test_admin_lets_viewers_and_operators_change_nothing_else(role: str, may: set[str]) -> None:
    made = user(role, staff=True)
    client = Client(raise_request_exception=False)
    client.force_login(made)
    request = RequestFactory().get("/")
    request.user = made
    changeable = set()
    for model, shown in admin.site._registry.items():
        checks = (shown.has_add_permission, shown.has_change_permission, shown.has_delete_permission)
        if any(check(request) for check in checks):
            changeable.add(model._meta.label_lower)
        name = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        for path in (f"{name}add/", f"{name}1/delete/"):
            if model._meta.label_lower not in may:
                assert client.post(path, {"post": "yes"}).status_code in {302, 403, 404}, path
        if not shown.has_view_permission(request):
            assert client.get(name).status_code == 403, name
    assert changeable == may
    for secret in ("auth/user/", "gateway/apikey/", "gateway/consumer/", "people/apitoken/", "auditlog/logentry/"):
        assert client.get(f"/admin/{secret}").status_code == 403, secret


def test_admin_is_for_staff_alone() -> None:
    client = Client()
    client.force_login(user(ADMIN))
    assert client.get("/admin/").status_code == 302
    assert client.get("/admin/login/").status_code == 403


def test_every_answer_carries_its_headers() -> None:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("boss"))
    for path in ("/", "/services/", "/admin/", "/api/v1/keys", "/api/v1/nothing", "/login/", "/health", "/api/docs/"):
        headers = client.get(path).headers
        assert "no-store" in headers["Cache-Control"], path
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY", path
        assert headers["Referrer-Policy"] == "same-origin" and "camera=()" in headers["Permissions-Policy"], path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost@evil.example", "", "a b"])
def test_another_host_name_is_not_served(host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
    for path in ("/login/", "/api/v1/services", "/admin/"):
        assert Client(raise_request_exception=False).get(path, HTTP_HOST=host).status_code == 400
