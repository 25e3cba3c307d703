"""What the data of one type of event may be: a JSON Schema (draft 2020-12), checked and compiled once.

Pure, and no document is ever fetched: a ``$ref`` names one of the document's own ``$defs`` or is refused. So is a
schema that is recursive or grows beyond bounds when its references are followed: every event would pay for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from ..problem import Problem
from .cloudevent import EventError, check_type

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 16
"""Levels of a document, each object or list being one."""
MAX_NODES = 2000
"""Subschemas when all references are followed: what one event can be checked against at most."""
MAX_FAULTS = 10
"""Faults that one refusal names."""
MAX_SEARCHED = 16 * 1024
"""Bytes of data that are searched for further faults; the first is found in any. A fault costs twenty microseconds."""
MAX_SAID = 300
MAX_VERSION = 32_767

SINGLE = {
    *("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then"),
    *("unevaluatedItems", "unevaluatedProperties"),
}
LISTED = {"allOf", "anyOf", "oneOf", "prefixItems"}
NAMED = {"$defs", "dependentSchemas", "patternProperties", "properties"}
"""Keywords whose value is one schema, a list of schemas, an object of schemas."""
OPENED = {"additionalProperties", "items", "allOf", "anyOf", "prefixItems", "properties", "patternProperties"}
"""Where a looser subschema makes a looser schema."""
DEFINITION = re.compile("#/[$]defs/([^/]+)")
REFUSED = {"$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveRef", "$vocabulary"}

# Linear in the text whatever the pattern; what has no such engine (look-around, back references) is refused.
PATTERNS = jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=1024 * 1024)

URN = "urn:mission-control:schema:"
OURS = re.compile(rf"{URN}([a-z0-9._-]+):([1-9][0-9]{{0,9}})")


class SchemaError(ValueError):
    """The document can't be the schema of events; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where data violates its schema."""

    pointer: str
    """JSON Pointer (RFC 6901) into the data; empty for all of it."""
    rule: str
    """The keyword that is violated."""
    expected: str
    """A sentence that doesn't repeat the value."""


class Violation(EventError):
    """Data that its schema refuses."""

    def __init__(self, schema: Schema, faults: list[Fault]) -> None:
        first = faults[0]
        place = f"at {first.pointer}" if first.pointer else "as a whole"
        super().__init__(
            f"The event's data violates version {schema.version} of {schema.type} {place}: {first.expected}."
        )
        self.schema = schema
        self.faults = faults

    def problem(self) -> Problem:
        """The refusal as a publisher gets it: ``faults`` has at most ten, each with the path in the data."""
        faults = [{"pointer": one.pointer, "rule": one.rule, "expected": one.expected} for one in self.faults]
        members = {"event_type": self.schema.type, "dataschema": self.schema.uri, "faults": faults}
        return Problem(422, "schema_violation", str(self), extra=members)


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a type's schema, ready to check events. Safe in many threads; ``schema`` makes it."""

    type: str
    version: int
    document: dict[str, Any] = field(repr=False)
    digest: str = field(repr=False)
    """SHA-256 of the document, whatever the order of its members."""
    validator: jsonschema_rs.Validator = field(repr=False, compare=False)

    @property
    def uri(self) -> str:
        """What names this schema in an event's ``dataschema``."""
        return uri(self.type, self.version)

    def check(self, data: Any) -> None:
        """Violation, naming what is wrong, unless ``data``, which has a form as JSON, is what the schema asks for."""
        if not self.validator.is_valid(data):
            raise Violation(self, list(self._faults(data)))

    def _faults(self, data: Any) -> Iterator[Fault]:
        if len(msgspec.json.encode(data)) <= MAX_SEARCHED:
            yield from map(_fault, islice(self.validator.iter_errors(data), MAX_FAULTS))
            return
        try:
            self.validator.validate(data)
        except jsonschema_rs.ValidationError as error:
            yield _fault(error)

    def for_reading(self) -> Schema:
        """The same for a consumer, who passes over properties that it doesn't know: no object is closed."""
        loose = opened(inlined(self.document))
        return replace(self, document=loose, validator=_compile(loose))


def schema(type: str, version: int, document: Any) -> Schema:
    """Check and compile ``document``. SchemaError for what is no schema, or none that is taken here; EventError for
    an odd type."""
    check_type(type)
    if not 1 <= version <= MAX_VERSION:
        raise SchemaError(f"A version is a whole number from 1; {version} is not.")
    digest = hashlib.sha256(_canonical(document)).hexdigest()
    _check(document)
    return Schema(type, version, document, digest, _compile(document))


def uri(type: str, version: int) -> str:
    """What an event's ``dataschema`` says: the type and version of the schema that its data keeps to."""
    return f"{URN}{type}:{version}"


def named(dataschema: str) -> tuple[str, int] | None:
    """The type and version that a ``dataschema`` of ours names; None for anybody else's."""
    found = OURS.fullmatch(dataschema)
    return (found[1], int(found[2])) if found else None


