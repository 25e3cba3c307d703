"""Django admin: every page opens, a save publishes, a refusal stands beside its field, a key is shown once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.gateway import actions
from apps.gateway.models import (
    ApiKey,
    BreakerOverride,
    BreakerPolicy,
    ConfigRevision,
    Consumer,
    JwtIssuer,
    Route,
    ServicePolicy,
)
from apps.lib.roles import OPERATOR, VIEWER
from apps.registry.models import Instance, Service
from missioncontrol.fleet import roles
from tests.unit.gateway.control.conftest import World


@pytest.fixture(autouse=True)
def unhashed_static_files(settings: Any) -> None:
    """The names of static files as they are: no start of the system has collected them here."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}


@pytest.fixture(autouse=True)
def published(world: World, published_redis: str) -> None:
    """A first revision, so that each test sees its own."""
    actions.publish("test")


@pytest.fixture
def boss(db: Any) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def staff(role: str) -> Client:
    roles(lambda line: None)
    user = User.objects.create_user(role, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def form_of(client: Client, path: str) -> dict[str, Any]:
    """What a browser would send if the page's form were saved as it is."""
    page = client.get(path)
    assert page.status_code == 200
    context = page.context
    data: dict[str, Any] = {}
    forms = [context["adminform"].form]
    for formset in context["inline_admin_formsets"]:
        forms += [formset.formset.management_form, *formset.formset.forms]
    for form in forms:
        for field in form:
            value = field.value()
            name = field.html_name
            if isinstance(value, bool):
                data |= {name: "on"} if value else {}
            elif hasattr(value, "isoformat"):
                data |= {f"{name}_0": value.date().isoformat(), f"{name}_1": value.time().isoformat("seconds")}
            elif isinstance(value, list):
                ticks = hasattr(field.field, "choices")
                data[name] = value if ticks else ", ".join(value)
            else:
                data[name] = "" if value is None else value
    return data


def change(model: Any, row: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.pk])


def add(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add")


def listing(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def newest() -> ConfigRevision:
    return ConfigRevision.objects.latest()


def said(client: Client, path: str) -> str:
    return client.get(path, follow=True).content.decode()


def test_every_page_opens(boss: Client, world: World) -> None:
    actions.issue_key(world.consumer, author="x", expires_at=timezone.now() + timedelta(days=1))
    BreakerPolicy.objects.create(name="b")
    ServicePolicy.objects.create(service=world.service)
    BreakerOverride.objects.create(service=world.service, state="open", reason="r", by="x")
    JwtIssuer.objects.create(name="i", issuer="https://i", audience="a", jwks_url="https://i/jwks")
    for model, page in admin.site._registry.items():
        assert boss.get(listing(model)).status_code == 200, model
        assert boss.get(listing(model), {"q": "x"}).status_code == 200, model
        assert boss.get(add(model)).status_code in {200, 403}, model
        row = page.get_queryset(boss.get(listing(model)).wsgi_request).first()
        if row is not None:
            assert boss.get(change(model, row)).status_code == 200, model
            assert boss.get(reverse("admin:index")).status_code == 200


def test_no_page_asks_another_host_or_runs_inline_script(boss: Client, world: World) -> None:
    for path in (reverse("admin:index"), listing(Route), change(Route, world.route), change(Service, world.service)):
        page = boss.get(path)
        text = page.content.decode()
        assert not re.search(r'(src|href)="(https?:)?//', text)
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")[^>]*>", text)
        policy = page.headers["Content-Security-Policy"]
        assert "http" not in policy and "script-src 'self' 'unsafe-eval'" in policy


def test_a_saved_change_is_published_in_its_authors_name(boss: Client, world: World) -> None:
    path = change(Route, world.route)
    response = boss.post(
        path, form_of(boss, path) | {"timeout": "2.5", "methods": ["GET", "POST"], "hosts": "a.org b.org"}
    )
    assert response.status_code == 302, response.context["errors"]
    assert newest().number == 2 and newest().author == "boss"
    (route,) = newest().content["routes"]
    assert (route["timeout"], route["methods"], route["hosts"]) == (2.5, ["GET", "POST"], ["a.org", "b.org"])


def test_saving_an_untouched_form_changes_nothing(boss: Client, world: World) -> None:
    for row in (world.route, world.service, world.instance, world.limit, world.consumer):
        path = change(type(row), row)
        assert boss.post(path, form_of(boss, path)).status_code == 302
    assert newest().number == 1, newest().summary


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"path": "no-slash"}, "path"),
        ({"timeout": "0"}, "timeout"),
        ({"timeout": "inf"}, "timeout"),
        ({"retries": "9"}, "retries"),
        ({"hosts": "UPPER.org"}, "hosts"),
        ({"methods": ["BREW"]}, "methods"),
        ({"service": ""}, "service"),
        ({"allow": []}, "allow"),
        ({"allow": ["*", "demo"]}, "allow"),
        ({"allow": ["stranger"]}, "allow"),
        ({"auth": []}, "allow"),
        ({"auth": ["key", "jwt"]}, "issuers"),
        ({"scopes": 'quo"te'}, "scopes"),
    ],
)
def test_what_does_not_validate_is_refused_beside_its_field(
    changes: dict[str, Any], field: str, boss: Client, world: World
) -> None:
    path = change(Route, world.route)
    response = boss.post(path, form_of(boss, path) | changes)
    assert response.status_code == 200
    assert list(response.context["adminform"].form.errors) == [field]
    assert newest().number == 1 and Route.objects.get().path == "/ledger"


