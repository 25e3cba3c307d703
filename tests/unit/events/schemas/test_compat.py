"""A change is called compatible only if every event that one version allows can be read by the other."""

from __future__ import annotations

import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from apps.events.schemas.compat import Mode, Reader, Verdict, judge, unreadable
from services.kit.events.schema import SchemaError, inlined, opened, schema

TYPE = "business.order.placed"
STR, INT, NUM = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def thing(properties: dict[str, Any], *required: str, closed: bool = True, **more: Any) -> dict[str, Any]:
    closing = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": list(required), **closing, **more}


def rules(reader: Any, writer: Any) -> list[tuple[str, str]]:
    return [(one.rule, one.path) for one in unreadable(inlined(reader), inlined(writer))]


@pytest.mark.parametrize(
    ("reader", "writer"),
    [
        (thing({"a": STR}), thing({"a": STR})),
        (thing({"a": STR, "b": INT}, "a"), thing({"a": STR}, "a")),
        (thing({"a": STR}, "a"), thing({"a": STR, "new": INT}, "a", "new")),
        (thing({"a": STR}), thing({"a": STR}, "a")),
        (thing({"a": STR}, closed=False), thing({"a": STR, "b": STR}, closed=False)),
        (NUM, INT),
        ({"type": ["string", "null"]}, STR),
        ({"enum": [1, 2, 3]}, {"enum": [1, 2]}),
        (NUM, {"enum": [1, 2.5]}),
        ({"enum": [True, False, None]}, {"type": ["boolean", "null"]}),
        ({"enum": [1, 2]}, {"type": "integer", "enum": [1, "x"]}),
        ({"minimum": 0, "exclusiveMaximum": 10}, {"type": "number", "minimum": 0, "maximum": 9}),
        ({"type": "integer", "minimum": 4}, {"type": "integer", "exclusiveMinimum": 3}),
        ({"multipleOf": 0.5}, {"type": "number", "multipleOf": 1.5}),
        ({"type": "integer", "multipleOf": 1}, INT),
        ({"maxLength": 9}, {"type": "string", "maxLength": 8}),
        ({"maxLength": 9}, NUM),
        ({"pattern": "^a"}, {"type": "string", "pattern": "^a", "maxLength": 3}),
        ({"items": NUM}, {"type": "array", "items": INT, "minItems": 1}),
        ({"prefixItems": [NUM], "items": STR}, {"type": "array", "prefixItems": [INT, STR], "items": False}),
        ({"anyOf": [STR, {"type": "null"}]}, STR),
        ({"anyOf": [STR, NUM]}, {"anyOf": [{"type": "string", "maxLength": 3}, INT]}),
        ({"allOf": [STR, {"maxLength": 4}]}, {"allOf": [{"type": "string", "maxLength": 3}]}),
        ({"$ref": "#/$defs/x", "$defs": {"x": NUM}}, INT),
        (thing({"a": STR}, unevaluatedProperties=False, closed=False), thing({"a": STR, "b": STR})),
        (thing({"a": STR, "b": STR}), thing({"a": STR}, unevaluatedProperties=False, closed=False)),
        (
            thing({"a": STR}, patternProperties={"^x": thing({"n": INT})}),
            thing({"a": STR, "b": STR}, patternProperties={"^x": thing({"n": INT})}),
        ),
        (
            {"patternProperties": {"^x": STR}, "additionalProperties": NUM},
            thing({}, patternProperties={"^x": STR}, closed=False, additionalProperties=INT),
        ),
        ({"not": {"const": 1}, "title": "x"}, {"not": {"const": 1}, "title": "y"}),
        ({"title": "anything"}, {}),
        (STR, False),
    ],
)
def test_these_can_be_read(reader: Any, writer: Any) -> None:
    found = inlined(writer) if isinstance(writer, dict) else writer
    assert unreadable(inlined(reader), found) == []


