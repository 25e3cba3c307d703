"""Chains of policies: what a route pays for, in which order, and how a request waits and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from apps.gateway.core import config
from apps.gateway.core.auth import Keyring, Tokens
from apps.gateway.core.chain import Call, Later
from apps.gateway.core.states import State
from apps.gateway.plane.policies import order
from apps.gateway.plane.policies.parts import Bound, Parts, Policy
from services.kit.problem import refuse
from tests.unit.gateway.plane.memory import Transport, World, world

LIMIT = config.RateLimit("limit", 10)
TOKEN = "Authorization: Bearer a.b.c"


@pytest.fixture
def found(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def adopt(world: World, *routes: config.Route, **changes: Any) -> None:
    service = config.Service("s", (config.Instance("i", "http://192.0.2.9:1000"),))
    world.adopt(**{"services": (service,), "routes": routes, "rate_limits": (LIMIT,), **changes})


def ask(world: World, path: str, *fields: str, body: bytes = b"") -> Transport:
    client = world.client()
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: h", *fields, *length, "", ""]).encode()
    world.do(lambda: client.deliver(head + body))
    return client


def status(world: World, client: Transport) -> int:
    world.do(lambda: client.take(10**6))
    return int(client.sent.split()[1]) if client.sent else 0


def exchange(world: World) -> Any:
    (only,) = world.worker.inflight
    return only


def parts(*, limited_callers: bool = False) -> Parts:
    document = config.Document(1, 0.0)
    return Parts(Keyring(document, b"p"), Tokens(document, {}), mock.Mock(), mock.Mock(), limited_callers)


def asked(route: config.Route, **having: bool) -> list[str]:
    """The policies that have a hook on the route's requests."""
    made = parts(**having)
    hooks = [policy.name for policy in order.ORDER if policy.bind(route, made).request is not None]
    assert len(order.compiled(route, made).request) == len(hooks)
    return hooks


@pytest.mark.parametrize(
    ("route", "hooks"),
    [
        (config.Route("r", "s", "/r", auth=()), ["size"]),
        (config.Route("r", "s", "/r"), ["auth", "size"]),
        (config.Route("r", "s", "/r", allow=("one",)), ["auth", "access", "size"]),
        (config.Route("r", "s", "/r", scopes=("x",)), ["auth", "access", "size"]),
        (config.Route("r", "s", "/r", auth=(), forward_credentials=True), ["forward", "size"]),
        (config.Route("r", "s", "/r", auth=(), rate_limit="limit"), ["size", "limit"]),
        (
            config.Route("r", "s", "/r", allow=("one",), rate_limit="limit"),
            ["auth", "access", "size", "limit"],
        ),
    ],
)
def test_a_route_pays_for_the_policies_it_has(route: config.Route, hooks: list[str]) -> None:
    assert asked(route) == hooks


def test_a_consumers_own_limit_counts_where_callers_are_known_and_nowhere_else() -> None:
    assert "limit" in asked(config.Route("r", "s", "/r"), limited_callers=True)
    assert "limit" not in asked(config.Route("r", "s", "/r", auth=()), limited_callers=True)


def test_every_policy_has_a_name_of_its_own_and_a_route_that_is_off_is_bound_to_none(found: World) -> None:
    assert len({policy.name for policy in order.ORDER}) == len(order.ORDER)
    told = mock.Mock(return_value=Bound())
    with mock.patch.object(order, "ORDER", (Policy("p", "P", told, lambda route, limits: ""),)):
        adopt(found, config.Route("off", "s", "/off", enabled=False), config.Route("on", "s", "/On", auth=()))
    assert [call.args[0].name for call in told.call_args_list] == ["on"], "once, and not for the copy in lower case"


# -- waiting ------------------------------------------------------------------------------------------------


def test_a_request_waits_for_one_policy_after_another_and_says_for_which(found: World) -> None:
    adopt(found, config.Route("both", "s", "/both", auth=("jwt",), rate_limit="limit"))
    client = ask(found, "/both", TOKEN)
    one = exchange(found)
    assert (one.state, one.waits) == (State.SUSPENDED, "awaiting_keys")
    found.keys.known = True
    found.do(found.keys.waiting.pop().resume)
    assert (one.state, one.waits) == (State.SUSPENDED, "awaiting_limit")
    assert not found.keys.waiting, "who proved who it is is not asked again"
    found.do(lambda: found.limiter.waiting.pop().resume(True))
    assert one.state is State.CONNECTING and status(found, client) == 0


def test_a_word_that_comes_twice_or_late_or_unasked_changes_nothing(found: World) -> None:
    adopt(found, config.Route("limited", "s", "/limited", auth=(), rate_limit="limit"))
    client = ask(found, "/limited")
    one = exchange(found)
    waiting = found.limiter.waiting.pop()
    found.do(lambda: waiting.resume(True))
    found.do(lambda: waiting.resume(False))
    assert one.state is State.CONNECTING, "it is on its way already"
    found.do(lambda: client.hang_up())
    found.do(lambda: waiting.resume(False))
    assert one.state is State.DONE and found.records == [("/limited", 499, "client_closed")]


