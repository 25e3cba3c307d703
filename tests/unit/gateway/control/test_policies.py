"""Policies by form and by API, made from their structs: any struct gets its fields, and those there are work whole."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse
from msgspec import Meta
from rest_framework import serializers as rest
from rest_framework.test import APIClient

from apps.gateway import actions, compile, forms, queries
from apps.gateway.core import config
from apps.gateway.described import POLICIES, Wrong, members, read
from apps.gateway.models import ConfigRevision, Route
from apps.gateway.serializers import _setting
from tests.unit.gateway.control.conftest import World
from tests.unit.gateway.control.test_admin import change, form_of


class Sample(msgspec.Struct, frozen=True):
    """Every kind of setting there is."""

    flag: bool = False
    whole: Annotated[int, Meta(ge=1, le=9, title="How many", description="One to nine.")] = 2
    number: Annotated[float, Meta(gt=0)] | None = None
    text: Annotated[str, Meta(pattern="^a")] = "a"
    choice: Literal["one", "two"] = "one"
    words: tuple[str, ...] = ("x",)
    fields: dict[str, str] = {}


@pytest.fixture
def admin(world: World, published_redis: str, settings: Any) -> Client:
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
    actions.publish("test")
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


@pytest.fixture
def api(admin: Client) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(User.objects.get())
    return client


def newest() -> ConfigRevision:
    return ConfigRevision.objects.latest()


# -- from any struct ------------------------------------------------------------------------------------------


def test_a_setting_has_its_name_type_bounds_help_and_default_from_the_struct() -> None:
    found = {member.name: member for member in members(Sample)}
    assert [member.kind for member in found.values()] == list(Sample.__struct_fields__)
    assert (found["whole"].title, found["whole"].help, found["whole"].default) == ("How many", "One to nine.", 2)
    assert found["choice"].choices == ("one", "two") and found["number"].optional and not found["whole"].optional
    assert found["fields"].default == {} and found["words"].default == ("x",)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("flag", [("on", True), ("", False)], []),
        ("whole", [("9", 9)], ["0", "10", "x", "", "1.5"]),
        ("number", [("0.5", 0.5), ("", None)], ["0", "x", "nan"]),
        ("text", [("abc", "abc")], ["b"]),
        ("choice", [("two", "two")], ["three"]),
        ("words", [("a, b", ["a", "b"]), ("", [])], []),
        ("fields", [("A: b\r\nC:d", {"A": "b", "C": "d"}), ("", {})], ["no colon", "A: b\nA: c"]),
    ],
)
def test_a_form_asks_for_a_setting_within_its_bounds(name: str, good: list[tuple[str, Any]], bad: list[str]) -> None:
    member = next(member for member in members(Sample) if member.name == name)
    field = forms.field(member)
    for typed, meant in good:
        assert field.clean(typed) == meant
    for typed in bad:
        with pytest.raises(ValidationError):
            field.clean(typed)


@pytest.mark.parametrize("name", ["whole", "number", "text", "choice", "words", "fields"])
def test_what_a_form_shows_of_a_default_is_no_change_when_it_comes_back(name: str) -> None:
    found = forms.field(next(member for member in members(Sample) if member.name == name))
    shown = found.prepare_value(found.initial)
    assert not found.has_changed(found.initial, "" if shown is None else str(shown))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("flag", True, "on"),
        ("whole", 3, "x"),
        ("number", 0.5, True),
        ("choice", "two", "three"),
        ("words", ["a"], "a"),
        ("fields", {"A": "b"}, ["A"]),
    ],
)
def test_the_api_takes_a_setting_of_its_type(name: str, good: Any, bad: Any) -> None:
    field = _setting(next(member for member in members(Sample) if member.name == name))
    assert field.run_validation(good) == good
    with pytest.raises(rest.ValidationError):
        field.run_validation(bad)


def test_a_setting_that_no_form_can_ask_for_is_found_when_it_is_written() -> None:
    class Odd(msgspec.Struct):
        odd: set[int] = set()

    with pytest.raises(LookupError, match="add one"):
        members(Odd)


def test_every_setting_of_every_policy_is_explained() -> None:
    for policy in POLICIES:
        assert policy.help and all(member.help for member in policy.members), policy.name
    assert [policy.name for policy in POLICIES] == list(config.Policies.__struct_fields__)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"headers": {"request_set": {"Host": "x"}}}, ("headers", "request_set")),
        ({"headers": {"response_remove": "X"}}, ("headers", "response_remove")),
        ({"headers": {"request_set": {"X": 1}}}, ("headers", "request_set")),
        ({"headers": {"requests": {}}}, ("headers", "")),
        ({"headers": []}, ("headers", "")),
        ({"nothing": {}}, ("", "")),
        ([], ("", "")),
        ("headers", ("", "")),
    ],
)
def test_what_is_wrong_says_where(given: Any, where: tuple[str, str]) -> None:
    with pytest.raises(Wrong) as wrong:
        read(given)
    assert (wrong.value.policy, wrong.value.member) == where
    assert str(wrong.value)[0].isupper() and str(wrong.value).endswith(".") and "$" not in str(wrong.value)


def test_what_is_kept_is_whole_and_without_what_is_off() -> None:
    assert read({"headers": None}) == {} == read({})
    assert set(read({"headers": {}})["headers"]) == set(config.Headers.__struct_fields__)


# -- by form --------------------------------------------------------------------------------------------------


def test_an_admin_sets_headers_by_the_form_and_reads_them_in_words(admin: Client, world: World) -> None:
    page = change(Route, world.route)
    written = {
        "policy_headers": "on",
        "policy_headers_request_set": "X-Env: prod\r\nX-Who: {consumer}",
        "policy_headers_response_remove": "Server, X-Powered-By",
    }
    assert admin.post(page, form_of(admin, page) | written).status_code == 302
    world.route.refresh_from_db()
    headers = world.route.policies["headers"]
    assert headers["request_set"] == {"X-Env": "prod", "X-Who": "{consumer}"}
    assert headers["response_remove"] == ["Server", "X-Powered-By"] and headers["request_add"] == {}
    published = config.decode(newest().document.encode()).routes[0].policies.headers
    assert published is not None and published.request_set["X-Env"] == "prod"
    assert "X-Env prod" in newest().summary
    shown = admin.get(page).content.decode()
    assert "request: sets X-Env, X-Who; response: removes Server, X-Powered-By" in shown
    revision = newest().number
    assert admin.post(page, form_of(admin, page)).status_code == 302, "saved as it is"
    assert newest().number == revision
    off = form_of(admin, page)
    del off["policy_headers"]
    assert admin.post(page, off).status_code == 302
    world.route.refresh_from_db()
    assert world.route.policies == {} and newest().number == revision + 1


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({"policy_headers_request_set": "Host: evil"}, "policy_headers_request_set"),
        ({"policy_headers_response_add": "Set-Cookie: mc_session=x"}, "policy_headers_response_add"),
        ({"policy_headers_request_set": "X-A"}, "policy_headers_request_set"),
        ({"policy_headers_request_set": "X-A: a\x00b"}, "policy_headers_request_set"),
        ({"policy_headers_request_set": "X-A: {nobody}"}, "policy_headers_request_set"),
        ({"policy_headers_request_remove": "Authorization"}, "policy_headers_request_remove"),
        ({"policy_headers": "", "policy_headers_request_set": "X-A: b"}, "policy_headers"),
    ],
)
def test_a_form_says_beside_the_field_what_can_not_be(
    admin: Client, world: World, written: dict[str, str], field: str
) -> None:
    page = change(Route, world.route)
    response = admin.post(page, form_of(admin, page) | {"policy_headers": "on"} | written)
    assert response.status_code == 200
    assert list(response.context["adminform"].form.errors) == [field]
    world.route.refresh_from_db()
    assert world.route.policies == {} and newest().number == 1


def test_a_new_route_may_have_policies_at_once(admin: Client, world: World) -> None:
    page = reverse("admin:gateway_route_add")
    data = form_of(admin, page) | {"name": "books", "service": world.service.pk, "path": "/books", "allow": ["*"]}
    assert admin.post(page, data | {"policy_headers": "on", "policy_headers_request_add": "X-A: b"}).status_code == 302
    assert Route.objects.get(name="books").policies["headers"]["request_add"] == {"X-A": "b"}


# -- by API ---------------------------------------------------------------------------------------------------


def test_the_api_sets_replaces_and_takes_away_a_policy(api: APIClient) -> None:
    at = "/api/v1/routes/ledger"
    assert api.get(at).json()["policies"] == {"headers": None}
    made = api.patch(at, {"policies": {"headers": {"request_set": {"X-Env": "prod"}}}}, format="json")
    assert made.status_code == 200, made.content
    assert made.json()["policies"]["headers"]["request_set"] == {"X-Env": "prod"}
    assert {"policy": "Headers", "words": "request: sets X-Env"} in made.json()["in_words"]
    kept = api.patch(at, {"policies": {}}, format="json")
    assert kept.json()["policies"]["headers"]["request_set"] == {"X-Env": "prod"}, "what is not named stays"
    other = api.patch(at, {"policies": {"headers": {"request_remove": ["X-B"]}}}, format="json").json()
    assert other["policies"]["headers"]["request_set"] == {}, "a policy's settings are replaced whole"
    gone = api.patch(at, {"policies": {"headers": None}}, format="json").json()
    assert gone["policies"] == {"headers": None} and newest().number == 4
    shown = {name: value for name, value in made.json().items() if name not in {"in_words", "shadowed_by"}}
    whole = api.put(at, {name: shown[name] for name in shown if not name.endswith("_at")}, format="json")
    assert whole.status_code == 200 and whole.json()["policies"] == made.json()["policies"], "what is shown can be put"


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"headers": {"request_set": {"Host": "x"}}}, "Host is the gateway's own"),
        ({"headers": {"request_set": {"X-A": "a\r\nX-B: c"}}}, "one line"),
        ({"headers": {"request_set": {"X-A": "a\u0000b"}}}, ""),
        ({"headers": {"request_set": "X-A: b"}}, ""),
        ({"headers": {"request_sets": {}}}, "no such field"),
        ({"heathers": {}}, "no such field"),
        ({"headers": True}, ""),
        ([], ""),
        (None, ""),
        ({"headers": {"response_set": {f"X-{n}": "x" for n in range(21)}}}, "20 fields at most"),
    ],
)
def test_the_api_refuses_beside_the_field_what_can_not_be(api: APIClient, policies: Any, said: str) -> None:
    response = api.patch("/api/v1/routes/ledger", {"policies": policies}, format="json")
    assert response.status_code == 400, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    assert said in response.content.decode() and newest().number == 1


def test_what_the_model_accepts_compiles(world: World) -> None:
    world.route.policies = {"headers": {"request_set": {"X-A": "b"}}}
    world.route.full_clean()
    assert compile.route(world.route).policies.headers == config.Headers(request_set={"X-A": "b"})
    world.route.policies = {"headers": {"request_set": {"Host": "b"}}}
    with pytest.raises(ValidationError) as error:
        world.route.full_clean()
    assert "headers.request_set" in error.value.message_dict["policies"][0]
    with pytest.raises(config.ConfigError) as refused:
        compile.route(world.route)
    assert refused.value.field == "policies", "whatever way it came into the table, no worker is sent it"
    (told,) = queries.policies_in_words(world.route)
    assert told[0] == "Can't be published" and "Host" in told[1], "and the pages open"
