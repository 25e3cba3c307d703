"""The catalogue as an AsyncAPI 3.0 document: what types there are, who publishes and who consumes them. Pure.

References are written out: a ``$ref`` of a schema would point into this document instead of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.events.schema import inlined, uri

MOST_TYPES = 1000
"""Types in one document; how many are left out, it says."""
FORMAT = "application/schema+json;version=draft-2020-12"
TEXT = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Listed:
    """One type with its newest version."""

    name: str
    version: int
    document: Mapping[str, Any]
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()


def document(listed: Iterable[Listed], *, version: str, left_out: int = 0) -> dict[str, Any]:
    """The document; ``version`` is that of the product. Operations are the services': who sends, who receives."""
    types = list(listed)
    more = f" {left_out:,} more types are left out here." if left_out else ""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Events",
            "version": version,
            "description": f"CloudEvents 1.0; the payload is their data, by the newest schema of each type.{more}",
        },
        "defaultContentType": "application/json",
        "channels": {one.name: _channel(one) for one in types},
        "operations": {
            f"{service}.{action}.{one.name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{one.name}"},
                "title": f"{service} {words} {one.name}",
                "messages": [{"$ref": f"#/channels/{one.name}/messages/v{one.version}"}],
                "tags": [{"name": service}],
            }
            for one in types
            for action, words, services in (
                ("send", "publishes", one.producers),
                ("receive", "consumes", one.consumers),
            )
            for service in services
        },
        "components": {"messages": {f"{one.name}.{one.version}": _message(one) for one in types}},
    }


def _channel(one: Listed) -> dict[str, Any]:
    return {
        "address": one.name,
        "title": _text(one, "title"),
        "description": _text(one, "description"),
        "messages": {f"v{one.version}": {"$ref": f"#/components/messages/{one.name}.{one.version}"}},
    }


def _message(one: Listed) -> dict[str, Any]:
    schema = inlined(one.document)
    examples = schema.pop("examples", [])
    return {
        "name": f"{one.name}.{one.version}",
        "title": _text(one, "title"),
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "description": "The attributes of the CloudEvent.",
            "required": ["specversion", "id", "type", "source"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": TEXT,
                "type": {"const": one.name},
                "source": TEXT,
                "dataschema": {"const": uri(one.name, one.version)},
                **dict.fromkeys(("subject", "time", "partitionkey", "sequence", "correlationid", "causationid"), TEXT),
            },
        },
        "payload": {"schemaFormat": FORMAT, "schema": schema},
        "examples": [{"payload": example} for example in examples],
    }


def _text(one: Listed, name: str) -> str:
    return str(one.document.get(name, one.name if name == "title" else ""))