@pytest.mark.parametrize(
    ("reader", "writer", "rule", "path"),
    [
        (thing({"a": STR}, "a"), thing({"a": STR}), "property_may_be_absent", "/required"),
        (thing({"a": INT}), thing({"a": NUM}), "type_narrowed", "/properties/a/type"),
        (thing({"a/b": INT}), thing({"a/b": STR}), "type_narrowed", "/properties/a~1b/type"),
        (thing({"a": STR, "b": STR}), thing({"a": STR}, closed=False), "property_of_open_object", "/properties/b"),
        (
            thing({"a": thing({"b": INT})}),
            thing({"a": thing({"b": STR})}),
            "type_narrowed",
            "/properties/a/properties/b/type",
        ),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, "value_not_accepted", ""),
        ({"enum": ["a"]}, STR, "enum_added", "/enum"),
        ({"enum": [None, True]}, {"type": ["boolean", "null"]}, "value_not_accepted", ""),
        ({"const": 1}, {"const": True}, "value_not_accepted", ""),
        ({"minimum": 1}, {"type": "number", "minimum": 0}, "minimum_narrowed", "/minimum"),
        ({"exclusiveMaximum": 5}, {"type": "number", "maximum": 5}, "maximum_narrowed", "/maximum"),
        ({"multipleOf": 2}, INT, "multiple_of_narrowed", "/multipleOf"),
        ({"maxLength": 3}, STR, "max_length_narrowed", "/maxLength"),
        ({"minItems": 1}, {"type": "array"}, "min_items_narrowed", "/minItems"),
        ({"uniqueItems": True}, {"type": "array"}, "unique_items_added", "/uniqueItems"),
        ({"items": STR}, {"type": "array", "items": NUM}, "type_narrowed", "/items/type"),
        ({"prefixItems": [STR]}, {"type": "array", "items": NUM}, "type_narrowed", "/prefixItems/0/type"),
        ({"additionalProperties": STR}, thing({"a": INT}), "type_narrowed", "/additionalProperties/type"),
        ({"items": False}, {"type": "array"}, "refused", "/items"),
        ({"$ref": "#/$defs/x", "$defs": {"x": INT}}, NUM, "type_narrowed", "/type"),
    ],
)
def test_what_can_not_be_read_is_named_with_its_rule_and_path(reader: Any, writer: Any, rule: str, path: str) -> None:
    assert (rule, path) in rules(reader, writer)


@pytest.mark.parametrize(
    ("reader", "writer", "path"),
    [
        ({"pattern": "^a"}, {"type": "string", "pattern": "^ab"}, "/pattern"),
        ({"format": "date"}, STR, "/format"),
        ({"not": {"const": 1}}, {"not": {"const": 2}}, "/not"),
        ({"oneOf": [STR, NUM]}, {"oneOf": [STR, INT]}, "/oneOf"),
        ({"anyOf": [STR, NUM]}, {}, "/anyOf"),
        ({"contains": STR}, {"type": "array", "contains": STR, "minContains": 0}, "/contains"),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"type": "object"}, "/then"),
    ],
)
def test_what_it_can_not_decide_it_says_and_does_not_guess(reader: Any, writer: Any, path: str) -> None:
    found = unreadable(inlined(reader), inlined(writer))
    assert (path, False) in [(one.path, one.shown) for one in found]


def test_schemas_too_large_to_compare_are_not_called_compatible() -> None:
    def wide(word: str) -> dict[str, Any]:
        choices = [{"properties": {f"{word}{n}": {"minLength": n + 1}}} for n in range(100)]
        return inlined({"anyOf": choices})

    started = time.perf_counter()
    assert [one.shown for one in unreadable(wide("a"), wide("b"))] == [False]
    assert time.perf_counter() - started < 5


# -- held to the library that validates, which knows nothing of this comparison ------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
NUMBER = st.sampled_from([-1, 0, 1, 2, 2.5])
COUNT = st.integers(0, 3)
VALUE = st.sampled_from([None, True, False, 0, 1, 2.5, "", "a", "ab", [], {}, [1], {"a": 1}])
TYPE_NAME = st.sampled_from(["null", "boolean", "object", "array", "number", "integer", "string"])


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


LEAF = st.one_of(
    st.booleans(),
    st.builds(lambda values: {"enum": values}, st.lists(VALUE, min_size=1, max_size=3)),
    some(
        type=st.one_of(TYPE_NAME, st.lists(TYPE_NAME, min_size=1, max_size=3, unique=True)),
        minimum=NUMBER,
        exclusiveMinimum=NUMBER,
        maximum=NUMBER,
        exclusiveMaximum=NUMBER,
        multipleOf=st.sampled_from([0.5, 1, 2, 3]),
        minLength=COUNT,
        maxLength=COUNT,
        pattern=st.sampled_from(["^a", "b$"]),
        const=VALUE,
    ),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    parts = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        some(
            type=st.one_of(TYPE_NAME, st.just("object")),
            properties=st.dictionaries(NAMES, inner, max_size=2),
            required=st.lists(NAMES, max_size=2, unique=True),
            additionalProperties=st.one_of(st.just(False), inner),
            unevaluatedProperties=st.one_of(st.just(False), inner),
            patternProperties=st.dictionaries(st.sampled_from(["^a", "c"]), inner, max_size=1),
            minProperties=COUNT,
            maxProperties=COUNT,
        ),
        some(
            type=st.just("array"),
            items=inner,
            prefixItems=parts,
            minItems=COUNT,
            maxItems=COUNT,
            uniqueItems=st.booleans(),
            contains=inner,
            minContains=COUNT,
        ),
        some(
            allOf=parts,
            anyOf=parts,
            oneOf=parts,
            type=TYPE_NAME,
            minLength=COUNT,
            properties=st.dictionaries(NAMES, inner, max_size=1),
            unevaluatedProperties=st.just(False),
            dependentRequired=st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
        ),
        some(**{"not": inner, "if": inner, "then": inner, "else": inner}),
    )


