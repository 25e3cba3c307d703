"""The pages as the server draws them: who sees which, what they say when engines are away, what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from apps.dashboard import pages, state
from apps.dashboard.judge.readings import Reading, Readings, Registry, Traffic
from apps.dashboard.sources import ChangeSource
from apps.events import actions as events
from apps.gateway.models import RateLimitPolicy, Route
from apps.lib import roles
from apps.lib.clock import wall
from apps.registry.models import Instance, Service

pytestmark = pytest.mark.django_db

PAGES = [
    "/",
    "/services/",
    "/services/covenant/",
    "/traces/",
    "/gateway/",
    "/system/",
    "/events/",
    "/events/catalogue/",
    "/events/subscriptions/",
    "/events/dead-letters/",
    "/events/flow/",
    "/events/tester/",
]


def user(role: str | None) -> User:
    made = User.objects.create_user("ann", password="long enough to pass")
    if role:
        made.groups.add(Group.objects.get_or_create(name=role)[0])
    return made


@pytest.fixture
def covenant() -> Service:
    service = Service.objects.create(
        name="covenant", title="Covenant", description="A ledger.", owner="the ledger team"
    )
    Instance.objects.create(service=service, name="covenant-1", url="http://127.0.0.1:7102")
    limit = RateLimitPolicy.objects.create(name="standard", requests=200)
    Route.objects.create(name="covenant", service=service, path="/covenant", allow=["*"], rate_limit=limit)
    return service


@pytest.fixture
def away(settings: Any) -> None:
    """Neither Redis nor ClickHouse answers: ports that nobody listens on."""
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CLICKHOUSE_URL = "http://127.0.0.1:1"


@pytest.fixture
def viewer(client: Client) -> Client:
    client.force_login(user(roles.VIEWER))
    return client


@pytest.mark.parametrize("source", ["losses.LossSource", "traffic.TrafficSource"])
def test_a_source_that_fails_in_a_way_nobody_foresaw_takes_no_page_with_it(
    viewer: Client, away: None, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def fail(self: Any) -> Any:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(f"apps.dashboard.{source}.read", fail)
    assert [viewer.get(path).status_code for path in ("/", "/services/", "/gateway/", "/system/")] == [200] * 4
    assert "everything is healthy" not in viewer.get("/").content.decode().lower()


def test_the_gateways_page_says_who_may_call_each_route(viewer: Client, covenant: Service, away: None) -> None:
    Route.objects.create(name="open", service=covenant, path="/open", auth=[])
    Route.objects.create(name="some", service=covenant, path="/some", auth=["key", "jwt"], allow=["demo", "@partners"])
    text = viewer.get("/gateway/").content.decode()
    for who in ("anyone", "every consumer, by API key", "demo, @partners, by API key or JWT"):
        assert f"<td>{who}<td" in text


@pytest.mark.parametrize("path", PAGES)
def test_a_stranger_is_sent_to_log_in_and_back(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize("path", PAGES)
def test_who_has_no_role_is_told_so(client: Client, path: str) -> None:
    client.force_login(user(None))
    answer = client.get(path)
    assert answer.status_code == 403
    assert "You have no role yet" in answer.content.decode()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_drawn_while_the_engines_are_away(
    viewer: Client, covenant: Service, away: None, path: str
) -> None:
    answer = viewer.get(path)
    text = answer.content.decode()
    assert answer.status_code == 200
    assert '<html lang="en">' in text
    # Control answers, and so does the database: of all else nothing is known, and nothing is green.
    known = r'data-(?:part|process|source)="(?:control|database|events|bus)" data-state="healthy"'
    assert 'data-state="healthy"' not in re.sub(known, "", text.replace(' data-f="state"', ""))
    assert "Everything is healthy" not in text
    assert "Nobody" not in text


@pytest.mark.parametrize("path", PAGES)
def test_no_page_carries_inline_script_or_style(viewer: Client, covenant: Service, away: None, path: str) -> None:
    answer = viewer.get(path)
    text = answer.content.decode()
    assert "style=" not in text
    assert "<style" not in text
    assert " on" + "click=" not in text
    assert text.count("<script") == text.count("<script src=") + text.count('<script type="module" src=')
    policy = answer["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy


def test_an_empty_system_says_what_to_do_next(viewer: Client, away: None) -> None:
    assert "No services yet" in viewer.get("/").content.decode()
    assert "No routes yet" in viewer.get("/gateway/").content.decode()


def test_only_who_may_act_gets_the_buttons(client: Client, covenant: Service, away: None) -> None:
    ann = user(roles.VIEWER)
    client.force_login(ann)
    assert "data-act=" not in client.get("/services/covenant/").content.decode()
    ann.groups.add(Group.objects.get_or_create(name=roles.OPERATOR)[0])
    text = client.get("/services/covenant/").content.decode()
    assert "/api/v1/breakers/covenant/open" in text
    assert f"/api/v1/instances/{covenant.instances.get().pk}/disable" in text


def test_names_are_escaped(viewer: Client, covenant: Service, away: None) -> None:
    Service.objects.filter(pk=covenant.pk).update(description="<script>alert(1)</script>")
    text = viewer.get("/services/covenant/").content.decode()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_an_unknown_service_is_not_found(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Readings(registry=Reading(Registry(), wall()), traffic=Reading(Traffic(reported_at=wall()), wall()))
    monkeypatch.setattr(pages, "current", lambda: state.build(seen, {}, wall()))
    answer = viewer.get("/services/nobody/")
    assert answer.status_code == 404
    assert "There is nothing at this address" in answer.content.decode()


def test_without_telemetry_nobody_can_say_that_a_service_is_not_there(viewer: Client, away: None) -> None:
    answer = viewer.get("/services/nobody/")
    assert answer.status_code == 503
    assert "not known now: ClickHouse does not answer" in answer.content.decode()


@pytest.mark.parametrize("trace_id", ["nothex", "4BF92F3577B34DA6A3CE929D0E0E4736", "0" * 31, "<script>"])
def test_what_is_no_trace_id_is_not_found(viewer: Client, trace_id: str) -> None:
    assert viewer.get(f"/traces/{trace_id}/").status_code == 404


def test_a_trace_says_that_clickhouse_is_away(viewer: Client, away: None) -> None:
    answer = viewer.get(f"/traces/{'a' * 32}/")
    assert answer.status_code == 503
    assert "ClickHouse does not answer" in answer.content.decode()


@pytest.mark.parametrize("least", ["abc", "-5", "nan", "inf", "1e999"])
def test_a_wrong_filter_is_said_beside_the_list(viewer: Client, away: None, least: str) -> None:
    answer = viewer.get("/traces/", {"min_ms": least})
    assert answer.status_code == 400
    assert "is a number of milliseconds" in answer.content.decode()


def test_charts_say_that_clickhouse_is_away(viewer: Client, covenant: Service, away: None) -> None:
    answer = viewer.get("/services/covenant/red.json")
    assert answer.status_code == 503
    assert "ClickHouse" in answer.json()["error"]


def test_what_changed_is_told_once_until_it_changes_back(settings: Any) -> None:
    def publish(kind: str, subject: str) -> None:
        events.publish(f"system.{kind}", {"reason": "because"}, subject=subject)

    for kind in ("breaker.opened", "breaker.half-opened", "breaker.opened", "breaker.half-opened", "breaker.closed"):
        publish(kind, "covenant")
    publish("breaker.opened", "covenant")
    publish("configuration.published", "7")
    told = [(one["title"], one["kind"]) for one in ChangeSource().read().recent]
    assert told == [
        ("revision 7", "deploy"),
        ("covenant breaker open", "bad"),
        ("covenant breaker closed", "ok"),
        ("covenant breaker open", "bad"),
    ]


def test_the_feed_tells_its_counts_to_who_may_read(client: Client, viewer: Client) -> None:
    body = viewer.get("/api/v1/live").json()
    assert body["counts"]["browsers"] == 0
    assert body["running"] is False
    client.logout()
    assert client.get("/api/v1/live").status_code == 401
