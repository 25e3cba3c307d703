"""The admin's and the API's bounds are the document's: whatever a row accepts, the document accepts."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway import bounds, compile
from apps.gateway.core import config
from apps.gateway.models import ApiKey, BreakerPolicy, Consumer, JwtIssuer, RateLimitPolicy, Route, ServicePolicy
from apps.gateway.rules import check_jwks_url, check_path
from apps.registry.models import Service

numbers = st.one_of(st.floats(), st.integers(-10, 10**12))


def accepted(row: Any, *names: str) -> bool:
    try:
        for name in names:
            row._meta.get_field(name).clean(getattr(row, name), row)
    except (ValidationError, OverflowError):
        return False
    return True


@pytest.mark.parametrize("name", ["timeout", "per_try_timeout", "idle_timeout", "retries", "max_body"])
@given(value=numbers)
def test_a_route_that_the_model_accepts_compiles(name: str, value: Any) -> None:
    row = Route(name="r", service=Service(name="s"), path="/r")
    setattr(row, name, value)
    if accepted(row, name):
        row.max_body, row.retries = int(row.max_body), int(row.retries)
        assert isinstance(compile.route(row), config.Route)


@pytest.mark.parametrize("name", ["failure_rate", "slow_call_rate", "wait_in_open", "minimum_calls", "half_open_calls"])
@given(value=numbers)
def test_a_breaker_policy_that_the_model_accepts_compiles(name: str, value: Any) -> None:
    row = BreakerPolicy(name="b")
    setattr(row, name, value)
    if accepted(row, name):
        values = {field: getattr(row, field) for field in config.Breaker.__struct_fields__ if field != "override"}
        for whole in ("minimum_calls", "half_open_calls"):
            values[whole] = int(values[whole])
        assert compile._convert(values, config.Breaker, "b")


@pytest.mark.parametrize(
    ("row", "name", "value"),
    [
        (Route(), "timeout", 0),
        (Route(), "timeout", float("nan")),
        (Route(), "timeout", float("inf")),
        (Route(), "timeout", 86_401),
        (Route(), "per_try_timeout", 0),
        (ServicePolicy(), "max_in_flight", 0),
        (ServicePolicy(), "consecutive_failures", -1),
        (ServicePolicy(), "max_ejected", 0),
        (ServicePolicy(), "panic_threshold", 1.1),
        (Route(), "retries", 6),
        (Route(), "retries", -1),
        (Route(), "max_body", -1),
        (BreakerPolicy(), "failure_rate", 1.01),
        (BreakerPolicy(), "failure_rate", 0),
        (RateLimitPolicy(), "requests", 0),
        (RateLimitPolicy(), "burst", 0),
        (RateLimitPolicy(), "period", -1),
        (JwtIssuer(), "leeway", 301),
        (Route(), "methods", ["GET", "GET"]),
        (Route(), "methods", ["BREW"]),
        (Route(), "methods", "GET"),
        (Route(), "auth", ["password"]),
        (Route(), "hosts", ["Example.org"]),
        (Route(), "hosts", ["example.org:80"]),
        (Route(), "hosts", ["*"]),
        (Route(), "hosts", [1]),
        (JwtIssuer(), "algorithms", ["HS256"]),
        (JwtIssuer(), "algorithms", ["none"]),
        (JwtIssuer(), "algorithms", []),
        (Route(), "allow", ["Demo"]),
        (Route(), "allow", ["@"]),
        (Route(), "allow", ["**"]),
        (Route(), "issuers", ["https://issuer"]),
        (Route(), "scopes", ['a"b']),
        (Route(), "scopes", ["a b"]),
        (Route(), "scopes", ["a\r\nb"]),
        (Consumer(), "groups", ["@partners"]),
        (Consumer(), "subjects", ["demo"]),
        (Consumer(), "subjects", ["aegis/a b"]),
        (Consumer(), "subjects", ["aegis/a,b"]),
        (Consumer(), "subjects", ["Aegis/a"]),
        (ApiKey(), "scopes", ["x" * 65]),
        (JwtIssuer(), "max_lifetime", 0),
        (JwtIssuer(), "max_lifetime", float("inf")),
        (JwtIssuer(), "subjects", "some"),
        (Route(), "name", "Nexus"),
        (Route(), "name", "nexus\n"),
        (Route(), "name", "-nexus"),
    ],
)
def test_what_workers_could_not_serve_is_refused(row: Any, name: str, value: Any) -> None:
    setattr(row, name, value)
    assert not accepted(row, name)


def test_defaults_are_the_documents_own() -> None:
    assert Route().timeout == config.Route("a", "b", "/").timeout == bounds.default(config.Route, "timeout")
    assert Route().auth == ["key"] and Route().allow == []
    assert BreakerPolicy().minimum_calls == bounds.default(config.Breaker, "minimum_calls")


@pytest.mark.parametrize(
    "path", ["nexus", "", "/a b", "/a//b", "/a/../b", "/./a", "/a%2Fb", "/a?x", "/a#x", "/-", "/-/health", "/a\n"]
)
def test_a_path_that_two_servers_could_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        check_path(path)


@pytest.mark.parametrize("path", ["/", "/nexus", "/a/b.c/~d", "/a/", "/-a", "/a:b@c"])
def test_a_normal_path_is_fine(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/y", "http://", "http://u:p@x/jwks", "http://x/#y", "http://x:0/", "http://[::1/", "http://x/a b"],
)
def test_a_key_address_that_is_not_one_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        check_jwks_url(url)
