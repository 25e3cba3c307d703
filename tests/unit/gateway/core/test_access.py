"""Who may call a route, and which credentials go on."""

from __future__ import annotations

import pytest

from apps.gateway.core import config
from apps.gateway.core.access import Access, sent_on
from apps.gateway.core.auth import Denied, Identity
from apps.gateway.core.headers import RequestHead

GROUPS = {"billing": ("partners", "internal"), "shop": ("partners",)}


def caller(name: str, *scopes: str) -> Identity:
    return Identity(name, "key", None, 0.0, groups=GROUPS.get(name, ()), scopes=scopes)


def access(**route: object) -> Access:
    return Access(config.Route("r", "s", "/r", **route))  # type: ignore[arg-type]


def refused(way: Access, identity: Identity) -> Denied:
    with pytest.raises(Denied) as denied:
        way.admit(identity)
    assert denied.value.problem.status == 403
    return denied.value


def test_consumers_and_members_of_groups_may_call_and_nobody_else() -> None:
    way = access(allow=("demo", "@partners"))
    for name in ("demo", "billing", "shop"):
        way.admit(caller(name))
    for name in ("other", "partners", "test/demo", ""):
        denied = refused(way, caller(name))
        assert denied.problem.failure == "consumer_not_allowed" and not denied.challenge


def test_a_group_without_members_and_a_route_without_callers_let_nobody_in() -> None:
    for way in (access(allow=("@nobody",)), access(allow=())):
        assert refused(way, caller("demo")).problem.failure == "consumer_not_allowed"


def test_everyone_is_said_by_a_star() -> None:
    access(allow=("*",)).admit(caller("test/subject"))


def test_all_scopes_must_be_there_and_the_challenge_names_them() -> None:
    way = access(scopes=("write", "read"))
    way.admit(caller("demo", "read", "write", "more"))
    denied = refused(way, caller("demo", "read"))
    assert denied.problem.failure == "insufficient_scope" and "write" in denied.problem.detail
    assert denied.challenge == 'Bearer realm="mission-control", error="insufficient_scope", scope="read write"'


def test_who_may_not_call_at_all_is_not_told_of_scopes() -> None:
    assert refused(access(allow=("shop",), scopes=("x",)), caller("demo")).problem.failure == "consumer_not_allowed"


@pytest.mark.parametrize(
    ("key", "authorization", "sent"),
    [
        (b"theirs", b"Basic dXNlcjpwYXNz", b"X-API-Key: theirs\r\nAuthorization: Basic dXNlcjpwYXNz\r\n"),
        (None, b"Bearer eyJ.x.y", b"Authorization: Bearer eyJ.x.y\r\n"),
        (b"mc_a_b", b"bearer   mc_a_b", b""),
        (b"mc_", b"BEARER mc_", b""),
        (None, b"", b"Authorization: \r\n"),
        (None, None, b""),
    ],
)
def test_a_clients_credentials_go_on_and_our_keys_never_do(
    key: bytes | None, authorization: bytes | None, sent: bytes
) -> None:
    head = RequestHead()
    head.key, head.authorization = key, authorization
    assert sent_on(head) == sent
    head.confined = frozenset({b"authorization", b"x-api-key"})
    assert sent_on(head) == b"", "what Connection names is for this hop"
