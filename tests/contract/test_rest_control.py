"""The control plane's REST interface: roles, writes that publish, refusals beside the field."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from apps.gateway import actions
from apps.gateway.models import ApiKey, BreakerOverride, ConfigRevision, Consumer, Route
from apps.registry.models import Instance, Service
from tests.contract.rest import PROBLEM, admin, client_of, newest, no_redis, operator, refused, viewer, world

__all__ = ["admin", "no_redis", "operator", "viewer", "world"]


# -- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [None, "Bearer nonsense", "Token nonsense", "Bearer", "Bearer a b", "Bearer \xff\xfe"]
)
def test_without_a_good_token_nothing_is_told(header: str | None) -> None:
    extra = {} if header is None else {"HTTP_AUTHORIZATION": header}
    response = APIClient().get("/api/v1/services", **extra)
    refused(response, 401, "not_authenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_both_spellings_of_a_token_are_understood(admin: APIClient) -> None:
    token = admin._credentials["HTTP_AUTHORIZATION"].split()[1]
    for scheme in ("Bearer", "bearer", "Token"):
        assert APIClient().get("/api/v1/services", HTTP_AUTHORIZATION=f"{scheme} {token}").status_code == 200


def test_an_inactive_user_and_one_without_a_role_are_kept_out(admin: APIClient) -> None:
    User.objects.filter(username="admin").update(is_active=False)
    refused(admin.get("/api/v1/services"), 401, "not_authenticated")
    nobody = client_of("viewer")
    User.objects.get(username="viewer").groups.clear()
    refused(nobody.get("/api/v1/services"), 403, "not_allowed")


def test_a_session_reads_and_writes_only_with_a_csrf_token() -> None:
    user = User.objects.create_superuser("boss", password="a long enough password")
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get("/api/v1/services").status_code == 200
    refused(client.post("/api/v1/services", {"name": "x"}, format="json"), 403, "csrf_failed")


CONFIGURATION = ["services", "instances", "routes", "rate-limits", "breaker-policies", "service-policies", "issuers"]


@pytest.mark.parametrize("noun", CONFIGURATION)
def test_a_viewer_reads_configuration_and_changes_none(noun: str, viewer: APIClient, operator: APIClient) -> None:
    for client in (viewer, operator):
        assert client.get(f"/api/v1/{noun}").status_code == 200
        refused(client.post(f"/api/v1/{noun}", {}, format="json"), 403, "not_allowed")


@pytest.mark.parametrize("noun", ["consumers", "keys"])
def test_consumers_and_keys_are_for_admins_alone(noun: str, operator: APIClient, admin: APIClient) -> None:
    refused(operator.get(f"/api/v1/{noun}"), 403, "not_allowed")
    assert admin.get(f"/api/v1/{noun}").status_code == 200


def test_an_operator_drains_and_holds_breakers_and_a_viewer_does_not(viewer: APIClient, operator: APIClient) -> None:
    instance = Instance.objects.get()
    acts = [(f"/api/v1/instances/{instance.pk}/disable", None), ("/api/v1/breakers/ledger/open", {"reason": "storm"})]
    for path, body in acts:
        refused(viewer.post(path, body, format="json"), 403, "not_allowed")
        assert operator.post(path, body, format="json").status_code == 200
    assert newest().content["services"][0]["instances"] == []
    assert newest().content["services"][0]["breaker"]["override"] == "open"


# -- writes publish ------------------------------------------------------------------------------

BOOKS = {"name": "books", "service": "ledger", "path": "/books", "allow": ["*"]}


def test_a_route_is_added_changed_and_deleted_with_a_revision_each(admin: APIClient) -> None:
    made = admin.post(
        "/api/v1/routes",
        BOOKS | {"methods": ["GET"], "rate_limit": "standard"},
        format="json",
    )
    assert made.status_code == 201 and made.headers["X-Config-Revision"] == "2"
    assert made.json()["auth"] == ["key"] and made.json()["timeout"] == 15.0
    changed = admin.patch("/api/v1/routes/books", {"timeout": 3, "enabled": True}, format="json")
    assert changed.status_code == 200 and newest().summary == "route books: timeout 15.0 → 3.0"
    assert admin.delete("/api/v1/routes/books").status_code == 204
    assert newest().number == 4 and newest().author == "admin"
    refused(admin.get("/api/v1/routes/books"), 404, "not_found")


def test_a_write_that_changes_nothing_publishes_nothing(admin: APIClient) -> None:
    response = admin.patch("/api/v1/routes/ledger", {"description": "words for people"}, format="json")
    assert response.headers["X-Config-Revision"] == "1" and ConfigRevision.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"path": "no-slash"}, "path"),
        ({"path": "/a/../b"}, "path"),
        ({"path": "/ledger"}, "path"),
        ({"path": "/x/"}, "path"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": "NaN"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"retries": 6}, "retries"),
        ({"retries": 10**30}, "retries"),
        ({"max_body": 10**30}, "max_body"),
        ({"service": "nowhere"}, "service"),
        ({"service": None}, "service"),
        ({"service": ["ledger"]}, "service"),
        ({"rate_limit": "nowhere"}, "rate_limit"),
        ({"methods": ["BREW"]}, "methods"),
        ({"methods": "GET"}, "methods"),
        ({"methods": [["GET"]]}, "methods"),
        ({"hosts": ["Not A Host"]}, "hosts"),
        ({"auth": ["password"]}, "auth"),
        ({"allow": []}, "allow"),
        ({"allow": ["*", "demo"]}, "allow"),
        ({"allow": ["nobody"]}, "allow"),
        ({"allow": ["Not A Name"]}, "allow"),
        ({"auth": []}, "allow"),
        ({"auth": [], "allow": [], "scopes": ["x"]}, "scopes"),
        ({"auth": ["jwt"]}, "issuers"),
        ({"auth": ["jwt"], "issuers": ["nobody"]}, "issuers"),
        ({"issuers": ["nobody"]}, "issuers"),
        ({"scopes": ['a"b']}, "scopes"),
        ({"forward_credentials": "yes"}, "forward_credentials"),
        ({"path": "/ledger", "methods": ["GET"]}, "path"),
        ({"enabled": "yes"}, "enabled"),
        ({"name": "Books"}, "name"),
        ({"name": "ledger"}, "name"),
        ({"name": "\x00"}, "name"),
        ({"description": "x" * 301}, "description"),
        ({"match": "regex"}, "match"),
        ({"pathh": "/x"}, "pathh"),
    ],
)
def test_what_does_not_validate_is_refused_beside_its_field_and_changes_nothing(
    body: dict[str, Any], field: str, admin: APIClient
) -> None:
    document = refused(admin.post("/api/v1/routes", BOOKS | body, format="json"), 400, "invalid")
    assert list(document["errors"]) == [field] and document["errors"][field]
    assert Route.objects.count() == 1 and ConfigRevision.objects.count() == 1


def test_a_change_is_refused_when_the_whole_would_not_hold(admin: APIClient) -> None:
    admin.post("/api/v1/routes", BOOKS, format="json")
    document = refused(admin.patch("/api/v1/routes/books", {"path": "/ledger"}, format="json"), 400, "invalid")
    assert "both match /ledger" in document["errors"]["path"][0]
    assert Route.objects.get(name="books").path == "/books" and newest().number == 2


def test_who_may_call_is_kept_published_and_in_the_audit_trail(admin: APIClient) -> None:
    issuer = {"name": "corp", "issuer": "https://corp", "audience": "us", "jwks_url": "https://corp.example.org/jwks"}
    assert admin.post("/api/v1/issuers", issuer | {"max_lifetime": 900}, format="json").status_code == 201
    shop = {"name": "shop", "groups": ["partners"], "subjects": ["corp/shop"]}
    assert admin.post("/api/v1/consumers", shop, format="json").status_code == 201
    key = admin.post("/api/v1/keys", {"consumer": "shop", "scopes": ["read"]}, format="json").json()
    assert key["scopes"] == ["read"]
    asked = {"auth": ["key", "jwt"], "issuers": ["corp"], "allow": ["@partners"], "scopes": ["read"]}
    assert admin.post("/api/v1/routes", BOOKS | asked, format="json").status_code == 201
    content = newest().content
    route = next(route for route in content["routes"] if route["name"] == "books")
    assert {name: route[name] for name in asked} == asked and route["forward_credentials"] is False
    assert (content["issuers"][0]["subjects"], content["issuers"][0]["max_lifetime"]) == ("mapped", 900.0)
    admin.patch("/api/v1/routes/books", {"allow": ["shop"]}, format="json")
    assert "allow @partners → shop" in newest().summary
    entry = LogEntry.objects.filter(content_type__model="route").latest("timestamp")
    assert "shop" in str(entry.changes["allow"])
    document = refused(admin.delete("/api/v1/consumers/shop"), 400, "invalid")
    assert "Route books allows consumer shop" in str(document["errors"])
    document = refused(admin.delete("/api/v1/issuers/corp"), 400, "invalid")
    assert "corp" in str(document["errors"])
    assert admin.patch("/api/v1/issuers/corp", {"enabled": False}, format="json").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"subjects": ["corp/shop"]}, "subjects"),
        ({"subjects": ["shop"]}, "subjects"),
        ({"subjects": ["ledger/a b"]}, "subjects"),
        ({"groups": ["@partners"]}, "groups"),
        ({"groups": [7, {}]}, "groups"),
    ],
)
def test_a_consumer_claims_only_what_can_be(body: dict[str, Any], field: str, admin: APIClient) -> None:
    document = refused(admin.post("/api/v1/consumers", {"name": "shop", **body}, format="json"), 400, "invalid")
    assert list(document["errors"]) == [field]


def test_a_route_says_which_more_exact_one_gets_some_of_its_requests(admin: APIClient) -> None:
    assert admin.get("/api/v1/routes/ledger").json()["shadowed_by"] == []
    narrow = admin.post("/api/v1/routes", BOOKS | {"path": "/ledger", "hosts": ["a.org"]}, format="json")
    assert narrow.status_code == 201 and narrow.json()["shadowed_by"] == []
    shown = {row["name"]: row["shadowed_by"] for row in admin.get("/api/v1/routes").json()["results"]}
    assert shown == {"ledger": ["books"], "books": []}
    admin.patch("/api/v1/routes/books", {"enabled": False}, format="json")
    assert admin.get("/api/v1/routes/ledger").json()["shadowed_by"] == ["books"], "one that is off closes its place"
    admin.delete("/api/v1/routes/books")
    assert admin.get("/api/v1/routes/ledger").json()["shadowed_by"] == []


@pytest.mark.parametrize("path", ["services/ledger", "rate-limits/standard"])
def test_what_is_in_use_is_not_deleted(path: str, admin: APIClient) -> None:
    admin.patch("/api/v1/routes/ledger", {"rate_limit": "standard"}, format="json")
    document = refused(admin.delete(f"/api/v1/{path}"), 409, "in_use")
    assert "route ledger" in document["detail"]


@pytest.mark.parametrize(
    ("noun", "body"),
    [
        ("services", {"name": "new", "title": "New", "fleet": False}),
        ("instances", {"service": "ledger", "name": "ledger-2", "url": "http://10.0.0.7:7102/", "weight": 3}),
        ("rate-limits", {"name": "slow", "requests": 1, "period": 60, "burst": None}),
        ("breaker-policies", {"name": "strict", "sliding_window_size": 5, "minimum_calls": 2}),
        ("service-policies", {"service": "ledger", "balance": "least_request", "breaker": None}),
        ("consumers", {"name": "someone", "rate_limit": "standard"}),
        (
            "issuers",
            {"name": "idp", "issuer": "https://idp", "audience": "a", "jwks_url": "https://idp/jwks", "leeway": 0},
        ),
    ],
)
def test_every_noun_is_added_read_replaced_and_deleted(noun: str, body: dict[str, Any], admin: APIClient) -> None:
    made = admin.post(f"/api/v1/{noun}", body, format="json")
    assert made.status_code == 201, made.content
    shown = made.json()
    place = f"/api/v1/{noun}/{shown.get('id') or shown.get('name') or shown['service']}"
    assert admin.get(place).json() == shown
    assert admin.put(place, shown | body, format="json").status_code == 200
    assert any(item == admin.get(place).json() for item in admin.get(f"/api/v1/{noun}").json()["results"])
    assert admin.delete(place).status_code == 204
    refused(admin.get(place), 404, "not_found")


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://u:p@x:1", "http://x:0", "http://x:70000", "http://x:1/path", "http://x\n:1"]
)
def test_an_instance_needs_an_address_that_can_be_connected_to(url: str, admin: APIClient) -> None:
    body = {"service": "ledger", "name": "two", "url": url}
    assert "url" in refused(admin.post("/api/v1/instances", body, format="json"), 400, "invalid")["errors"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8123",
        "http://localhost:8123",
        "http://2130706433:8123",
        "http://169.254.169.254",
        "http://[fe80::1]:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://0.0.0.0:9000",
    ],
)
def test_an_address_that_is_never_called_is_refused_beside_the_field(url: str, admin: APIClient) -> None:
    answer = admin.post("/api/v1/instances/", {"service": "ledger", "name": "two", "url": url})
    assert answer.status_code == 400 and "not allowed" in str(answer.json()["errors"])
    issuer = {"name": "idp", "issuer": "https://idp", "audience": "a", "jwks_url": f"{url}/jwks"}
    answer = admin.post("/api/v1/issuers/", issuer)
    assert answer.status_code == 400 and "not allowed" in str(answer.json()["errors"])


def test_two_instances_of_one_service_may_not_share_an_address(admin: APIClient) -> None:
    body = {"service": "ledger", "name": "two", "url": "http://127.0.0.1:7102/"}
    response = admin.post("/api/v1/instances", body, format="json")
    assert response.status_code in {400, 409} and Instance.objects.count() == 1
    assert response.headers["Content-Type"] == PROBLEM


def test_who_changed_what_is_in_the_audit_trail(admin: APIClient) -> None:
    admin.patch("/api/v1/routes/ledger", {"timeout": 2}, format="json", HTTP_X_FORWARDED_FOR="not an address")
    entry = LogEntry.objects.filter(object_repr="ledger", action=LogEntry.Action.UPDATE).first()
    assert entry is not None and entry.actor is not None and entry.actor.username == "admin"
    assert entry.changes_dict["timeout"] == ["15.0", "2.0"] and entry.remote_addr == "127.0.0.1"


# -- keys ----------------------------------------------------------------------------------------


def test_a_key_is_told_once_and_works_until_it_is_revoked(admin: APIClient) -> None:
    made = admin.post("/api/v1/keys", {"consumer": "demo", "name": "job"}, format="json")
    assert made.status_code == 201
    key, number = made.json()["key"], made.json()["id"]
    row = ApiKey.objects.get(pk=number)
    assert row.hash == actions.hash_key(key) and row.created_by == "admin"
    shown = admin.get(f"/api/v1/keys/{number}").json()
    assert "key" not in shown and "hash" not in shown and shown["prefix"] == key.split("_")[1]
    assert newest().content["keys"][0]["revoked"] is False
    assert admin.post(f"/api/v1/keys/{number}/revoke").json()["state"] == "revoked"
    assert newest().content["keys"][0]["revoked"] is True
    assert admin.post(f"/api/v1/keys/{number}/revoke").status_code == 200
    refused(admin.patch(f"/api/v1/keys/{number}", {"name": "x"}, format="json"), 405, "method_not_allowed")


def test_a_key_may_expire_but_not_in_the_past(admin: APIClient) -> None:
    then = (timezone.now() + timedelta(days=1)).isoformat()
    made = admin.post("/api/v1/keys", {"consumer": "demo", "expires_at": then}, format="json")
    assert made.status_code == 201 and newest().content["keys"][0]["expires_at"] > timezone.now().timestamp()
    past = (timezone.now() - timedelta(seconds=1)).isoformat()
    for bad in (past, "soon", 5, "9999-99-99"):
        response = admin.post("/api/v1/keys", {"consumer": "demo", "expires_at": bad}, format="json")
        assert "expires_at" in refused(response, 400, "invalid")["errors"]


# -- breakers and revisions ----------------------------------------------------------------------


def test_a_breaker_is_held_and_released_by_word(operator: APIClient) -> None:
    held = operator.post("/api/v1/breakers/ledger/open", {"reason": "storm"}, format="json")
    assert held.status_code == 200
    assert held.json()["override"] | {"at": None} == {"state": "open", "reason": "storm", "by": "operator", "at": None}
    assert held.json()["state"] == "unknown"
    assert operator.post("/api/v1/breakers/ledger/close", {"reason": "calm"}, format="json").status_code == 200
    assert BreakerOverride.objects.get().state == "closed"
    freed = operator.post("/api/v1/breakers/ledger/release", {"reason": "over"}, format="json")
    assert freed.json()["override"] is None and newest().content["services"][0]["breaker"]["override"] is None


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": None}, {"reason": "x" * 301}, [], "text"])
def test_holding_a_breaker_needs_a_reason(body: Any, operator: APIClient) -> None:
    refused(operator.post("/api/v1/breakers/ledger/open", body, format="json"), 400, "invalid")
    assert not BreakerOverride.objects.exists()


def test_breakers_and_workers_say_when_nobody_knows(viewer: APIClient) -> None:
    for path in ("breakers", "breakers/ledger", "workers"):
        response = viewer.get(f"/api/v1/{path}")
        refused(response, 503, "live_state_away")
        assert response.headers["Retry-After"] == "2"


def test_a_breaker_that_no_worker_reports_is_unknown(viewer: APIClient, redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    assert viewer.get("/api/v1/breakers").json()[0]["state"] == "unknown"
    assert viewer.get("/api/v1/workers").json() == []
    refused(viewer.get("/api/v1/breakers/nowhere"), 404, "not_found")


def test_revisions_are_read_and_compared(admin: APIClient) -> None:
    admin.patch("/api/v1/routes/ledger", {"timeout": 2}, format="json")
    admin.patch("/api/v1/routes/ledger", {"retries": 0}, format="json")
    listed = admin.get("/api/v1/revisions").json()["results"]
    assert [row["number"] for row in listed] == [3, 2, 1] and "document" not in listed[0]
    assert admin.get("/api/v1/revisions/3").json()["document"]["routes"][0]["retries"] == 0
    assert admin.get("/api/v1/revisions/3/diff").json()["changes"][0]["fields"] == {"retries": [1, 0]}
    whole = admin.get("/api/v1/revisions/3/diff?against=1").json()
    assert whole["against"] == 1 and set(whole["changes"][0]["fields"]) == {"retries", "timeout"}
    assert admin.get("/api/v1/revisions/1/diff").json()["against"] is None
    refused(admin.get("/api/v1/revisions/3/diff?against=x"), 400, "invalid")
    refused(admin.get("/api/v1/revisions/3/diff?against=99"), 404, "not_found")
    for method in (admin.post, admin.put, admin.delete):
        refused(method("/api/v1/revisions/1"), 405, "method_not_allowed")


def test_lists_come_in_pages(admin: APIClient) -> None:
    for number in range(5):
        Service.objects.create(name=f"s{number}")
    names, address = [], "/api/v1/services?page_size=2"
    while address:
        page = admin.get(address).json()
        assert len(page["results"]) <= 2
        names += [row["name"] for row in page["results"]]
        address = page["next"]
    assert names == sorted(names) and len(names) == 6
    refused(admin.get("/api/v1/services?cursor=garbage"), 404, "not_found")


@pytest.mark.django_db(transaction=True)
def test_writes_at_once_by_several_people_all_stand(admin: APIClient) -> None:
    started, answers = threading.Barrier(4), []

    def write(number: int) -> None:
        client = APIClient(raise_request_exception=False)
        client.credentials(**admin._credentials)
        started.wait(10)
        try:
            names = [f"s{number}-{step}" for step in range(3)]
            answers.extend(client.post("/api/v1/services", {"name": name}, format="json") for name in names)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [201] * 12
    assert len(newest().content["services"]) == 13 and newest().number == 13


# -- what nobody is told -------------------------------------------------------------------------


def test_no_revision_shows_the_hash_of_a_key_to_anybody(viewer: APIClient, admin: APIClient, settings: Any) -> None:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    row, _ = actions.issue_key(Consumer.objects.get(), author="test")
    actions.publish("test")
    assert row.hash in newest().document, "gateways need it"
    number = newest().number
    staff = User.objects.create_superuser("staff")
    pages = APIClient()
    pages.force_login(staff)
    for client in (viewer, admin):
        for path in (f"revisions/{number}", f"revisions/{number}/diff", "revisions"):
            answer = client.get(f"/api/v1/{path}")
            assert answer.status_code == 200 and row.hash not in answer.content.decode()
        assert row.prefix in client.get(f"/api/v1/revisions/{number}").content.decode()
    for path in (
        f"gateway/configrevision/{newest().pk}/change/",
        "auditlog/logentry/",
        f"gateway/apikey/{row.pk}/change/",
    ):
        page = pages.get(f"/admin/{path}")
        assert page.status_code == 200 and row.hash not in page.content.decode()


def test_health_and_readiness(redis_url: str, settings: Any) -> None:
    client = APIClient()
    assert client.get("/health").json()["status"] == "ok"
    document = refused(client.get("/ready"), 503, "not_ready")
    assert "Redis" in document["detail"]
    settings.REDIS_URL = redis_url
    assert client.get("/ready").status_code == 200
