"""Header fields that a route changes: what may be configured, and what comes of it in a message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core import config
from apps.gateway.core.fields import LONGEST, MOST, Template
from apps.gateway.core.transform import Change, in_words

ID = "0" * 32 + "-" + "1" * 16


def refused(**settings: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert({"headers": settings}, config.Policies)
    return str(error.value)


# -- what may be configured -----------------------------------------------------------------------------------

OURS = (
    *("Host", "Connection", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "Keep-Alive", "TE", "Trailer"),
    *("Proxy-Authorization", "X-API-Key", "Authorization", "Traceparent", "Tracestate", "X-Forwarded-For", "Via"),
    *("X-Forwarded-Anything", "X-Consumer", "X-Consumer-Id", "X-Fleet-Token", "X-Fleet-X", "X-Original-Uri", "Proxy"),
    *("X-Trace-Id", "X-Real-IP", "Forwarded", "X-HTTP-Method-Override", "X-Failed-Dependency", "Max-Forwards"),
)
OURS_BACK = (
    *("Connection", "Content-Length", "Transfer-Encoding", "Date", "X-Trace-Id", "Keep-Alive", "Upgrade", "Trailer"),
    *("RateLimit", "RateLimit-Policy", "X-Fleet-Token", "X-Failed-Dependency"),
)


@pytest.mark.parametrize("spelt", [str, str.lower, str.upper])
@pytest.mark.parametrize(("side", "names"), [("request", OURS), ("response", OURS_BACK)])
def test_what_is_the_gateways_to_say_can_be_neither_set_nor_added_nor_removed(
    side: str, names: tuple[str, ...], spelt: Any
) -> None:
    for name in map(spelt, names):
        assert name in refused(**{f"{side}_set": {name: "x"}})
        assert name in refused(**{f"{side}_add": {name: "x"}})
        assert name in refused(**{f"{side}_remove": [name]})


def test_cookies_may_be_removed_and_not_written() -> None:
    for side, name in (("request", "Cookie"), ("response", "Set-Cookie")):
        assert name in refused(**{f"{side}_set": {name: "mc_session=x"}})
        assert name in refused(**{f"{side}_add": {name: "mc_session=x"}})
        config.Headers(**{f"{side}_remove": (name,)})


@pytest.mark.parametrize(
    "name", ["", "X Y", "X:Y", "X\r\nY", "X\n", "X_Y", "X.Y", "-X", "Ü", "X" * 64, ":authority", "X\x00"]
)
def test_a_name_is_letters_digits_and_hyphens(name: str) -> None:
    assert "no field name" in refused(request_set={name: "x"})
    assert "no field name" in refused(response_remove=[name])


@pytest.mark.parametrize(
    "value",
    ["", " x", "x ", "a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\x0bb", "a\x7fb", "a\u2028b", "é", "x" * 501, "x\n"],
)
def test_a_value_is_one_line_of_printable_ascii(value: str) -> None:
    refused(request_set={"X-A": value})
    refused(response_add={"X-A": value})


def test_what_is_left_open_must_be_known_and_other_braces_are_braces() -> None:
    assert "{consmer}" in refused(request_set={"X-A": "{consmer}"})
    assert "{password}" in refused(response_set={"X-A": "a{password}b"})
    for value in ('{"group": "a", "max_age": 1}', "{}", "{Consumer}", "{ consumer }", "}{"):
        headers = config.Headers(response_set={"Report-To": value})
        assert Template(headers.response_set["Report-To"]).literal == value.encode()


def test_lists_are_bounded_and_a_field_is_changed_once() -> None:
    many = {f"X-{number}": "x" for number in range(MOST + 1)}
    for setting in ("request_set", "response_add"):
        assert setting in refused(**{setting: many})
    assert "request_remove" in refused(request_remove=list(many))
    assert "twice" in refused(request_set={"X-A": "1"}, request_remove=["x-a"])
    assert "twice" in refused(response_set={"X-A": "1", "x-a": "2"})
    config.Headers(request_set={"X-A": "1"}, request_add={"X-A": "2"}, response_set={"X-A": "v" * LONGEST})


def test_a_document_that_breaks_a_rule_is_refused_by_every_worker() -> None:
    document = config.Document(
        1,
        0.0,
        services=(config.Service("s"),),
        routes=(config.Route("r", "s", "/r", policies=config.Policies(config.Headers(request_set={"X-A": "good"}))),),
    )
    assert config.decode(config.encode(document)) == document
    with pytest.raises(config.ConfigError, match="one line"):
        config.decode(config.encode(document).replace(b'"good"', b'"a\\r\\nb"'))
    with pytest.raises(config.ConfigError, match="unknown"):
        config.decode(config.encode(document).replace(b'"headers"', b'"headres"'))


# -- what comes of it -----------------------------------------------------------------------------------------


def change(put: Any = (), add: Any = (), remove: tuple[str, ...] = ()) -> Change:
    return Change(dict(put), dict(add), remove)


def made_of(change: Change, lines: list[bytes], consumer: str, request_id: str) -> list[bytes]:
    found = change.apply(lines)
    if change.open:
        change.fill(found, consumer, request_id)
    return found


def test_set_replaces_add_joins_and_remove_takes_away() -> None:
    lines = [b"Accept: */*", b"X-Env: theirs", b"x-env:again", b"X-Debug: 1", b"X-More: a"]
    made = change({"X-Env": "prod"}, {"X-More": "b"}, ("X-Debug",))
    assert made_of(made, lines, "", ID) == [b"Accept: */*", b"X-More: a", b"X-Env: prod", b"X-More: b"]
    assert len(lines) == 5, "the message's own list is not another's to change"


@pytest.mark.parametrize("line", [b"X_Tenant: evil", b"x.tenant: evil", b"X-TENANT:evil", b"X!Tenant: evil"])
def test_no_spelling_of_a_field_that_is_set_comes_through_beside_it(line: bytes) -> None:
    assert made_of(change({"X-Tenant": "acme"}), [line], "", ID) == [b"X-Tenant: acme"]
    assert made_of(change(remove=("X-Tenant",)), [line], "", ID) == []


def test_values_are_filled_in_for_each_request() -> None:
    made = change({"X-Who": "{consumer}", "X-Id": "gw/{request_id}; by={consumer}"})
    assert made_of(made, [], "demo", ID) == [b"X-Who: demo", b"X-Id: gw/%b; by=demo" % ID.encode()]
    assert made_of(made, [], "aegis/bob", "x") == [b"X-Who: aegis/bob", b"X-Id: gw/x; by=aegis/bob"]


def test_a_field_that_tells_the_caller_is_left_out_where_nobody_is_known_and_a_clients_own_goes() -> None:
    assert made_of(change({"X-Who": "by {consumer}"}), [b"X-Who: admin"], "", ID) == []


@given(st.text(), st.text())
def test_nothing_that_is_filled_in_can_split_a_message(consumer: str, request_id: str) -> None:
    """Names of callers are slugs and ids are hex: but what they are is checked where it is written."""
    made = change({"X-A": "{consumer}", "X-B": "x{request_id}"})
    for line in made_of(made, [b"X-A: theirs"], consumer, request_id):
        name, _, value = line.partition(b": ")
        assert name in {b"X-A", b"X-B"} and value.isascii() and all(32 <= byte < 127 for byte in value)


def test_nothing_to_change_is_false() -> None:
    assert not change()
    assert change(remove=("X",)) and change({"X": "1"}) and change((), {"X": "{consumer}"})


def test_what_changes_is_told_in_words() -> None:
    headers = config.Headers(request_set={"X-Env": "a"}, request_remove=("X-B", "X-C"), response_add={"X-D": "b"})
    route = config.Route("r", "s", "/r", policies=config.Policies(headers=headers))
    assert in_words(route) == "request: sets X-Env, removes X-B, X-C; response: adds X-D"
    assert in_words(config.Route("r", "s", "/r")) == ""
