"""Subscriptions by REST: what each operation does, and what is said to bad input."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client
from rest_framework.test import APIClient

from apps.events.actions import publish
from apps.events.letters import queue
from apps.events.letters.core import Failure
from apps.events.models import Attempt, Event, Subscription
from apps.events.schemas import registry
from apps.events.schemas.queries import consumers
from apps.events.sequencer import number
from apps.events.subscriptions import locked, queries, signature
from apps.events.subscriptions.follower import keys_of
from apps.lib.roles import Grant
from apps.people.actions import issue
from missioncontrol.fleet import roles as fleet_roles

pytestmark = pytest.mark.django_db

PATH = "/api/v1/events/subscriptions"
GOOD = {"name": "billing", "patterns": ["business.order.*"], "url": "https://billing.example/hook?v=1"}


@pytest.fixture(autouse=True)
def plain_files(settings: Any) -> None:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("boss"))
    return client


def published(n: int = 1) -> Event:
    event = publish("business.order.placed", {"n": n}, stream=f"o-{n}")
    while number():
        pass
    event.refresh_from_db()
    return event


def test_a_webhook_is_added_changed_paused_resumed_and_deleted(api: APIClient) -> None:
    published()
    made = api.post(PATH, GOOD, format="json")
    assert made.status_code == 201, made.json()
    body = made.json()
    assert (body["state"], body["kind"], body["breaker"], body["behind"], body["handshake"]) == (
        *("active", "webhook", "closed", 0),
        True,
    )
    secret = body["secret"]
    assert secret.startswith("whsec_") and "secret" not in api.get(f"{PATH}/billing").json()
    row = Subscription.objects.get(name="billing")
    assert secret[6:] not in row.secret and keys_of(row, 0.0) == (signature.key_of(secret),)

    changed = api.patch(f"{PATH}/billing", {"filter": "data.n > 1", "rate": 5.5, "mode": "binary"}, format="json")
    assert changed.status_code == 200 and changed.json()["filter"] == "data.n > 1"
    assert api.post(f"{PATH}/billing/pause").json()["state"] == "paused"
    assert api.post(f"{PATH}/billing/resume").json()["state"] == "active"
    assert api.post(f"{PATH}/billing/seek", {"start": "beginning"}, format="json").json()["behind"] == 1
    disabled = api.post(f"{PATH}/billing/disable").json()
    assert (disabled["state"], disabled["reason"]) == ("disabled", "boss disabled it")
    assert api.post(f"{PATH}/billing/pause").status_code == 409
    assert [one["name"] for one in api.get(PATH, {"state": "disabled"}).json()["results"]] == ["billing"]
    assert api.delete(f"{PATH}/billing").status_code == 204
    assert not Subscription.objects.filter(name="billing").exists()
    told = LogEntry.objects.filter(content_type__model="subscription", object_repr="billing")
    assert told.count() >= 6 and set(told.values_list("actor__username", flat=True)) == {"boss"}
    assert not any("whsec" in str(entry.changes) or "secret" in str(entry.changes) for entry in told)


@pytest.mark.parametrize(
    "start", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "tomorrow", "-1", "9" * 30]
)
def test_a_place_that_no_log_has_is_refused(api: APIClient, start: str) -> None:
    assert api.post(PATH, GOOD, format="json").status_code == 201
    for path, body in ((f"{PATH}/billing/seek", {"start": start}), (PATH, {**GOOD, "name": "late", "start": start})):
        answer = api.post(path, body, format="json")
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["start"])


def test_a_secret_is_replaced_while_the_old_one_still_signs(api: APIClient) -> None:
    old = api.post(PATH, GOOD, format="json").json()["secret"]
    new = api.post(f"{PATH}/billing/rotate", {"overlap_s": 60}, format="json").json()["secret"]
    row = Subscription.objects.get(name="billing")
    assert row.previous_until
    until = row.previous_until.timestamp()
    assert keys_of(row, until - 1) == (signature.key_of(new), signature.key_of(old))
    assert keys_of(row, until + 1) == (signature.key_of(new),)
    with pytest.raises(locked.Unreadable):
        locked.unlock(row.secret, "another")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"url": "http://169.254.169.254/latest"}, "url", "not allowed"),
        ({"url": "http://[fe80::1]/"}, "url", "not allowed"),
        ({"url": "http://0xa9fea9fe/"}, "url", "not allowed"),
        ({"patterns": []}, "patterns", "1 to 50"),
        ({"url": "ftp://files.example/"}, "url", "https://"),
        ({"url": "https://user:word@there.example/"}, "url", "login"),
        ({"url": "https://there.example/#part"}, "url", "fragment"),
        ({"url": "https://there.example/a b"}, "url", "printable"),
        ({"url": "https://bücher.example/"}, "url", "ASCII"),
        ({"url": "https://there.example:99999/"}, "url", "no URL"),
        ({"url": "/hook"}, "url", "https://"),
        ({"url": "https://there..example/"}, "url", "host name"),
        ({"url": f"https://{'a' * 64}.example/"}, "url", "host name"),
        ({"url": f"https://{'a.' * 127}example/"}, "url", "host name"),
        ({"url": "https://-there.example/"}, "url", "host name"),
        ({"url": "https://there.%65xample/"}, "url", "host name"),
        ({"url": "https://there.example;x/"}, "url", "host name"),
        ({"url": ""}, "url", "https://"),
        ({"patterns": ["Business.*"]}, "patterns", "lower-case"),
        ({"patterns": ["#.#.#.#.a"]}, "patterns", "at most 3"),
        ({"patterns": [f"a.b.c{n}" for n in range(10_000)]}, "patterns", "10,000"),
        ({"patterns": ["a.b.c", "a.b.c"]}, "patterns", "once"),
        ({"patterns": "a.b.c"}, "patterns", "list"),
        ({"filter": "data.total >"}, "filter", "Syntax error"),
        ({"filter": "data.l.all(x, true)"}, "filter", "undeclared"),
        ({"filter": "x" * 1001}, "filter", "1000"),
        ({"start": "yesterday"}, "start", "RFC 3339"),
        ({"start": "9999-99-99T00:00:00Z"}, "start", "RFC 3339"),
        ({"name": "no spaces"}, "name", "slug"),
        ({"concurrency": 0}, "concurrency", "1"),
        ({"concurrency": 1000}, "concurrency", "32"),
        ({"timeout_s": 3600}, "timeout_s", "60"),
        ({"rate": -1}, "rate", "0"),
        ({"mode": "loud"}, "mode", "choice"),
        ({"secret": "mine"}, "secret", "no such field"),
    ],
)
def test_bad_input_is_named_beside_its_field(change: dict[str, Any], field: str, says: str, api: APIClient) -> None:
    answer = api.post(PATH, GOOD | change, format="json")
    assert answer.status_code == 400, answer.json()
    assert says in str(answer.json()["errors"][field]), answer.json()
    assert not Subscription.objects.exists()


def test_a_name_is_taken_once_and_an_unknown_one_is_not_found(api: APIClient) -> None:
    assert api.post(PATH, GOOD, format="json").status_code == 201
    assert api.post(PATH, GOOD, format="json").status_code == 400
    for method, path in (("get", ""), ("patch", ""), ("post", "/pause"), ("post", "/test"), ("get", "/attempts")):
        answer = getattr(api, method)(f"{PATH}/nobody{path}")
        assert answer.status_code == 404, path
        assert answer.json()["detail"] == "There is nothing at this address.", path


def test_it_starts_where_it_is_told_to(api: APIClient) -> None:
    events = [published(n) for n in range(1, 4)]
    for start, position in (
        ("now", 3),
        ("beginning", 0),
        ("2", 1),
        (events[1].time.isoformat(), 1),
        ("2000-01-01T00:00:00Z", 0),
        ("2999-01-01T00:00:00Z", 3),
    ):
        made = api.post(PATH, GOOD | {"name": f"s{abs(hash(start))}", "start": start}, format="json")
        assert made.json()["position"] == position, start


def test_what_is_not_a_webhook_is_left_alone(api: APIClient) -> None:
    Subscription.objects.create(name="inner", kind="internal", patterns=["a.b.c"])
    Subscription.objects.create(name="mint", kind="consumer", patterns=["a.b.c"])
    for method, path in (
        *(("patch", "inner"), ("patch", "mint"), ("delete", "inner"), ("post", "mint/pause")),
        *(("post", "mint/seek"), ("post", "inner/rotate"), ("post", "inner/test")),
    ):
        answer = getattr(api, method)(f"{PATH}/{path}", {"start": "now"} if "seek" in path else {}, format="json")
        assert answer.status_code == 409 and answer["Content-Type"] == "application/problem+json", path
    assert api.post(f"{PATH}/inner/pause").status_code == 200
    assert api.get(f"{PATH}/mint").json()["behind"] is None


def test_attempts_are_paged_newest_first(api: APIClient) -> None:
    api.post(PATH, GOOD, format="json")
    row, event = Subscription.objects.get(name="billing"), published()
    for n in range(3):
        Attempt.objects.create(
            subscription=row,
            source=event.source,
            event_id=event.event_id,
            type=event.type,
            at=event.time,
            duration_ms=n,
            outcome="timeout",
            error="no answer in 10 s",
        )
    page = api.get(f"{PATH}/billing/attempts", {"page_size": 2}).json()
    assert [one["duration_ms"] for one in page["results"]] == [2, 1] and page["next"]
    assert api.get(f"{PATH}/billing/attempts", {"outcome": "delivered"}).json()["results"] == []


def test_a_test_of_an_endpoint_that_is_not_there_says_so(api: APIClient) -> None:
    api.post(PATH, GOOD | {"url": "http://127.0.0.1:1/"}, format="json")
    answer = api.post(f"{PATH}/billing/test")
    assert answer.status_code == 200, answer.json()
    assert (answer.json()["outcome"], answer.json()["status"]) == ("refused", None)
    assert Attempt.objects.get().type == "control.sample.sent"


def test_the_route_tester_says_who_gets_an_event_and_why(api: APIClient) -> None:
    for name, change in (
        ("all", {"patterns": ["#"]}),
        ("other", {"patterns": ["system.#"]}),
        ("source", {"source": "elsewhere"}),
        ("small", {"filter": "data.n < 0"}),
        ("odd", {"filter": "data.missing > 0"}),
        ("asleep", {}),
    ):
        assert api.post(PATH, GOOD | {"name": name} | change, format="json").status_code == 201
    api.post(f"{PATH}/asleep/pause")
    found = {row.name: (matched, why) for row, matched, why in queries.matching(published().as_cloudevent())}
    assert found["all"] == (True, "pattern # matches")
    assert found["other"] == (False, "no pattern matches business.order.placed")
    assert found["source"] == (False, "its source is mission-control, not elsewhere")
    assert found["small"] == (False, "the filter says false")
    assert found["odd"][1].startswith("the filter has no answer: ")
    assert found["asleep"] == (True, "pattern business.order.* matches, and it is paused")


def test_a_list_for_pages_has_lag_breaker_and_letters(api: APIClient) -> None:
    api.post(PATH, GOOD, format="json")
    event = published()
    queue.fail(Subscription.objects.get(), event, Failure("http_5xx", "answered 500"), event.time.timestamp())
    [seen] = queries.listing()
    assert (seen.behind, seen.breaker, seen.letters) == (1, "closed", {"retrying": 1})


def test_a_schema_that_breaks_a_subscription_is_refused_naming_it(api: APIClient) -> None:
    api.post(PATH, GOOD, format="json")
    first = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    registry.register("business.order.placed", first, author="test")
    assert consumers(["business.order.placed"]) == {"business.order.placed": ["billing"]}
    with pytest.raises(registry.Incompatible, match=r"It would break billing"):
        registry.register("business.order.placed", {"type": "object", "properties": {}}, author="test")


@pytest.mark.parametrize(("role", "whole"), [("viewer", False), ("operator", False), ("admin", True)])
def test_only_who_may_change_an_address_is_told_more_of_it_than_its_host(
    role: str, whole: bool, api: APIClient, client: Client
) -> None:
    """Many services have their secret in the path of their webhooks, or in its query."""
    api.post(PATH, GOOD | {"url": "https://hooks.example/services/T0/s3cret?key=s3cret"}, format="json")
    fleet_roles(lambda line: None)
    person = User.objects.create_user("pat", is_staff=True)
    person.groups.add(Group.objects.get(name=role))
    theirs = APIClient()
    theirs.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(person, 'test')[1]}")
    client.force_login(person)
    pk = Subscription.objects.get(name="billing").pk
    texts = [theirs.get(PATH).content, theirs.get(f"{PATH}/billing").content]
    texts += [client.get("/events/subscriptions/billing/").content]
    texts += [client.get(f"/admin/events/subscription/{pk}/change/").content]
    if role != "viewer":
        texts.append(theirs.post(f"{PATH}/billing/pause").content)
    for text in texts:
        assert b"hooks.example" in text and (b"s3cret" in text) is whole
    assert (b"billing" in client.get("/admin/events/subscription/", {"q": "s3cret"}).content) is whole
    # A token of an admin's that acts as a viewer is told what a viewer is.
    theirs.credentials(HTTP_AUTHORIZATION=f"Bearer {issue(person, 'small', grant=Grant('viewer'))[1]}")
    assert b"s3cret" not in theirs.get(f"{PATH}/billing").content
