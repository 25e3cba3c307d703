"""Every event that our code publishes has a schema in a file, and the examples of the files keep to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.health.breakers import EVENTS
from missioncontrol.management.commands.schemas import found, ours
from services.kit.events.cloudevent import TYPE
from services.kit.events.schema import Schema

ROOT = Path(__file__).resolve().parents[4]
CALLS = {"publish", "apublish", "Draft", "Fact", "record"}
SCHEMAS = [one for _, contracts in [*found(ROOT / "services"), ("", ours())] for one in contracts.publishes]
TYPES = {one.type for one in SCHEMAS}


def published() -> Iterator[tuple[str, str]]:
    """Where, and a regular expression of the types that the call may publish."""
    for folder in ("apps", "services", "missioncontrol"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            constants = {
                target.id: node.value
                for node in tree.body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and _name(node.func) in CALLS:
                    for given in [*node.args[:2], *(word.value for word in node.keywords if word.arg == "type")]:
                        value = constants.get(given.id, given) if isinstance(given, ast.Name) else given
                        if (pattern := _pattern(value)) is not None:
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", pattern


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _pattern(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and TYPE.fullmatch(node.value):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
        if TYPE.fullmatch("".join(part if part is not None else "x" for part in parts)):
            return "".join("[^.]+" if part is None else re.escape(part) for part in parts)
    return None


def test_every_type_that_is_published_in_code_has_a_schema_in_a_file() -> None:
    places = list(published())
    assert {
        "apps/gateway/actions.py",
        "apps/health/breakers.py",
        "apps/health/findings.py",
        "services/covenant/api.py",
    } <= {place.partition(":")[0] for place, _ in places}, "this test no longer sees who publishes"
    wrong = [
        f"{place} publishes {pattern}"
        for place, pattern in places
        if not any(re.fullmatch(pattern, one) for one in TYPES)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_types_that_are_put_together_are_all_there() -> None:
    made = {f"system.breaker.{word}" for word in EVENTS.values()}
    assert made | {"system.instance.healthy", "system.instance.unhealthy"} <= TYPES


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda one: one.type)
def test_a_schema_tells_what_the_event_means_and_shows_one(schema: Schema) -> None:
    assert schema.document["title"] and schema.document["description"]
    assert schema.document["examples"]
    for example in schema.document["examples"]:
        schema.check(example)
