"""Every event that our code publishes has a schema in a file, and the examples of the files keep to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.events.letters.actions import What
from apps.events.letters.models import RedriveJob
from apps.health.breakers import EVENTS
from missioncontrol.management.commands.schemas import found, ours
from services.kit.events.cloudevent import TYPE
from services.kit.events.schema import Schema

ROOT = Path(__file__).resolve().parents[4]
CALLS = {"publish", "apublish", "Draft", "Fact", "record"}
OURS = re.compile(r"(system|control)\.[a-z-]+\.[a-z-]+")
"""Types of domains that nobody else has: wherever one is written, in a call or a constant, it is published."""
SCHEMAS = [one for _, contracts in [*found(ROOT / "services"), ("", ours())] for one in contracts.publishes]
TYPES = {one.type for one in SCHEMAS}
COMPOSED = {
    "system.<>.<>": {f"system.{kind}.{what}" for kind in RedriveJob.Kind.values for what in What},
    "system.breaker.<>": {f"system.breaker.{word}" for word in EVENTS.values()},
    "system.instance.<>": {"system.instance.healthy", "system.instance.unhealthy"},
}
"""The types that are put together in code, by how they are. Another one is added here with all that it can become."""


def literals() -> Iterator[tuple[str, str, bool]]:
    """Where a type is written, the type (``<>`` for each part that is put in), and whether it is published there."""
    for folder in ("apps", "services", "missioncontrol"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            constants = dict(_constants(tree))
            for node in ast.walk(tree):
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Constant | ast.JoinedStr) and (type := _type(node)):
                    yield where, type, False
                if isinstance(node, ast.Call) and _name(node.func) in CALLS:
                    for given in [*node.args[:2], *(word.value for word in node.keywords if word.arg == "type")]:
                        if type := _type(constants.get(given.id, given) if isinstance(given, ast.Name) else given):
                            yield where, type, True


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                yield target.id, node.value


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _type(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and TYPE.fullmatch(node.value):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "<>" for part in node.values]
        if TYPE.fullmatch("".join(parts).replace("<>", "x")):
            return "".join(parts)
    return ""


def faults(places: list[tuple[str, str, bool]]) -> list[str]:
    """What is published, or is of our own domains, and has no schema."""
    return [
        f"{where} has {type}"
        for where, type, published in places
        if (published or OURS.fullmatch(type.replace("<>", "x")))
        and not (COMPOSED.get(type, set()) if "<>" in type else {type}) & TYPES
    ]


def test_every_type_that_is_published_in_code_has_a_schema_in_a_file() -> None:
    places = list(literals())
    assert {
        "apps/events/letters/actions.py",
        "apps/gateway/actions.py",
        "apps/health/breakers.py",
        "apps/health/findings.py",
        "services/covenant/api.py",
        "services/kit/events/reporting.py",
    } <= {place.partition(":")[0] for place, type, call in places if call or OURS.match(type)}, (
        "it no longer sees who publishes"
    )
    assert not faults(places), "\n".join(faults(places))


def test_a_new_type_without_a_schema_is_noticed() -> None:
    given = [
        ("x.py:1", "system.moon.landed", False),
        ("x.py:2", "shop.order.placed", True),
        ("x.py:3", "system.moon.<>", True),
    ]
    assert len(faults(given)) == 3 and not faults([("x.py:4", "shop.order.placed", False)])


@pytest.mark.parametrize("made", COMPOSED.values(), ids=COMPOSED)
def test_the_types_that_are_put_together_are_all_there(made: set[str]) -> None:
    assert made <= TYPES


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda one: one.type)
def test_a_schema_tells_what_the_event_means_and_shows_one(schema: Schema) -> None:
    assert schema.document["title"] and schema.document["description"]
    assert schema.document["examples"]
    for example in schema.document["examples"]:
        schema.check(example)
