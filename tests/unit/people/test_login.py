"""Logging in and out: who waits and who doesn't, where it leads, what is written down, and when a session ends."""

from __future__ import annotations

from typing import Any

import pytest
from auditlog.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client

from apps.lib import roles

pytestmark = pytest.mark.django_db

RIGHT = "long enough to pass"


@pytest.fixture(autouse=True)
def people() -> None:
    for name, role in (("ann", roles.VIEWER), ("boss", roles.ADMIN)):
        made = User.objects.create_user(name, password=RIGHT, is_staff=role == roles.ADMIN)
        made.groups.add(Group.objects.get_or_create(name=role)[0])


def login(
    client: Client, name: str, password: str, address: str = "192.0.2.1", path: str = "/login/", **more: str
) -> Any:
    return client.post(path, {"username": name, "password": password, **more}, REMOTE_ADDR=address)


def fail(name: str, times: int, address: str = "192.0.2.1") -> list[int]:
    return [login(Client(), name, "wrong", address).status_code for _ in range(times)]


def test_the_right_password_returns_to_the_page() -> None:
    answer = login(Client(), "ann", RIGHT, next="/gateway/")
    assert (answer.status_code, answer["Location"]) == (302, "/gateway/")


def test_the_sessions_cookie_is_for_this_site_and_no_script() -> None:
    cookie = login(Client(), "ann", RIGHT).cookies["mc_session"]
    assert (cookie["samesite"], cookie["httponly"], cookie["path"], cookie["domain"]) == ("Lax", True, "/", "")


@pytest.mark.parametrize(
    "next_",
    [
        "https://example.org/",
        "//example.org",
        "/\\example.org",
        "javascript:alert(1)",
        "https:example.org",
        "\x08//e.org",
    ],
)
@pytest.mark.parametrize("path", ["/login/", "/admin/login/"])
def test_login_and_logout_never_lead_to_another_host(path: str, next_: str) -> None:
    client = Client()
    assert login(client, "boss", RIGHT, path=path, next=next_)["Location"] == "/"
    assert client.post("/logout/", {"next": next_})["Location"] == "/login/"


def test_who_fails_waits_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("apps.people.logins.monotonic", lambda: now[0])
    assert fail("ann", 5) == [200] * 5
    waits = []
    for _ in range(4):
        answer = login(Client(), "ANN ", RIGHT)
        assert answer.status_code == 429
        waits.append(int(answer["Retry-After"]))
        now[0] += waits[-1]
        assert fail("ann", 1) == [200]
    assert waits == [5, 10, 20, 40]


def test_one_account_spelt_in_other_characters_waits_all_the_same() -> None:
    spellings = ["ann", "ANN", " ann", "\uff41nn", "a\uff4en", "\U0001d41ann", "\u00aann"]
    assert [fail(name, 1)[0] for name in spellings] == [200] * 5 + [429] * 2


def test_thirty_failures_of_strangers_keep_the_owner_from_nothing() -> None:
    fail("boss", 30, "198.51.100.9")
    assert login(Client(), "boss", RIGHT).status_code == 302, "from an address of its own"


def test_strangers_of_the_same_address_keep_nobody_out() -> None:
    for number in range(30):
        fail(f"guess{number}", 1)
    assert login(Client(), "boss", RIGHT).status_code == 302, "whose account nobody has tried"


def test_a_browser_that_is_known_is_not_held_up_by_its_address() -> None:
    mine = Client()
    assert login(mine, "boss", RIGHT).status_code == 302
    assert mine.post("/logout/").status_code == 302
    assert fail("boss", 30)[-1] == 429
    assert login(Client(), "boss", RIGHT).status_code == 429, "an unknown browser waits"
    assert login(mine, "boss", RIGHT).status_code == 302
    answers = [login(mine, "boss", "wrong").status_code for _ in range(6)]
    assert answers == [302] * 6, "who is logged in is sent on"
    mine.post("/logout/")
    assert [login(mine, "boss", "wrong").status_code for _ in range(6)][-1] == 429, (
        "a known browser may not guess either"
    )


def test_a_known_browser_is_known_for_its_own_user_alone() -> None:
    mine = Client()
    login(mine, "ann", RIGHT)
    mine.post("/logout/")
    fail("boss", 5)
    assert login(mine, "boss", RIGHT).status_code == 429


def test_a_forged_device_is_a_stranger() -> None:
    fail("boss", 5)
    client = Client()
    client.cookies["mc_device"] = "WyJib3NzIiwieCJd:1abcde:forged"
    assert login(client, "boss", RIGHT).status_code == 429


def test_one_address_can_not_try_every_name() -> None:
    answers = [fail(f"name{number}", 1)[0] for number in range(60)]
    assert answers.count(200) == 50 and answers[-1] == 429
    assert fail("name", 1, "192.0.2.2") == [200]


def test_sessions_go_on_while_their_address_is_throttled() -> None:
    client = Client()
    login(client, "ann", RIGHT)
    fail("ann", 30)
    assert client.get("/api/v1/services", REMOTE_ADDR="192.0.2.1").status_code == 200


def test_admin_has_the_same_throttle() -> None:
    fail("boss", 5)
    assert login(Client(), "boss", RIGHT, path="/admin/login/").status_code == 429


def test_a_login_is_in_the_audit_trail_with_its_address() -> None:
    login(Client(), "boss", RIGHT, "203.0.113.5")
    entry = LogEntry.objects.get(action=LogEntry.Action.ACCESS)
    assert (entry.object_repr, entry.actor.username, entry.remote_addr) == ("boss", "boss", "203.0.113.5")


def test_a_changed_password_is_in_the_audit_trail_without_its_hash() -> None:
    user = User.objects.get(username="ann")
    before = user.password
    user.set_password("another long password")
    user.save()
    entry = LogEntry.objects.filter(object_repr="ann", action=LogEntry.Action.UPDATE).latest("pk")
    assert "password" in entry.changes
    for secret in (before, user.password):
        assert not any(secret[-12:] in str(found.changes) for found in LogEntry.objects.all())


def test_a_session_that_was_planted_is_not_the_one_that_is_logged_in() -> None:
    client = Client()
    client.session.save()
    planted = client.session.session_key
    client.cookies["mc_session"] = planted
    login(client, "ann", RIGHT)
    assert client.session.session_key != planted
    thief = Client()
    thief.cookies["mc_session"] = planted
    assert thief.get("/").status_code == 302


def test_logout_ends_the_session_on_the_server_and_is_no_link() -> None:
    client = Client()
    login(client, "ann", RIGHT)
    key = client.session.session_key
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").status_code == 302
    client.cookies["mc_session"] = key
    assert client.get("/").status_code == 302


def test_a_password_change_ends_the_other_sessions() -> None:
    client = Client()
    login(client, "ann", RIGHT)
    user = User.objects.get(username="ann")
    user.set_password("another long password")
    user.save()
    assert client.get("/").status_code == 302


@pytest.mark.parametrize("path", ["/login/", "/logout/", "/admin/login/"])
def test_forms_need_their_token(path: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(username="ann"))
    assert client.post(path, {"username": "ann", "password": RIGHT}).status_code == 403


@pytest.mark.parametrize("name", ["a\x00b", "", "x" * 5000, "ä" * 200, "' or 1=1 --"])
def test_odd_names_are_wrong_names(name: str) -> None:
    assert login(Client(), name, RIGHT).status_code == 200