NODE = st.recursive(LEAF, grown, max_leaves=6).filter(lambda node: isinstance(node, dict))
DATA = st.recursive(
    VALUE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema and another that is often close to it."""
    writer = draw(NODE)
    edits = draw(st.one_of(NODE, st.just({})))
    kept = {key: value for key, value in writer.items() if draw(st.booleans())} if draw(st.booleans()) else {}
    return (edits | kept) or {**writer}, writer


def taken(document: dict[str, Any]) -> bool:
    try:
        schema(TYPE, 1, document)
    except SchemaError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(pairs(), st.lists(DATA, min_size=5, max_size=20))
def test_whatever_is_called_readable_is_read(pair: tuple[Any, Any], data: list[Any]) -> None:
    reader, writer = pair
    assume(taken(reader) and taken(writer))
    assume(not unreadable(inlined(reader), inlined(writer)))
    writes = jsonschema_rs.Draft202012Validator(writer)
    reads = jsonschema_rs.Draft202012Validator(opened(inlined(reader)))
    assert [value for value in data if writes.is_valid(value) and not reads.is_valid(value)] == []


@settings(max_examples=200, deadline=None)
@given(pairs())
@example(({"const": 1}, {"const": True}))
def test_no_containment_that_the_library_can_refute_is_claimed(pair: tuple[Any, Any]) -> None:
    reader, writer = pair
    assume(taken(reader) and taken(writer))
    assume(not unreadable(inlined(reader), inlined(writer)))
    assert covers(opened(inlined(reader)), writer) is not jsonschema_rs.canonical.Containment.NO


def covers(reader: Any, writer: Any) -> jsonschema_rs.canonical.Containment:
    try:
        return jsonschema_rs.canonicalize(reader, draft=20).covers(jsonschema_rs.canonicalize(writer, draft=20))
    except jsonschema_rs.canonical.CanonicalizationError:
        return jsonschema_rs.canonical.Containment.UNKNOWN


@given(NODE)
@settings(deadline=None)
def test_every_schema_reads_itself(node: dict[str, Any]) -> None:
    assume(taken(node))
    assert unreadable(inlined(node), inlined(node)) == []


# -- modes and consumers ------------------------------------------------------------------------------------------

V1 = thing({"id": STR, "total": NUM}, "id", "total")
WIDER = thing({"id": STR, "total": NUM, "note": STR}, "id", "total")
DROPPED = thing({"id": STR}, "id")
NEEDED = thing({"id": STR, "total": NUM, "note": STR}, "id", "total", "note")


def verdict(mode: str, new: Any, *old: Any, readers: tuple[Reader, ...] = ()) -> Verdict:
    earlier = [schema(TYPE, n, document) for n, document in enumerate(old, 1)]
    return judge(schema(TYPE, len(old) + 1, new), earlier, Mode(mode), readers)


@pytest.mark.parametrize(
    ("new", "passes"),
    [
        (WIDER, {"none", "backward", "forward", "full"}),
        (DROPPED, {"none", "backward"}),
        (NEEDED, {"none", "forward"}),
        (thing({"id": INT}, "id"), {"none"}),
    ],
)
def test_the_modes_mean_what_confluent_says(new: Any, passes: set[str]) -> None:
    assert {mode for mode in ("none", "backward", "forward", "full") if verdict(mode, new, V1).compatible} == passes


def test_transitive_modes_ask_every_earlier_version() -> None:
    texts, none, numbers = (thing({"note": kind} if kind else {}) for kind in (STR, None, NUM))
    assert verdict("full", numbers, texts, none).compatible
    refused = verdict("full_transitive", numbers, texts, none)
    assert {(one.reader, one.writer) for one in refused.breaks} == {
        ("version 3", "version 1"),
        ("version 1", "version 3"),
    }


def test_the_first_version_is_always_compatible() -> None:
    assert verdict("full_transitive", V1).compatible


def test_a_consumer_that_would_break_is_named_with_the_reason() -> None:
    ledger, mail = Reader("ledger", {"type": "object", "required": ["total"]}), Reader("mail", thing({"id": STR}, "id"))
    found = verdict("backward", DROPPED, V1, readers=(ledger, mail))
    assert (found.compatible, found.readers, list(found.broken)) == (False, ("ledger", "mail"), ["ledger"])
    assert found.broken["ledger"][0].rule == "property_may_be_absent"
    assert verdict("none", DROPPED, V1, readers=(ledger, mail)).compatible


def test_a_consumer_of_which_nothing_is_known_is_held_to_what_the_mode_promises() -> None:
    unknown = (Reader("unknown"),)
    assert verdict("backward", DROPPED, V1, readers=unknown).compatible
    assert list(verdict("forward", DROPPED, V1, readers=unknown).broken) == ["unknown"]
