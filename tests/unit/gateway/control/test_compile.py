"""The document and the difference between two of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from apps.gateway import compile
from apps.gateway.core import config


def doc(**parts: object) -> config.Document:
    made = config.Document(revision=1, created_at=1.0, services=(config.Service(name="s"),))
    return msgspec.structs.replace(made, **parts)


def route(name: str = "r", **values: object) -> config.Route:
    return config.Route(name=name, service="s", **({"path": "/r"} | values))  # type: ignore[arg-type]


def test_the_digest_knows_content_and_not_revision_or_time() -> None:
    one = doc(routes=(route(),))
    assert compile.digest(one) == compile.digest(msgspec.structs.replace(one, revision=9, created_at=5.0, digest="x"))
    assert compile.digest(one) != compile.digest(doc(routes=(route(timeout=1.0),)))


def test_differences_name_each_added_removed_and_changed_thing() -> None:
    old = doc(routes=(route("a"), route("b", path="/b")))
    new = doc(routes=(route("a", timeout=3.0), route("c", path="/c")))
    assert compile.differences(old, new) == [
        {"kind": "route", "name": "c", "change": "added"},
        {"kind": "route", "name": "b", "change": "removed"},
        {"kind": "route", "name": "a", "change": "changed", "fields": {"timeout": [15.0, 3.0]}},
    ]


def test_differences_reach_into_the_breaker_and_leave_hashes_out() -> None:
    key = config.Key(hash="0" * 64, prefix="abcd1234", consumer="c")
    held = config.Service(name="s", breaker=config.Breaker(override="open"))
    found = compile.differences(doc(), doc(services=(held,), keys=(key,)))
    assert found[0]["fields"] == {"breaker.override": [None, "open"]}
    assert found[1] == {"kind": "key", "name": "abcd1234", "change": "added"}
    assert "0" * 64 not in str(found)


def test_the_first_revision_adds_everything() -> None:
    assert [change["change"] for change in compile.differences(None, doc(routes=(route(),)))] == ["added", "added"]


def test_a_summary_reads_as_a_sentence_and_stays_short() -> None:
    old, new = doc(routes=(route(),)), doc(routes=(route(timeout=3.0, rate_limit=None, methods=("GET",)),))
    assert compile.summary(compile.differences(old, new)) == "route r: methods none → GET, timeout 15.0 → 3.0"
    many = [{"kind": "route", "name": f"r{n}", "change": "added"} for n in range(200)]
    line = compile.summary(many)
    assert len(line) <= 500 and line.endswith("more")
    assert compile.summary([]) == "Nothing changed"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (route("a"), route("b")),
        (route("a", methods=("GET", "POST")), route("b", methods=("POST",))),
        (route("a", hosts=("x.org", "y.org")), route("b", hosts=("y.org",))),
        (route("a"), route("b", methods=("GET",))),
        (route("a", methods=("GET",)), route("b")),
        (route("a"), route("b", path="/r/")),
        (route("a", match="exact"), route("b", match="exact")),
    ],
)
def test_two_routes_that_claim_the_same_requests_are_refused(one: config.Route, other: config.Route) -> None:
    with pytest.raises(config.ConfigError, match="both match /r") as caught:
        config.check(doc(routes=(one, other)))
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (route("a"), route("b", path="/r/x")),
        (route("a"), route("b", match="exact")),
        (route("a"), route("b", hosts=("x.org",))),
        (route("a", match="exact"), route("b", match="exact", path="/r/")),
        (route("a", methods=("GET",)), route("b", methods=("POST",))),
    ],
)
def test_routes_of_which_one_is_more_exact_live_together(one: config.Route, other: config.Route) -> None:
    config.check(doc(routes=(one, other)))


def test_a_refusal_names_both_routes_and_what_they_share() -> None:
    one, other = route("a", methods=("GET", "PUT"), hosts=("x.org",)), route("b", methods=("PUT",), hosts=("x.org",))
    with pytest.raises(config.ConfigError, match=r"Routes a and b both match /r on x\.org for PUT; give"):
        config.check(doc(routes=(one, other)))


ISSUER = config.Issuer("i", "https://i", "us", ("EdDSA",), "https://i/jwks")


def twins() -> tuple[config.Consumer, ...]:
    return config.Consumer("a", subjects=("i/x",)), config.Consumer("b", subjects=("i/x",))


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ({"routes": (route(allow=("nobody",)),)}, "allow"),
        ({"routes": (route(issuers=("nobody",)),)}, "issuers"),
        ({"consumers": (config.Consumer("a", subjects=("nobody/x",)),)}, "subjects"),
        ({"consumers": twins(), "issuers": (ISSUER,)}, "subjects"),
    ],
)
def test_who_may_call_must_be_known_and_a_subject_speaks_for_one_consumer(rows: dict[str, Any], field: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.check(doc(**rows))
    assert caught.value.field == field


def test_a_name_with_a_line_end_is_no_name() -> None:
    good = config.encode(doc(consumers=(config.Consumer("demo"),)))
    assert config.decode(good)
    with pytest.raises(config.ConfigError):
        config.decode(good.replace(b'"demo"', b'"demo\\n"'))
