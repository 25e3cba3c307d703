"""The border of the wire: what passes is a CloudEvent, and comes out as it went in."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from apps.events.ids import uuid7
from services.kit.events.cloudevent import (
    CORE,
    MAX_DATA,
    MAX_TEXT,
    NO_TEXT,
    OURS,
    CloudEvent,
    EventError,
    attributes,
    check_data,
    check_type,
    decode,
    decode_binary,
    encode,
    encode_data,
    from_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ATTRIBUTE = TEXT.filter(lambda text: not NO_TEXT.search(text))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(
    data=JSON,
    subject=ATTRIBUTE,
    sequence=st.integers(0, 2**60),
    time=st.floats(0, 4e9),
    key=ATTRIBUTE,
)
def test_an_event_comes_out_as_it_went_in(data: Any, subject: str, sequence: int, time: float, key: str) -> None:
    event = CloudEvent(
        id=str(uuid4()),
        type="business.transaction.recorded",
        source="covenant",
        time=round(time, 6),
        data=data,
        subject=subject,
        partition_key=key,
        sequence=sequence,
        correlation_id="c" * 32,
        causation_id="x",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        extensions={"tenant": "north"},
    )
    for again in (decode(encode(event)), decode_binary(attributes(event), encode_data(event))):
        assert again.time == pytest.approx(event.time, abs=2e-6)
        assert {**vars_of(again), "time": 0} == {**vars_of(event), "time": 0}


def vars_of(event: CloudEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in CloudEvent.__slots__}


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_are_an_event_or_an_event_error(raw: bytes) -> None:
    try:
        decode(raw)
    except EventError as error:
        assert str(error)


GOOD = {"specversion": "1.0", "id": "1", "type": "a.b.c", "source": "s", "data": {}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "no id"),
        ({"id": 5}, "no id"),
        ({"type": "a.b"}, "three or more"),
        ({"type": "A.b.c"}, "lower-case"),
        ({"source": None}, "no source"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"time": 5}, "RFC 3339"),
        ({"subject": 5}, "subject"),
        ({"sequence": True}, "sequence"),
        ({"sequence": 1.5}, "sequence"),
        ({"traceparent": ["x"]}, "traceparent"),
        ({"id": "x" * (MAX_TEXT + 1)}, "id must be at most"),
        ({"id": "a\0b"}, "id must be"),
        ({"partitionkey": "a\nb"}, "partitionkey must be"),
        ({"source": "\ud800"}, "source must be|JSON"),
        ({"tenant": "\x7f"}, "tenant must be"),
        ({"tenant": {"name": "x"}}, "tenant"),
        ({"tenant": 1.5}, "tenant"),
        ({"Tenant": "x"}, "lower-case"),
        ({"data_base64": "eA=="}, "binary"),
    ],
)
def test_a_broken_member_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(EventError, match=says):
        decode(json.dumps(GOOD | change))


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(EventError):
        decode(raw)


def test_a_foreign_sequence_travels_through() -> None:
    event = decode(json.dumps(GOOD | {"sequence": "2026-00017"}))
    assert event.sequence == 0
    assert json.loads(encode(event))["sequence"] == "2026-00017"


def test_somebody_elses_attributes_travel_through_in_their_types() -> None:
    event = decode(json.dumps(GOOD | {"tenant": "north", "hot": True, "shard": -4}))
    assert event.extensions == {"tenant": "north", "hot": True, "shard": -4}
    assert json.loads(encode(event)).items() >= {"tenant": "north", "hot": True, "shard": -4}.items()
    # In their canonical text where there is nothing else (CloudEvents section 3.2).
    assert attributes(event).items() >= {"tenant": "north", "hot": "true", "shard": "-4"}.items()


def test_a_binary_mode_without_a_body_has_no_data_and_with_another_kind_is_refused() -> None:
    given = {name: value for name, value in GOOD.items() if isinstance(value, str)}
    assert decode_binary(given, b"").data is None
    assert decode_binary(given | {"datacontenttype": "application/vnd.x+json; charset=utf-8"}, b"[1]").data == [1]
    with pytest.raises(EventError, match="text/csv"):
        decode_binary(given | {"datacontenttype": "text/csv"}, b"1,2")
    with pytest.raises(EventError, match="not JSON"):
        decode_binary(given, b"{")


@pytest.mark.parametrize("name", ["a.b.c", "system.breaker.half-opened", "business.transaction.recorded", "a.b.c.d.e"])
def test_good_types(name: str) -> None:
    check_type(name)


@pytest.mark.parametrize("name", ["", "a", "a.b", "a.b.", ".a.b", "a..b.c", "a.b.C", "a.b.c\n", "a b.c.d", "a" * 200])
def test_bad_types(name: str) -> None:
    with pytest.raises(EventError, match="dots"):
        check_type(name)


@given(JSON)
def test_json_is_accepted_unless_it_holds_nul(data: Any) -> None:
    if "\\u0000" in json.dumps(data):
        return
    check_data(data)


@pytest.mark.parametrize(
    "data",
    [
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": object()},
        {"a": {1, 2}},
        {1: "a"},
        {"a": {None: 1}},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        {"a": uuid4()},
        {"a": b"bytes"},
        {"a": "\ud800"},
        {"a": "\x00"},
        {"a\x00": 1},
        {"a": "x" * MAX_DATA},
    ],
)
def test_data_that_has_no_safe_json_form_is_refused(data: Any) -> None:
    with pytest.raises(EventError, match="data"):
        check_data(data)


def test_a_backslash_before_u0000_is_plain_text() -> None:
    check_data({"a": "\\u0000"})


def test_data_that_holds_itself_is_refused() -> None:
    data: dict[str, Any] = {}
    data["me"] = data
    with pytest.raises(EventError):
        check_data(data)


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.integers(0, 2**80), st.integers(0, 2**80))
def test_ids_sort_by_time_and_are_version_7(one: float, other: float, a: int, b: int) -> None:
    first, second = UUID(uuid7(one, a)), UUID(uuid7(other, b))
    assert str(first) == uuid7(one, a)
    assert first.int & (1 << 62) - 1 == a & (1 << 62) - 1
    assert first.version == second.version == 7
    assert first.variant == "specified in RFC 4122"
    if int(one * 1000) < int(other * 1000):
        assert str(first) < str(second)


USUAL = {
    "specversion": "1.0",
    "id": "1",
    "type": "a.b.c",
    "source": "orders",
    "time": "2026-01-02T03:04:05.000006Z",
    "datacontenttype": "application/json",
    "sequence": "7",
    "partitionkey": "k",
    "mckey": "k1",
    "mcproof": "p1",
    "data": {"n": 1},
}
ODD = [
    "",
    " ",
    "0",
    "\x7f",
    "ü",
    "\t",
    "a\\b",
    "x" * 257,
    "007",
    7,
    True,
    None,
    [],
    "2026-01-02",
    "application/json; v=1",
]


@pytest.mark.parametrize("name", [*sorted(CORE | OURS | {"mckey", "mcproof", "own", "data_base64"})])
def test_the_short_way_to_read_and_write_the_usual_event_says_what_the_long_way_says(name: str) -> None:
    def said(read: Callable[[bytes], Any], raw: bytes) -> Any:
        try:
            return read(raw)
        except EventError as error:
            return str(error)

    bodies = [USUAL, {key: value for key, value in USUAL.items() if key != name}]
    for body in bodies + [USUAL | {name: odd} for odd in ODD]:
        raw = json.dumps(body, ensure_ascii=False).encode()
        short = said(decode, raw)
        assert short == said(lambda raw: from_json(json.loads(raw)), raw)
        if isinstance(short, CloudEvent):
            assert decode(encode(short)) == short
            assert json.loads(encode(short)) == {**short.extensions, **written(short), "data": short.data}


def written(event: CloudEvent) -> dict[str, str]:
    """Its attributes but the extensions, as JSON has them."""
    return attributes(replace(event, extensions={}))
