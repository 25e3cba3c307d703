"""REST tokens: shown once, bounded in time and reach, listed and ended by their owner, dead with the password."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from apps.lib.roles import ADMIN, AREAS, OPERATOR, RANK, VIEWER, Grant
from apps.people import actions
from apps.people.actions import DEFAULT_LIFE, LONGEST_LIFE, MOST, Uses, issue
from apps.people.models import ApiToken

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_redis(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    actions._uses = Uses()


def person(name: str, role: str) -> User:
    made = User.objects.create_user(name, password="long enough to pass")
    made.groups.add(Group.objects.get_or_create(name=role)[0])
    return made


@pytest.fixture
def boss() -> User:
    return person("boss", ADMIN)


def by_token(token: str) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client


def by_session(user: User) -> APIClient:
    client = APIClient(raise_request_exception=False)
    client.force_login(user)
    return client


def refused(answer: Any, status: int, failure: str) -> str:
    assert answer.status_code == status, answer.content
    assert answer.json()["failure"] == failure
    return str(answer.json()["detail"])


# -- life ----------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_a_digest(boss: User) -> None:
    made = by_session(boss).post("/api/v1/tokens", {"name": "deployment"}, format="json")
    assert made.status_code == 201 and made.headers["Cache-Control"] == "no-store"
    token, pk = made.json()["token"], made.json()["id"]
    assert by_token(token).get("/api/v1/services").status_code == 200
    for answer in (by_token(token).get("/api/v1/tokens"), by_token(token).get(f"/api/v1/tokens/{pk}")):
        assert token not in answer.content.decode() and ApiToken.objects.get().digest not in answer.content.decode()
    assert token not in str(ApiToken.objects.values().get())


def test_it_lasts_ninety_days_unless_another_time_is_chosen_and_never_much_over_a_year(boss: User) -> None:
    client, now = by_session(boss), timezone.now()
    made = client.post("/api/v1/tokens", {"name": "a"}, format="json").json()
    assert abs(timezone.datetime.fromisoformat(made["expires_at"]) - now - DEFAULT_LIFE) < timedelta(minutes=1)
    for wrong in (now, now + LONGEST_LIFE + timedelta(days=1), None, "tomorrow"):
        body = {"name": "b", "expires_at": wrong if not hasattr(wrong, "isoformat") else wrong.isoformat()}
        assert "expires_at" in client.post("/api/v1/tokens", body, format="json").json()["errors"]


def test_an_expired_and_an_ended_token_are_told_so(boss: User) -> None:
    row, token = issue(boss, "test")
    ApiToken.objects.update(expires_at=timezone.now())
    assert "expired" in refused(by_token(token).get("/api/v1/services"), 401, "not_authenticated")
    ApiToken.objects.update(expires_at=timezone.now() + DEFAULT_LIFE)
    assert by_session(boss).delete(f"/api/v1/tokens/{row.pk}").status_code == 204
    assert "boss ended it" in refused(by_token(token).get("/api/v1/services"), 401, "not_authenticated")


def test_a_new_password_ends_every_token_for_good(boss: User) -> None:
    _, token = issue(boss, "test")
    boss.set_password("another long password")
    boss.save()
    assert "password" in refused(by_token(token).get("/api/v1/services"), 401, "not_authenticated")
    boss.set_password("long enough to pass")
    boss.save()
    assert by_token(token).get("/api/v1/services").status_code == 401


def test_a_hash_that_django_makes_anew_ends_nothing(boss: User, settings: Any) -> None:
    _, token = issue(boss, "test")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", *settings.PASSWORD_HASHERS]
    before = boss.password
    assert User.objects.get().check_password("long enough to pass")
    assert User.objects.get().password != before
    assert by_token(token).get("/api/v1/services").status_code == 200


def test_deactivation_ends_every_token_also_when_it_is_undone(boss: User) -> None:
    _, token = issue(boss, "test")
    for active in (False, True):
        boss.is_active = active
        boss.save()
        assert by_token(token).get("/api/v1/services").status_code == 401


def test_the_last_use_is_noted_once_a_minute(boss: User, django_assert_num_queries: Any) -> None:
    _, token = issue(boss, "test")
    client = by_token(token)
    assert ApiToken.objects.get().last_used_at is None
    client.get("/api/v1/tokens")
    used = ApiToken.objects.get().last_used_at
    assert used is not None
    client.get("/api/v1/tokens")
    assert ApiToken.objects.get().last_used_at == used
    uses = Uses(most=2)
    assert [uses.due(pk, now) for pk, now in ((1, 0.0), (1, 59.0), (1, 60.0), (2, 60.0), (3, 60.0), (1, 61.0))] == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]


def test_there_are_at_most_so_many_and_old_ones_are_forgotten(boss: User) -> None:
    for _ in range(MOST):
        issue(boss, "test")
    client = by_session(boss)
    refused(client.post("/api/v1/tokens", {"name": "one more"}, format="json"), 409, "too_many_tokens")
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(days=91))
    assert client.post("/api/v1/tokens", {"name": "one more"}, format="json").status_code == 201
    assert ApiToken.objects.count() == 1


def test_its_life_is_in_the_audit_trail_without_its_digest(boss: User) -> None:
    row, token = issue(boss, "test")
    by_token(token).delete(f"/api/v1/tokens/{row.pk}")
    entries = LogEntry.objects.filter(content_type__model="apitoken")
    assert [entry.action for entry in entries.order_by("pk")] == [LogEntry.Action.CREATE, LogEntry.Action.UPDATE]
    assert not any(row.digest in str(entry.changes) for entry in entries)
    assert entries.latest("pk").actor == boss


# -- whose ---------------------------------------------------------------------------------------


def test_nobody_sees_or_ends_anothers(boss: User) -> None:
    row, _ = issue(person("ann", VIEWER), "test")
    client = by_session(boss)
    assert client.get("/api/v1/tokens").json()["results"] == []
    for answer in (client.get(f"/api/v1/tokens/{row.pk}"), client.delete(f"/api/v1/tokens/{row.pk}")):
        refused(answer, 404, "not_found")


# -- reach ---------------------------------------------------------------------------------------


def test_a_token_can_do_no_more_than_its_owner_does_now(boss: User) -> None:
    ann = person("ann", VIEWER)
    refused(by_session(ann).post("/api/v1/tokens", {"name": "x", "role": "admin"}, format="json"), 403, "beyond_token")
    _, token = issue(boss, "test")
    boss.groups.set([Group.objects.get_or_create(name=VIEWER)[0]])
    refused(by_token(token).get("/api/v1/keys"), 403, "not_allowed")
    boss.groups.clear()
    refused(by_token(token).get("/api/v1/services"), 403, "not_allowed")


def test_a_superusers_token_keeps_to_its_role() -> None:
    root = User.objects.create_superuser("root")
    _, token = issue(root, "test", grant=Grant(VIEWER))
    client = by_token(token)
    assert client.get("/api/v1/services").status_code == 200
    refused(client.get("/api/v1/keys"), 403, "beyond_token")
    refused(client.post("/api/v1/services", {"name": "x"}, format="json"), 403, "beyond_token")


def test_a_token_that_only_reads_changes_nothing(boss: User) -> None:
    _, token = issue(boss, "test", grant=Grant(ADMIN, read_only=True))
    client = by_token(token)
    assert client.get("/api/v1/keys").status_code == 200
    for method, path in (
        ("post", "services"),
        ("put", "services/x"),
        ("patch", "services/x"),
        ("delete", "services/x"),
    ):
        refused(getattr(client, method)(f"/api/v1/{path}", {}, format="json"), 403, "beyond_token")
    refused(client.post("/api/v1/tokens", {"name": "x"}, format="json"), 403, "beyond_token")


def test_a_token_for_an_area_opens_no_other(boss: User) -> None:
    _, token = issue(boss, "test", grant=Grant(ADMIN, areas=frozenset({"services"})))
    client = by_token(token)
    for noun in ("services", "instances"):
        assert client.get(f"/api/v1/{noun}").status_code == 200
    for noun in ("routes", "keys", "tokens", "health", "live"):
        refused(client.get(f"/api/v1/{noun}"), 403, "beyond_token")
    refused(client.get("/api/v1//services/../keys"), 404, "not_found")


def test_a_token_ends_none_that_can_do_more_than_itself(boss: User) -> None:
    (small, token), (large, _) = issue(boss, "small", grant=Grant(VIEWER)), issue(boss, "large")
    client = by_token(token)
    refused(client.delete(f"/api/v1/tokens/{large.pk}"), 403, "beyond_token")
    large.refresh_from_db()
    assert large.ended_at is None
    assert client.delete(f"/api/v1/tokens/{small.pk}").status_code == 204
    assert by_session(boss).delete(f"/api/v1/tokens/{large.pk}").status_code == 204


@pytest.mark.parametrize(
    "body", [{"role": "boss"}, {"areas": ["moon"]}, {"areas": "services"}, {"read_only": 1}, {"name": ""}]
)
def test_what_makes_no_sense_is_told_beside_its_field(boss: User, body: dict[str, Any]) -> None:
    answer = by_session(boss).post("/api/v1/tokens", {"name": "x"} | body, format="json")
    refused(answer, 400, "invalid")
    assert set(answer.json()["errors"]) == set(body)


def test_a_token_makes_none_that_can_do_or_last_more_than_itself(boss: User) -> None:
    soon = timezone.now() + timedelta(hours=1)
    _, token = issue(boss, "test", soon, grant=Grant(OPERATOR, areas=frozenset({"tokens", "services"})))
    client = by_token(token)
    for more in ({"role": "admin"}, {"areas": []}, {"areas": ["services", "keys"]}, {"areas": ["consumers"]}):
        answer = client.post("/api/v1/tokens", {"name": "x"} | more, format="json")
        assert answer.status_code in {400, 403}, answer.content
    made = client.post("/api/v1/tokens", {"name": "child", "role": "viewer", "areas": ["services"]}, format="json")
    assert made.status_code == 201
    assert timezone.datetime.fromisoformat(made.json()["expires_at"]) <= soon
    assert client.post("/api/v1/tokens", {"name": "heir"}, format="json").json()["areas"] == ["services", "tokens"]


GRANTS = [
    Grant(role, read_only, frozenset(areas))
    for role in RANK
    for read_only in (False, True)
    for areas in ((), ("services",), ("services", "tokens"))
]


@pytest.mark.parametrize("outer", GRANTS)
def test_covering_is_what_refusals_say(outer: Grant) -> None:
    """A grant covers another exactly when whatever it refuses is refused by the other too."""
    asks = [
        (f"/api/v1/{next(iter(AREAS[area]))}", safe, role) for area in AREAS for safe in (True, False) for role in RANK
    ]
    for inner in GRANTS:
        within = all(
            inner.refusal(path, safe=safe, needed=role) or not outer.refusal(path, safe=safe, needed=role)
            for path, safe, role in asks
        )
        assert outer.covers(inner) is within, (outer, inner)


# -- failures ------------------------------------------------------------------------------------


def test_wrong_tokens_are_slowed_down_and_right_ones_are_not(boss: User) -> None:
    _, token = issue(boss, "test")
    answers = [by_token(f"mct_guess_{number}").get("/api/v1/services").status_code for number in range(60)]
    assert answers[:50] == [401] * 50 and answers[-1] == 429
    answer = by_token("mct_guess").get("/api/v1/services")
    assert refused(answer, 429, "rate_limited") and int(answer.headers["Retry-After"]) > 0
    assert by_token(token).get("/api/v1/services").status_code == 200
    assert by_token("mct_guess").get("/api/v1/services", REMOTE_ADDR="192.0.2.8").status_code == 401


def test_wrong_tokens_of_one_network_are_counted_together(boss: User) -> None:
    def guess(address: str) -> int:
        return int(by_token("mct_guess").get("/api/v1/services", REMOTE_ADDR=address).status_code)

    assert [guess(f"2001:db8::{number:x}") for number in range(1, 52)] == [401] * 50 + [429]
    assert guess("2001:db8:0:1::1") == 401


@pytest.mark.parametrize("token", ["x" * 10_000, "mct_", "%00", "a\\x00"])
def test_odd_tokens_are_unknown(token: str) -> None:
    assert by_token(token).get("/api/v1/services").status_code == 401


# -- the page ------------------------------------------------------------------------------------

FORM = {"name": "deployment", "role": "viewer", "read_only": "on", "areas": ["services"], "days": "30"}


def test_the_page_shows_a_new_token_once_and_what_became_of_it(boss: User, client: Client) -> None:
    client.force_login(boss)
    made = client.post("/tokens/", FORM)
    row = ApiToken.objects.get()
    token = made.context["issued"]
    assert made.status_code == 201 and token in made.content.decode() and "no-store" in made.headers["Cache-Control"]
    assert (row.role, row.read_only, row.areas) == ("viewer", True, ["services"])
    assert by_token(token).get("/api/v1/services").status_code == 200
    listed = client.get("/tokens/").content.decode()
    assert token not in listed and row.prefix in listed and "never" not in listed
    assert client.post(f"/tokens/{row.pk}/end/").status_code == 302
    assert by_token(token).get("/api/v1/services").status_code == 401
    assert "boss ended it" in client.get("/tokens/").content.decode()


def test_the_page_refuses_what_its_user_may_not_give_and_ends_no_others(boss: User, client: Client) -> None:
    row, token = issue(boss, "test")
    client.force_login(person("ann", VIEWER))
    answer = client.post("/tokens/", FORM | {"role": "admin"})
    assert answer.status_code == 403 and "no more than its owner" in answer.content.decode()
    assert client.post("/tokens/", FORM | {"days": "9999"}).status_code == 400
    client.post(f"/tokens/{row.pk}/end/")
    assert client.get(f"/tokens/{row.pk}/end/").status_code == 405
    assert by_token(token).get("/api/v1/services").status_code == 200
    assert row.prefix not in client.get("/tokens/").content.decode()


@pytest.mark.parametrize("path", ["/tokens/", "/tokens/1/end/"])
def test_the_page_needs_its_form_token(boss: User, path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(boss)
    assert client.post(path, FORM).status_code == 403
