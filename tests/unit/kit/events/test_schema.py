"""Schemas are refused for what would make events costly or need the network; violations name their place."""

from __future__ import annotations

import time
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.events.cloudevent import EventError
from services.kit.events.schema import (
    DIALECT,
    MAX_BYTES,
    MAX_FAULTS,
    SchemaError,
    Violation,
    inlined,
    named,
    parse,
    schema,
    uri,
)

TYPE = "business.order.placed"
ORDER = {
    "$schema": DIALECT,
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "a/b~c": {"type": "integer"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["id"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer", "minimum": 1}}}},
}


def faults(document: Any, data: Any) -> list[tuple[str, str]]:
    with pytest.raises(Violation) as refused:
        schema(TYPE, 1, document).check(data)
    return [(fault.pointer, fault.rule) for fault in refused.value.faults]


def doubling(levels: int) -> dict[str, Any]:
    names = [f"d{n}" for n in range(levels)]
    both = {name: {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n, name in enumerate(names)}
    return {"$ref": "#/$defs/d0", "$defs": {**both, f"d{levels}": {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"items": found}
    return found


def test_data_as_the_schema_asks_passes() -> None:
    schema(TYPE, 1, ORDER).check({"id": "x", "lines": [{"count": 1}], "at": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, [("", "required")]),
        ([], [("", "type")]),
        ({"id": "x", "lines": [{"count": 1}, {"count": 0}]}, [("/lines/1/count", "minimum")]),
        ({"id": "x", "a/b~c": "1"}, [("/a~1b~0c", "type")]),
        ({"id": "x", "more": 1}, [("", "additionalProperties")]),
        ({"id": "x", "at": "yesterday"}, [("/at", "format")]),
        ({"id": "", "at": 1}, [("/at", "type"), ("/id", "minLength")]),
    ],
)
def test_each_fault_is_named_by_its_pointer_and_rule(data: Any, expected: list[tuple[str, str]]) -> None:
    assert sorted(faults(ORDER, data)) == expected


def test_a_refusal_is_a_problem_document_that_repeats_no_value() -> None:
    with pytest.raises(Violation) as refused:
        schema(TYPE, 3, ORDER).check({"id": "x", "lines": [{"count": "secret"}]})
    assert isinstance(refused.value, EventError)
    document = refused.value.problem().document()
    assert (document["status"], document["failure"], document["event_type"]) == (422, "schema_violation", TYPE)
    assert document["dataschema"] == uri(TYPE, 3)
    assert document["faults"] == [
        {"pointer": "/lines/0/count", "rule": "type", "expected": 'the value is not of type "integer"'}
    ]
    assert "/lines/0/count" in document["detail"]
    assert "secret" not in msgspec.json.encode(document).decode()


def test_many_faults_cost_no_more_than_few() -> None:
    rows = {"type": "array", "items": {"type": "string"}}
    assert len(faults(rows, list(range(1000)))) == MAX_FAULTS
    many = list(range(200_000))
    started = time.perf_counter()
    assert faults(rows, many) == [("/0", "type")]
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (True, "must be a JSON object"),
        ([], "must be a JSON object"),
        ({"type": "objekt"}, "at /type"),
        ({"properties": {"a": 5}}, "at /properties/a"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "Nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "Nothing is fetched"),
        ({"properties": {"a": {"$ref": "other.json#/$defs/x"}}}, "at /properties/a"),
        ({"$ref": "#/default", "default": {"properties": 5}}, "#/$defs/<name>"),
        ({"$ref": "#/$defs/none"}, "there is nothing"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "recursive"),
        ({"$ref": "#"}, "#/$defs/<name>"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"items": {"$id": "urn:x"}}, "$id"),
        (doubling(40), "too large"),
        (nested(20), "levels deep"),
        ({"enum": ["x" * MAX_BYTES]}, "the most is"),
        ({"pattern": "("}, "regex"),
        ({"pattern": "^(?=a)b"}, "regex"),
        ({"pattern": "a{1000}{1000}"}, "regex"),
        ({"format": "data-time"}, "format"),
        ({"const": "\x00"}, "NUL"),
        ({"const": object()}, "JSON"),
    ],
)
def test_what_no_event_should_be_checked_against_is_refused_with_the_reason(document: Any, says: str) -> None:
    with pytest.raises(SchemaError) as refused:
        schema(TYPE, 1, document)
    assert says in str(refused.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b" " * 1_000_000, b"null"])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(SchemaError):
        parse(TYPE, 1, raw)


@pytest.mark.parametrize("version", [0, -1, 32_768])
def test_versions_count_from_one(version: int) -> None:
    with pytest.raises(SchemaError):
        schema(TYPE, version, {})


def test_no_connection_is_made_for_any_reference() -> None:
    """The library would fetch; offline it may not, even where our own walk does not look."""
    document = {"definitions": {"x": {"$ref": "http://127.0.0.1:9/x"}}, "default": {"$ref": "http://127.0.0.1:9/y"}}
    with pytest.raises(SchemaError, match="Retrieval is disabled"):
        schema(TYPE, 1, document)


def test_the_digest_is_of_what_a_document_says_and_not_of_its_order() -> None:
    one, other = schema(TYPE, 1, {"type": "object", "title": "x"}), schema(TYPE, 1, {"title": "x", "type": "object"})
    assert one.digest == other.digest != schema(TYPE, 1, {"title": "y", "type": "object"}).digest


def test_a_dataschema_names_type_and_version() -> None:
    assert named(uri(TYPE, 7)) == (TYPE, 7)
    for other in ("", "https://example.com/s.json", uri(TYPE, 7) + "x", f"urn:mission-control:schema:{TYPE}:0"):
        assert named(other) is None


def test_a_consumer_passes_over_what_it_does_not_know() -> None:
    closed = {
        **ORDER,
        "properties": {"inner": {"$ref": "#/$defs/closed"}, "open": {"unevaluatedProperties": False}},
        "$defs": {"closed": {"properties": {"n": {"type": "integer"}}, "additionalProperties": False}},
    }
    reading = schema(TYPE, 1, closed).for_reading()
    reading.check({"id": "x", "new": 1, "inner": {"n": 1, "new": 2}, "open": {"new": 3}})
    with pytest.raises(Violation):
        reading.check({"id": "x", "inner": {"n": "1"}})


SCALAR = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/~%", max_size=2)
DATA = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~%", max_size=2), inner, max_size=3)
)
PLAIN = st.recursive(
    st.sampled_from([{}, {"type": "string"}, {"type": "integer"}, {"enum": [1, "a"]}, True, False]),
    lambda inner: st.one_of(
        st.builds(
            lambda p, a: {"properties": p, "additionalProperties": a},
            st.dictionaries(st.text("ab/~%", max_size=2), inner, max_size=2),
            inner,
        ),
        st.builds(lambda i: {"items": i}, inner),
        st.builds(lambda a: {"allOf": a}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda a: {"anyOf": a}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=5,
)


@given(PLAIN, st.text("ab/~%$", min_size=1, max_size=3), DATA)
def test_a_reference_means_what_stands_in_its_place(target: Any, name: str, data: Any) -> None:
    step = name.replace("~", "~0").replace("/", "~1").replace("%", "%25")
    reference = {"$ref": f"#/$defs/{step}"}
    document = {"items": {**reference, "minLength": 1}, "properties": {"a": reference}, "$defs": {name: target}}
    plain = jsonschema_rs.Draft202012Validator(inlined(document))
    assert plain.is_valid(data) == schema(TYPE, 1, document).validator.is_valid(data)
