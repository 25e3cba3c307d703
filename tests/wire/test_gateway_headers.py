"""Header fields that a route changes, over real connections: what the service is sent, and what the client gets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.gateway.core import config
from tests.wire.gateway import KEY, Gateway, running


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url) as found:
        yield found


def change(gateway: Gateway, **settings: object) -> None:
    policies = config.Policies(headers=config.Headers(**settings))  # type: ignore[arg-type]
    gateway.publish(
        routes=(
            config.Route("up", "up", "/up", policies=policies),
            config.Route("open", "up", "/open", auth=(), policies=policies),
            config.Route("plain", "up", "/plain", auth=()),
        )
    )


def sent_up(gateway: Gateway, path: str, *fields: str) -> list[tuple[str, str]]:
    """The fields that the service was sent."""
    answer = gateway.get(path, *fields)
    assert answer.status == 200, answer
    return [(name, value) for name, value in answer.json()["fields"]]


def test_a_service_is_sent_what_the_route_sets_and_nothing_of_the_clients_under_that_name(gateway: Gateway) -> None:
    change(
        gateway,
        request_set={"X-Tenant": "acme", "X-Who": "{consumer}", "X-Id": "{request_id}"},
        request_add={"Accept-Language": "eo"},
        request_remove=("X-Debug", "Cookie"),
    )
    fields = sent_up(
        gateway,
        "/up/echo",
        f"X-API-Key: {KEY}",
        "X-Tenant: evil",
        "x_tenant: evil",
        "X.TENANT: evil",
        "X-Who: admin",
        "X-Debug: 1",
        "Cookie: a=b",
        "Accept-Language: de",
        "X-Other: stays",
    )
    told = dict(fields)
    assert [value for name, value in fields if "tenant" in name] == ["acme"]
    assert told["x-who"] == told["x-consumer"] == "tester"
    assert [value for name, value in fields if name == "accept-language"] == ["de", "eo"]
    assert "x-debug" not in told and "cookie" not in told and told["x-other"] == "stays"
    trace, _, span = told["x-id"].partition("-")
    assert told["traceparent"] == f"00-{trace}-{span}-01", "the id leads to the trace and to the span in it"


def test_a_public_route_sends_no_caller_and_no_clients_word_for_one(gateway: Gateway) -> None:
    change(gateway, request_set={"X-Who": "{consumer}"})
    assert "x-who" not in dict(sent_up(gateway, "/open/echo", "X-Who: admin"))


def test_a_connection_header_takes_nothing_away_that_the_route_sets(gateway: Gateway) -> None:
    change(gateway, request_set={"X-Tenant": "acme"})
    fields = dict(sent_up(gateway, "/open/echo", "Connection: X-Tenant", "X-Tenant: evil"))
    assert fields["x-tenant"] == "acme"


def test_a_client_is_sent_what_the_route_sets_of_an_answer(gateway: Gateway) -> None:
    change(
        gateway,
        response_set={"X-Upstream": "hidden", "Strict-Transport-Security": "max-age=60", "X-Id": "{request_id}"},
        response_add={"X-For": "{consumer}"},
        response_remove=("Set-Cookie",),
    )
    for path in ("/up/echo", "/up/status/404", "/up/status/304", "/up/chunks/3", "/up/close"):
        with contextlib.closing(gateway.connect()) as connection:
            connection.send(f"GET {path} HTTP/1.1", "Host: gw", f"X-API-Key: {KEY}")
            answer = connection.read()
        raw = connection.raw_head.lower()
        assert raw.count(b"x-upstream:") == 1 and answer.fields["x-upstream"] == "hidden", path
        assert answer.fields["strict-transport-security"] == "max-age=60"
        assert answer.fields["x-for"] == "tester" and b"set-cookie" not in raw
        assert answer.fields["x-id"].startswith(answer.fields["x-trace-id"] + "-")
    assert b"\r\n\r\n" not in raw


def test_the_gateways_own_refusals_say_what_they_say(gateway: Gateway) -> None:
    change(gateway, response_set={"Cache-Control": "public, max-age=9999", "Content-Type": "text/html"})
    answer = gateway.get("/up/echo")
    assert (answer.status, answer.fields["content-type"]) == (401, "application/problem+json")
    assert answer.fields["cache-control"] == "no-store"
    assert gateway.get("/up/reset", f"X-API-Key: {KEY}").fields["cache-control"] == "no-store"


def test_another_attempt_is_sent_the_same_and_once(gateway: Gateway) -> None:
    """A kept connection that ends is asked again by a new one: from the head as it was changed, not changed twice."""
    change(gateway, request_add={"X-Added": "one"})
    assert gateway.get("/open/once").status == 200
    fields = sent_up(gateway, "/open/echo")
    assert [value for name, value in fields if name == "x-added"] == ["one"]


def test_other_routes_are_as_they_were(gateway: Gateway) -> None:
    change(gateway, request_set={"X-Tenant": "acme"}, response_remove=("X-Upstream",))
    answer = gateway.get("/plain/echo", "X-Tenant: mine")
    assert dict(answer.json()["fields"])["x-tenant"] == "mine" and answer.fields["x-upstream"] == "one"