def parse(type: str, version: int, raw: bytes | str) -> Schema:
    """The schema that ``raw`` holds as JSON; errors as for ``schema``."""
    if len(raw) > 2 * MAX_BYTES:
        raise SchemaError(f"The schema is larger than {MAX_BYTES:,} bytes.")
    try:
        return schema(type, version, msgspec.json.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError(f"The schema is not JSON: {error}.") from None


def inlined(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema without references and definitions; SchemaError when there is none of bounded size."""
    found = _Inliner(document).node(document, "", (), 0)
    return found if isinstance(found, dict) else {} if found else {"not": {}}


def opened(node: Any) -> Any:
    """``node``, which holds no references, with every object open for further properties."""
    if not isinstance(node, dict):
        return node
    loose = {key: value for key, value in node.items() if key not in OPENED}
    if node.get("unevaluatedProperties") is False:
        del loose["unevaluatedProperties"]
    for key in node.keys() & OPENED:
        value = node[key]
        if key == "additionalProperties" and value is False:
            continue
        if key in LISTED:
            loose[key] = [opened(one) for one in value]
        elif key in NAMED:
            loose[key] = {name: opened(one) for name, one in value.items()}
        else:
            loose[key] = opened(value)
    return loose


def escape(name: str) -> str:
    """``name`` as one step of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _canonical(document: Any) -> bytes:
    if not isinstance(document, dict):
        raise SchemaError("A schema must be a JSON object.")
    _bound_depth(document)
    try:
        encoded = msgspec.json.encode(document, order="sorted")
    except (TypeError, ValueError) as error:
        raise SchemaError(f"The schema can't be written as JSON: {error}.") from None
    if len(encoded) > MAX_BYTES:
        raise SchemaError(f"The schema is {len(encoded):,} bytes; the most is {MAX_BYTES:,}.")
    if rb"\u0000" in encoded.replace(rb"\\", b""):
        raise SchemaError("The schema holds a NUL character, which no database here can store.")
    return encoded


def _bound_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        below: list[Any] = []
        for item in level:
            below += item.values() if isinstance(item, dict) else item
        level = [item for item in below if isinstance(item, dict | list)]
    raise SchemaError(f"The schema is nested more than {MAX_DEPTH} levels deep.")


def _check(document: dict[str, Any]) -> None:
    if document.get("$schema", DIALECT) != DIALECT:
        raise SchemaError(f"A schema is written in draft 2020-12: leave $schema out, or let it be {DIALECT}.")
    try:
        # Only then has every keyword the shape that the walk expects.
        jsonschema_rs.meta.validate(document)
    except jsonschema_rs.ValidationError as error:
        raise _not_valid(error) from None
    inlined(document)


def _compile(document: dict[str, Any]) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            document,
            validate_formats=True,
            ignore_unknown_formats=False,
            pattern_options=PATTERNS,
            offline=True,
            mask="the value",
        )
    except jsonschema_rs.ValidationError as error:
        raise _not_valid(error) from None


def _not_valid(error: jsonschema_rs.ValidationError) -> SchemaError:
    place = _pointer(error.instance_path)
    return SchemaError(f"The schema is not valid{f' at {place}' if place else ''}: {_short(error.message)}.")


class _Inliner:
    """One walk over a document, counting what it makes."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.nodes = self.bytes = 0

    def node(self, node: Any, at: str, within: tuple[str, ...], level: int) -> Any:
        """``node`` with its references replaced; ``within`` are the references that lead here."""
        self.nodes += 1
        if not isinstance(node, dict):
            return node
        if odd := sorted(REFUSED & node.keys()):
            raise SchemaError(f"The schema uses {odd[0]} at {at or 'its root'}, which is not taken here.")
        if at and "$id" in node:
            raise SchemaError(f"The schema names itself anew ($id) at {at}; only its root may have a name.")
        out: dict[str, Any] = {}
        for key, value in node.items():
            place = f"{at}/{key}"
            if key in SINGLE:
                out[key] = self.node(value, place, within, level + 1)
            elif key in LISTED:
                out[key] = [self.node(one, f"{place}/{n}", within, level + 1) for n, one in enumerate(value)]
            elif key in NAMED - {"$defs"}:
                out[key] = {
                    name: self.node(one, f"{place}/{escape(name)}", within, level + 1) for name, one in value.items()
                }
            elif key not in {"$ref", "$defs"}:
                out[key] = value
                self.bytes += len(msgspec.json.encode(value))
        self.bound(level)
        if "$ref" not in node:
            return out
        target = self.follow(node["$ref"], at, within, level)
        if not out.keys() - ANNOTATIONS:
            return {**target, **out} if isinstance(target, dict) else target
        return {**out, "allOf": [target, *out.get("allOf", ())]}

    def bound(self, level: int) -> None:
        if self.nodes > MAX_NODES or self.bytes > 4 * MAX_BYTES or level > 2 * MAX_DEPTH:
            raise SchemaError(
                f"The schema is too large when every $ref is followed: more than {MAX_NODES:,} subschemas, "
                f"{4 * MAX_BYTES:,} bytes or {2 * MAX_DEPTH} subschemas within each other."
            )

    def follow(self, reference: str, at: str, within: tuple[str, ...], level: int) -> Any:
        place = f"$ref at {at or 'the root'} is {_short(reference)}"
        found = DEFINITION.fullmatch(reference)
        if found is None:
            raise SchemaError(f"{place}: it must read #/$defs/<name>, of its own document. Nothing is fetched.")
        if reference in within:
            raise SchemaError(f"{place}, which leads back to itself: a recursive schema is not taken.")
        name = unquote(found[1]).replace("~1", "/").replace("~0", "~")
        definitions = self.root.get("$defs", {})
        if name not in definitions:
            raise SchemaError(f"{place}, and there is nothing.")
        return self.node(definitions[name], reference[1:], (*within, reference), level + 1)


ANNOTATIONS = {
    *("$comment", "$id", "$schema", "contentEncoding", "contentMediaType", "contentSchema", "default", "deprecated"),
    *("description", "examples", "readOnly", "title", "writeOnly"),
}
"""Keywords that say something about data and refuse none."""


def _fault(error: jsonschema_rs.ValidationError) -> Fault:
    return Fault(_pointer(error.instance_path), error.kind.name, _short(error.message))


def _pointer(path: Any) -> str:
    return _short("".join(f"/{escape(str(step))}" for step in path))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}…"
