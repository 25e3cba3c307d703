"""A service publishes what it promises and is handed what it needs, by the schemas beside its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.kit.events.cloudevent import CloudEvent, decode, encode
from services.kit.events.contracts import Contracts, read
from services.kit.events.retry import Permanent
from services.kit.events.schema import SchemaError, Violation, uri

TYPE = "business.order.placed"
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def thing(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def write(folder: Path, name: str, document: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))


@pytest.fixture
def contracts(tmp_path: Path) -> Contracts:
    write(tmp_path / "publishes", f"{TYPE}.2.json", thing({"id": TEXT, "total": NUMBER}, "id", "total"))
    write(tmp_path / "publishes", f"{TYPE}.1.json", thing({"id": TEXT}, "id"))
    write(tmp_path / "consumes", f"{TYPE}.1.json", thing({"id": TEXT}, "id"))
    write(tmp_path / "consumes", f"{TYPE}.3.json", thing({"id": TEXT, "total": NUMBER}, "total"))
    return read(tmp_path)


def event(data: Any, version: int | None = None) -> CloudEvent:
    schema = uri(TYPE, version) if version else ""
    return CloudEvent(id="1", type=TYPE, source="orders", time=0.0, data=data, dataschema=schema)


def test_the_newest_version_is_what_is_promised(contracts: Contracts) -> None:
    assert contracts.promised(TYPE, {"id": "x", "total": 1}) == uri(TYPE, 2)
    with pytest.raises(Violation):
        contracts.promised(TYPE, {"id": "x"})
    assert contracts.promised("business.order.paid", {"anything": 1}) == ""


@pytest.mark.parametrize(
    ("data", "version", "fine"),
    [
        ({"id": "x"}, 1, True),
        ({"id": 1}, 1, False),
        ({"total": 1}, 3, True),
        ({"id": "x"}, 3, False),
        ({"total": 1, "new": 2}, 2, True),
        ({"id": "x"}, 2, False),
        ({"total": 1}, None, True),
    ],
)
def test_an_event_is_held_to_the_version_that_it_names_or_else_to_the_newest_known(
    contracts: Contracts, data: Any, version: int | None, fine: bool
) -> None:
    seen: list[Any] = []
    handler = contracts.guard(lambda connection, event: seen.append(event.data))
    if fine:
        handler(None, event(data, version))
        assert seen == [data]
    else:
        with pytest.raises(Permanent, match="violates version"):
            handler(None, event(data, version))
        assert seen == []


def test_a_service_without_schemas_is_asked_nothing(tmp_path: Path) -> None:
    found = read(tmp_path / "none")
    assert found.promised(TYPE, {}) == ""
    found.check_consumed(event({"anything": 1}))


@pytest.mark.parametrize(
    ("name", "document", "says"),
    [
        ("business.order.placed.json", {}, "<type>.<version>.json"),
        ("business.order.placed.01.json", {}, "<type>.<version>.json"),
        ("order.1.json", {}, "lower-case words"),
        (f"{TYPE}.1.json", "{", "not JSON"),
        (f"{TYPE}.1.json", {"type": "objekt"}, "/type"),
    ],
)
def test_a_file_that_is_no_schema_is_named(tmp_path: Path, name: str, document: Any, says: str) -> None:
    write(tmp_path / "publishes", name, document)
    with pytest.raises(SchemaError, match=name) as refused:
        read(tmp_path)
    assert says in str(refused.value)


def test_the_schema_of_an_event_travels_with_it() -> None:
    sent = event({"id": "x"}, 2)
    assert json.loads(encode(sent))["dataschema"] == uri(TYPE, 2)
    assert decode(encode(sent)) == sent
