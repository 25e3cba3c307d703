"""Can who reads one version of a schema read what another allows? Pure.

The modes are those that Confluent's schema registry names. *Backward*: readers of the new version read events of
the earlier; *forward*: readers of the earlier read events of the new. A reader passes over properties that it
doesn't know, so an object that is closed (``additionalProperties: false``) refuses nothing while it is read, and
tells as it is written which properties there can be.

``unreadable`` finds no fault only where it can show that there is none. What it can't compare, it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

import jsonschema_rs
import msgspec

from services.kit.events.schema import ANNOTATIONS, PATTERNS, Schema, escape, inlined, opened

MOST_STEPS = 5000
"""Pairs of subschemas that one comparison looks at."""
MOST_FAULTS = 20

Node = Any
"""A schema without references: an object or a boolean."""


class Mode(StrEnum):
    """What a new version must keep to."""

    NONE = "none"
    BACKWARD = "backward"
    BACKWARD_TRANSITIVE = "backward_transitive"
    FORWARD = "forward"
    FORWARD_TRANSITIVE = "forward_transitive"
    FULL = "full"
    FULL_TRANSITIVE = "full_transitive"

    @property
    def transitive(self) -> bool:
        """Whether all earlier versions count, and not the newest of them alone."""
        return self.endswith("_transitive")

    @property
    def backward(self) -> bool:
        return self.startswith(("backward", "full"))

    @property
    def forward(self) -> bool:
        return self.startswith(("forward", "full"))


@dataclass(frozen=True, slots=True)
class Break:
    """One reason why a reader may not be able to read what a writer may write."""

    rule: str
    path: str
    """JSON Pointer into the reader's schema, as if every reference were written out."""
    says: str
    shown: bool = True
    """False when it only can't be shown to be compatible."""
    reader: str = ""
    """Whose reading: ``version 3``, or a consumer's name."""
    writer: str = ""
    """Whose writing: ``version 4``."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A consumer of the type. Without a schema of its own it is taken to read the newest version before."""

    name: str
    needs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a change does."""

    mode: Mode
    breaks: tuple[Break, ...] = ()
    readers: tuple[str, ...] = ()
    """Who consumes the type."""
    broken: Mapping[str, tuple[Break, ...]] = field(default_factory=dict)
    """Which of them may be unable to read events of the new version, and why."""

    @property
    def compatible(self) -> bool:
        """Whether the mode lets the change pass. A consumer that would break counts in every mode but none."""
        return self.mode is Mode.NONE or not (self.breaks or self.broken)


def judge(new: Schema, earlier: Sequence[Schema], mode: Mode, readers: Iterable[Reader] = ()) -> Verdict:
    """Hold ``new`` to ``mode`` against ``earlier`` versions (oldest first) and to what ``readers`` need."""
    written = inlined(new.document)
    breaks: list[Break] = []
    against = list(earlier) if mode.transitive else list(earlier[-1:])
    for old in reversed(against):
        before = inlined(old.document)
        older, newer = f"version {old.version}", f"version {new.version}"
        if mode.backward:
            breaks += [replace(one, reader=newer, writer=older) for one in unreadable(written, before)]
        if mode.forward:
            breaks += [replace(one, reader=older, writer=newer) for one in unreadable(before, written)]
    broken: dict[str, tuple[Break, ...]] = {}
    names: list[str] = []
    for reader in readers:
        names.append(reader.name)
        needs = reader.needs if reader.needs is not None else earlier[-1].document if earlier else {}
        found = unreadable(inlined(needs), written)
        # A consumer without a schema of its own is held to what the mode promises.
        if found and (reader.needs is not None or mode.forward):
            broken[reader.name] = tuple(
                replace(one, reader=reader.name, writer=f"version {new.version}") for one in found[:MOST_FAULTS]
            )
    return Verdict(mode, tuple(breaks[:MOST_FAULTS]), tuple(names), broken)


def unreadable(reader: Node, writer: Node) -> list[Break]:
    """Why data that ``writer`` allows might not be what ``reader``, with its objects open, accepts; at most twenty.

    Both without references (``inlined``). Empty only if all of it is accepted.
    """
    try:
        return _Comparison().accepts(opened(reader), writer, "")[:MOST_FAULTS]
    except _TooLong:
        return [Break("too_large", "", "the schemas are too large to be compared", shown=False)]


TYPES = frozenset({"null", "boolean", "object", "array", "number", "string"})
"""Integers are numbers here; ``integer`` narrows them."""
IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
SPECIAL = {
    "object": frozenset(
        {"dependentRequired", "dependentSchemas", "patternProperties", "propertyNames", "unevaluatedProperties"}
    ),
    "array": frozenset({"contains", "minContains", "maxContains", "unevaluatedItems"}),
    "": frozenset({"oneOf", "not", "if", "then", "else"}),
}
"""What is only compared with its like, by the type of data that it concerns."""


ANYTHING: dict[str, Any] = {}

UNEVALUATED = {"unevaluatedItems", "unevaluatedProperties"}
"""These depend on what stands beside them."""


class _TooLong(Exception):
    pass


class _Comparison:
    def __init__(self) -> None:
        self.steps = 0
        self.loose: dict[int, Node] = {}
        """Of writers' schemas by their identity, which lasts as long as the comparison."""

    def _opened(self, writer: Node) -> Node:
        if id(writer) not in self.loose:
            self.loose[id(writer)] = opened(writer)
        return self.loose[id(writer)]

    def accepts(self, reader: Node, writer: Node, at: str) -> list[Break]:
        """Why the reader might refuse something that the writer allows; ignoring a rule of the writer's is safe."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise _TooLong
        if reader is True or writer is False or _same(reader, self._opened(writer)):
            return []
        if reader is False:
            return [Break("refused", at, "nothing is accepted here")]
        if not reader.keys() - ANNOTATIONS:
            return []
        return self._unequal(reader, ANYTHING if writer is True else writer, at)

    def _unequal(self, reader: Node, writer: dict[str, Any], at: str) -> list[Break]:
        if (values := _values(writer)) is not None:
            return self._finite(reader, writer, values, at)
        found = self._rules(reader, writer, at)
        for part in writer.get("allOf", ()):
            # Whatever is written keeps to each part, so the one that explains most is enough.
            found = min(found, self.accepts(reader, part, at), key=len) if found else found
        for choices in _choices(writer):
            if found and not any(self.accepts(reader, part, at) for part in choices):
                return []
        return found

    def _finite(self, reader: dict[str, Any], writer: dict[str, Any], values: list[Any], at: str) -> list[Break]:
        """The writer allows these values alone: try each."""
        self.steps += len(values)
        writes, reads = _validator(writer), _validator(reader)
        odd = [value for value in values if writes.is_valid(value) and not reads.is_valid(value)]
        if not odd:
            return []
        return [Break("value_not_accepted", at, f"{_show(odd)} may be written and is not accepted")]

    def _rules(self, reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
        found: list[Break] = []
        written, read = _types(writer), _types(reader)
        if missing := written - read:
            found.append(
                Break("type_narrowed", f"{at}/type", f"{_show(sorted(missing))} may be written and is not read")
            )
        elif "number" in written and _whole(reader) and not _whole(writer):
            found.append(Break("type_narrowed", f"{at}/type", "a number that is not whole may be written"))
        found += [
            Break("enum_added", f"{at}/{keyword}", "values other than these may be written")
            for keyword in ("enum", "const")
            if keyword in reader
        ]
        for n, part in enumerate(reader.get("allOf", ())):
            found += self.accepts(part, writer, f"{at}/allOf/{n}")
        if "anyOf" in reader and not self._chosen(reader["anyOf"], writer, at):
            found.append(Break("not_compared", f"{at}/anyOf", "no choice can be shown to accept all of it", False))
        found += self._special("", reader, writer, at)
        if "string" in written:
            found += _string(reader, writer, at)
        if "number" in written:
            found += _number(reader, writer, at)
        if "array" in written:
            found += self._array(reader, writer, at) + self._special("array", reader, writer, at)
        if "object" in written:
            found += self._object(reader, writer, at) + self._special("object", reader, writer, at)
        return found

    def _chosen(self, parts: list[Node], writer: dict[str, Any], at: str) -> bool:
        """Whether each way to write has a choice that reads it."""
        return any(
            all(any(not self.accepts(part, way, at) for part in parts) for way in ways)
            for ways in ([writer], *_choices(writer))
        )

    def _special(self, kind: str, reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
        read = {key: reader[key] for key in SPECIAL[kind] & reader.keys()}
        written = {key: writer[key] for key in SPECIAL[kind] & writer.keys()}
        if not read or (_same(read, opened(written)) and not UNEVALUATED & read.keys()):
            return []
        return [Break("not_compared", f"{at}/{key}", f"{key} can't be compared here", False) for key in sorted(read)]

    def _array(self, reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
        found = _bounds(reader, writer, at, "minItems", "maxItems")
        if reader.get("uniqueItems") and not writer.get("uniqueItems") and writer.get("maxItems", 2) > 1:
            found.append(Break("unique_items_added", f"{at}/uniqueItems", "items that are equal may be written"))
        reads, writes = reader.get("prefixItems", []), writer.get("prefixItems", [])
        rest_read, rest_written = reader.get("items", True), writer.get("items", True)
        for n in range(max(len(reads), len(writes))):
            place = f"{at}/prefixItems/{n}" if n < len(reads) else f"{at}/items"
            one = reads[n] if n < len(reads) else rest_read
            found += self.accepts(one, writes[n] if n < len(writes) else rest_written, place)
        return found + self.accepts(rest_read, rest_written, f"{at}/items")

    def _object(self, reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
        found = _bounds(reader, writer, at, "minProperties", "maxProperties")
        for name in reader.get("required", ()):
            if name not in writer.get("required", ()):
                found.append(
                    Break("property_may_be_absent", f"{at}/required", f"{_show([name])} is needed and may be absent")
                )
        reads, writes = reader.get("properties", {}), writer.get("properties", {})
        rest_read, rest_written = reader.get("additionalProperties", True), _rest(writer)
        for name, one in reads.items():
            place = f"{at}/properties/{escape(name)}"
            if name in writes:
                found += self.accepts(one, writes[name], place)
            elif self.accepts(one, rest_written, place):
                says = f"{_show([name])} is not named by an open object, so anything may be written there"
                found.append(Break("property_of_open_object", place, says))
        for name, one in writes.items():
            if name not in reads:
                found += self.accepts(rest_read, one, f"{at}/additionalProperties")
        # Where both know the same patterns, what is left is what neither names and none of them matches.
        same = _same(reader.get("patternProperties", {}), opened(writer).get("patternProperties", {}))
        return found + self.accepts(rest_read, _rest(writer, same), f"{at}/additionalProperties")


def _string(reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
    found = _bounds(reader, writer, at, "minLength", "maxLength")
    for key in ("pattern", "format"):
        if key in reader and reader[key] != writer.get(key):
            found.append(Break(f"{key}_changed", f"{at}/{key}", f"text may be written that has another {key}", False))
    return found


def _number(reader: dict[str, Any], writer: dict[str, Any], at: str) -> list[Break]:
    found = []
    for keyword, sign in (("minimum", 1), ("maximum", -1)):
        read, written = _edge(reader, keyword, sign, _whole(writer)), _edge(writer, keyword, sign, _whole(writer))
        if read > written:
            found.append(Break(f"{keyword}_narrowed", f"{at}/{keyword}", "a number beyond it may be written"))
    step, wrote = reader.get("multipleOf"), writer.get("multipleOf")
    if step is not None:
        steps = wrote if wrote is not None else 1 if _whole(writer) else None
        if steps is None or (Fraction(str(steps)) / Fraction(str(step))).denominator != 1:
            found.append(
                Break("multiple_of_narrowed", f"{at}/multipleOf", "a number that is no multiple may be written")
            )
    return found


def _edge(node: dict[str, Any], keyword: str, sign: int, whole: bool) -> tuple[float, int]:
    """The lower bound as (value, 1 if the value itself is out); with ``sign`` -1, the upper one turned around."""
    edges: list[tuple[Any, int]] = [(-math.inf, 0)]
    if keyword in node:
        edges.append((sign * node[keyword], 0))
    exclusive = f"exclusive{keyword.capitalize()}"
    if exclusive in node:
        edges.append((sign * node[exclusive], 1))
    value, out = max(edges)
    if whole and math.isfinite(value):
        # Among whole numbers, above 3 is from 4, and from 2.5 is from 3.
        return (math.floor(value) + 1 if out else math.ceil(value)), 0
    return value, out


def _bounds(reader: dict[str, Any], writer: dict[str, Any], at: str, low: str, high: str) -> list[Break]:
    found = []
    if reader.get(low, 0) > writer.get(low, 0):
        found.append(Break(f"{_words(low)}_narrowed", f"{at}/{low}", f"less than {reader[low]} may be written"))
    if reader.get(high, math.inf) < writer.get(high, math.inf):
        found.append(Break(f"{_words(high)}_narrowed", f"{at}/{high}", f"more than {reader[high]} may be written"))
    return found


def _rest(writer: dict[str, Any], without_patterns: bool = False) -> Node:
    """What a writer may write into properties that it does not name (and that none of its patterns matches)."""
    if writer.get("patternProperties") and not without_patterns:
        return True
    if "additionalProperties" in writer:
        return writer["additionalProperties"]
    # With nothing applied in place, what is not evaluated is what is not named.
    return writer.get("unevaluatedProperties", True) if not IN_PLACE & writer.keys() else True


def _choices(writer: dict[str, Any]) -> list[list[Node]]:
    """Lists of schemas of which one holds for whatever is written."""
    return [writer[key] for key in ("anyOf", "oneOf") if key in writer]


def _values(node: dict[str, Any]) -> list[Any] | None:
    """All values that may be there, or None when there is no end of them."""
    if "const" in node:
        return [node["const"]]
    if "enum" in node:
        return list(node["enum"])
    if not _types(node) <= {"null", "boolean"}:
        return None
    return [value for value in (None, True, False) if ("null" if value is None else "boolean") in _types(node)]


def _types(node: dict[str, Any]) -> frozenset[str]:
    named = node.get("type", list(TYPES))
    return frozenset("number" if one == "integer" else one for one in ([named] if isinstance(named, str) else named))


def _whole(node: dict[str, Any]) -> bool:
    named = node.get("type", "number")
    return "integer" in named and "number" not in named


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: Python takes 1 for True."""
    return one == other and msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _validator(node: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(node, validate_formats=True, pattern_options=PATTERNS, offline=True)


def _show(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) if len(repr(value)) < 60 else f"{repr(value)[:60]}…" for value in values[:5])


def _words(keyword: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in keyword)