def test_a_word_after_the_deadline_changes_nothing(found: World) -> None:
    adopt(found, config.Route("limited", "s", "/limited", auth=(), rate_limit="limit", timeout=2.0))
    client = ask(found, "/limited")
    one = exchange(found)
    found.now += 2.1
    found.do(lambda: one.expire(found.now))
    found.do(lambda: found.limiter.waiting.pop().resume(True))
    assert status(found, client) == 504 and found.records == [("/limited", 504, "upstream_timeout")]


class Patient:
    """A policy that waits as often as it is told to, then does what it is told to."""

    def __init__(self, times: int, refused: bool = False) -> None:
        self.times, self.refused = times, refused
        self.calls: list[Call] = []

    def policy(self) -> Policy:
        return Policy("patient", "Patient", lambda route, parts: Bound(self.ask), lambda route, limits: "waits")

    def ask(self, call: Call, word: bool = True) -> Later | None:
        self.calls.append(call)
        if len(self.calls) <= self.times:
            return Later("awaiting_patience", self.ask)
        if self.refused or not word:
            raise refuse(403, "impatient", "No.")
        return None


@pytest.mark.parametrize(("refused", "word", "expected"), [(False, True, 0), (True, True, 403), (False, False, 403)])
def test_a_policy_may_wait_more_than_once_and_refuse_in_the_end(
    found: World, refused: bool, word: bool, expected: int
) -> None:
    patient, after = Patient(3, refused), Patient(0)
    with mock.patch.object(order, "ORDER", (patient.policy(), after.policy())):
        adopt(found, config.Route("r", "s", "/r", auth=(), timeout=5.0))
    client = ask(found, "/r")
    one = exchange(found)
    for _ in range(3):
        assert one.waits == "awaiting_patience" and one.deadline == one.started + 5.0, "no longer for asking again"
        found.now += 1.0
        found.do(lambda: one.resume(word))
    assert status(found, client) == expected
    assert len(patient.calls) == 4 and len(after.calls) == (expected == 0)


def test_a_body_that_comes_while_a_policy_waits_is_kept_and_goes_up_whole(found: World) -> None:
    patient = Patient(1)
    with mock.patch.object(order, "ORDER", (patient.policy(),)):
        adopt(found, config.Route("r", "s", "/r", auth=(), max_body=10**6))
    body = b"x" * 200_000
    client = found.client()
    head = f"POST /r HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    found.do(lambda: client.deliver(head))
    for at in range(0, len(body), 50_000):
        if client.reading:
            found.do(lambda at=at: client.deliver(body[at : at + 50_000]))  # type: ignore[misc]
    assert not client.reading, "no more is read than is kept for it"
    found.do(exchange(found).resume)
    upstream = found.answer_dial(found.dials[0])
    assert upstream is not None
    sent = exchange(found).body_size
    found.do(lambda: upstream.take(10**6))
    assert upstream.sent.endswith(b"x" * sent) and sent >= 131_072


def test_a_limit_that_a_new_revision_takes_away_limits_nobody_who_still_comes_by_the_old_one(found: World) -> None:
    """Its name is known to no one by then: a request that waited for its keys meanwhile must not end in a fault."""
    adopt(found, config.Route("both", "s", "/both", auth=("jwt",), rate_limit="limit"))
    client = ask(found, "/both", TOKEN)
    adopt(found, config.Route("both", "s", "/both", auth=("jwt",)), rate_limits=())
    found.keys.known = True
    found.do(found.keys.waiting.pop().resume)
    assert exchange(found).state is State.CONNECTING and status(found, client) == 0


# -- for people ---------------------------------------------------------------------------------------------


def test_policies_are_told_in_words_in_their_order() -> None:
    route = config.Route("r", "s", "/r", scopes=("read",), rate_limit="limit", forward_credentials=True, retries=2)
    assert order.in_words(route, {"limit": LIMIT}) == [
        ("Credentials", "API key"),
        ("Who may call", "every consumer, with scope read"),
        ("Credentials sent on", "Authorization and X-API-Key, but for keys issued here"),
        ("Size", "bodies of up to 10 MiB"),
        ("Rate limit", "limit: 10 in 1 s, for each consumer"),
        (
            "Timeouts and retries",
            "answers within 15 s, up to 2 more when idempotent, each after 7.5 s; bodies silent for 30 s at most",
        ),
    ]
    public = dict(order.in_words(config.Route("r", "s", "/r", auth=(), retries=0, max_body=0), {}))
    assert public["Credentials"] == "none: anyone may call" and public["Size"] == "no body"
    assert public.keys() == {"Credentials", "Size", "Timeouts and retries"}