def test_a_change_that_the_whole_does_not_bear_is_refused_beside_its_field(boss: Client, world: World) -> None:
    Route.objects.create(name="books", service=world.service, path="/books", allow=["*"])
    actions.publish("test")
    path = change(Route, Route.objects.get(name="books"))
    response = boss.post(path, form_of(boss, path) | {"path": "/ledger", "timeout": "1"})
    errors = response.context["adminform"].form.errors
    assert "both match /ledger" in errors["path"][0]
    assert 'value="/ledger"' in response.content.decode()
    route = Route.objects.get(name="books")
    assert (route.path, route.timeout) == ("/books", 15.0) and newest().number == 2


def test_a_new_row_that_the_whole_does_not_bear_is_not_added(boss: Client, world: World) -> None:
    data = form_of(boss, add(Route)) | {"name": "second", "service": world.service.pk, "path": "/ledger", "allow": "*"}
    response = boss.post(add(Route), data)
    assert "path" in response.context["adminform"].form.errors
    assert Route.objects.count() == 1 and newest().number == 1


def test_a_new_route_lets_nobody_in_until_it_is_said_who(boss: Client, world: World) -> None:
    Consumer.objects.create(name="shop", groups=["partners"])
    data = form_of(boss, add(Route)) | {"name": "books", "service": world.service.pk, "path": "/books"}
    refused = boss.post(add(Route), data)
    assert list(refused.context["adminform"].form.errors) == ["allow"] and newest().number == 1
    offered = [word for word, _ in refused.context["adminform"].form.fields["allow"].choices]
    assert offered == ["*", "@partners", "demo", "shop"]
    assert boss.post(add(Route), data | {"allow": ["@partners", "demo"]}).status_code == 302
    assert Route.objects.get(name="books").allow == ["@partners", "demo"]
    page = boss.get(listing(Route)).content.decode()
    assert "every consumer" in page and "@partners, demo" in page
    public = data | {"name": "open", "path": "/open", "auth": [], "allow": []}
    assert boss.post(add(Route), public).status_code == 302
    assert "anyone" in boss.get(listing(Route)).content.decode()


def test_a_consumer_that_a_route_names_is_not_deleted_or_renamed_under_it(boss: Client, world: World) -> None:
    Route.objects.update(allow=["demo"])
    path = change(Consumer, world.consumer)
    response = boss.post(path, form_of(boss, path) | {"name": "other"})
    assert "allows consumer demo" in str(response.context["adminform"].form.errors)
    gone = boss.post(reverse("admin:gateway_consumer_delete", args=[world.consumer.pk]), {"post": "yes"}, follow=True)
    assert "Not deleted: Route ledger allows consumer demo" in gone.content.decode()
    assert Consumer.objects.get().name == "demo"


def test_an_instance_edited_inside_its_service_is_published(boss: Client, world: World) -> None:
    path = change(Service, world.service)
    data = form_of(boss, path) | {"instances-0-url": "http://127.0.0.1:9999"}
    assert boss.post(path, data).status_code == 302
    assert newest().content["services"][0]["instances"][0]["url"] == "http://127.0.0.1:9999"
    bad = boss.post(path, data | {"instances-0-url": "ftp://x"})
    assert "url" in bad.context["inline_admin_formsets"][0].formset.errors[0] and newest().number == 2


@pytest.mark.django_db(transaction=True)
def test_the_answer_says_which_revision_it_became_and_warns_when_redis_is_away(
    boss: Client, world: World, settings: Any
) -> None:
    path = change(Route, world.route)
    there = boss.post(path, form_of(boss, path) | {"timeout": "3"}, follow=True).content.decode()
    assert "Published as revision 2" in there
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    away = boss.post(path, form_of(boss, path) | {"timeout": "4"}, follow=True).content.decode()
    assert "Stored as revision 3" in away and "Redis" in away
    assert newest().number == 3


def test_deleting_publishes_and_what_is_in_use_stays(boss: Client, world: World) -> None:
    in_use = boss.post(reverse("admin:registry_service_delete", args=[world.service.pk]), {"post": "yes"})
    assert in_use.status_code == 200 and Service.objects.exists() and newest().number == 1
    assert boss.post(reverse("admin:gateway_route_delete", args=[world.route.pk]), {"post": "yes"}).status_code == 302
    assert newest().content["routes"] == []


def test_deleting_several_publishes_once(boss: Client, world: World) -> None:
    Route.objects.create(name="books", service=world.service, path="/books", allow=["*"])
    actions.publish("test")
    rows = [row.pk for row in Route.objects.all()]
    boss.post(listing(Route), {"action": "delete_selected", "_selected_action": rows, "post": "yes"})
    assert newest().number == 3 and newest().content["routes"] == []


def test_an_action_that_the_whole_does_not_bear_changes_nothing(boss: Client, world: World) -> None:
    rival = Route.objects.create(name="rival", service=world.service, path="/ledger", enabled=False)
    page = boss.post(listing(Route), {"action": "enable", "_selected_action": [rival.pk]}, follow=True)
    assert "both match /ledger" in page.content.decode()
    rival.refresh_from_db()
    assert rival.enabled is False and newest().number == 1


def test_a_key_is_shown_once_and_kept_as_a_hash(boss: Client, world: World) -> None:
    page = boss.post(
        add(ApiKey), {"consumer": world.consumer.pk, "name": "job", "expires_at_0": "", "expires_at_1": ""}
    )
    assert page.status_code == 200 and "no-store" in page.headers["Cache-Control"]
    key = re.search(r'id="issued-key">(mc_[0-9a-f]{8}_\w{32})<', page.content.decode())
    assert key is not None
    row = ApiKey.objects.get()
    assert row.hash == actions.hash_key(key[1]) and row.created_by == "boss"
    assert newest().content["keys"][0]["hash"] == row.hash
    for path in (change(ApiKey, row), listing(ApiKey)):
        assert key[1] not in said(boss, path) and row.hash not in said(boss, path)


def test_a_key_may_not_expire_in_the_past_and_is_revoked_by_action(boss: Client, world: World) -> None:
    past = {"consumer": world.consumer.pk, "name": "", "expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
    assert "expires_at" in boss.post(add(ApiKey), past).context["adminform"].form.errors
    row, _ = actions.issue_key(world.consumer, author="x")
    boss.post(listing(ApiKey), {"action": "revoke", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert row.state == "revoked" and row.revoked_by == "boss" and newest().content["keys"][0]["revoked"] is True


def test_an_override_carries_its_authors_name(boss: Client, world: World) -> None:
    data = {"service": world.service.pk, "state": "open", "reason": "storm"}
    assert boss.post(add(BreakerOverride), data).status_code == 302
    assert BreakerOverride.objects.get().by == "boss"
    assert newest().content["services"][0]["breaker"]["override"] == "open"


def test_revisions_are_looked_at_and_never_changed(boss: Client, world: World) -> None:
    Route.objects.update(timeout=3)
    actions.publish("someone")
    page = said(boss, change(ConfigRevision, newest()))
    assert "timeout" in page and "15.0" in page and "3.0" in page
    assert boss.get(add(ConfigRevision)).status_code == 403
    assert boss.post(change(ConfigRevision, newest()), {"author": "x"}).status_code == 403
    assert boss.post(reverse("admin:gateway_configrevision_delete", args=[newest().pk])).status_code == 403


def test_a_viewer_looks_and_an_operator_drains(world: World) -> None:
    viewer, operator = staff(VIEWER), staff(OPERATOR)
    for client in (viewer, operator):
        assert client.get(change(Route, world.route)).status_code == 200
        assert client.post(change(Route, world.route), {"name": "x"}).status_code == 403
        assert client.get(listing(ApiKey)).status_code == 403
    drain = {"action": "drain", "_selected_action": [world.instance.pk]}
    viewer.post(listing(Instance), drain)
    assert Instance.objects.get().enabled is True
    operator.post(listing(Instance), drain)
    assert Instance.objects.get().enabled is False and newest().content["services"][0]["instances"] == []


def test_admin_has_no_second_login_by_which_to_guess_passwords(db: Any) -> None:
    User.objects.create_superuser("someone", password="a long enough password")
    client, place = Client(), reverse("admin:login")
    assert client.get("/admin/", follow=True).redirect_chain[-1][0].startswith(place)
    for _ in range(5):
        assert client.post(place, {"username": "someone", "password": "wrong"}).status_code == 200
    assert client.post(place, {"username": "someone", "password": "wrong"}).status_code == 429


def test_who_is_logged_in_but_no_staff_is_told_so(db: Any) -> None:
    client = Client()
    client.force_login(User.objects.create_user("plain"))
    assert client.get("/admin/", follow=True).status_code == 403
