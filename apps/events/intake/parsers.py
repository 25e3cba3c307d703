"""CloudEvents over HTTP (binding 1.0.2): structured, batched and binary mode, and drafts of plain JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from apps.lib.rest import Json
from services.kit.events.cloudevent import EventError
from services.kit.problem import refuse

MOST = 1000
"""Events in one request."""
MAX_BODY = 8 * 1024 * 1024
"""Bytes of one request; each event's data is bounded on its own."""
PREFIX = "ce-"


class _Events(Json):
    limit = MAX_BODY

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        """``{"whole": …, "events": […]}``, which an idempotency key is held to."""
        found = super().parse(stream, media_type, parser_context)
        headers = parser_context["request"].headers if parser_context else {}
        return self.shape(found, {name.lower(): value for name, value in headers.items()})

    def shape(self, found: Any, headers: dict[str, str]) -> dict[str, Any]:
        raise NotImplementedError


class Structured(_Events):
    """One CloudEvent (section 3.2)."""

    media_type = "application/cloudevents+json"

    def shape(self, found: Any, headers: dict[str, str]) -> dict[str, Any]:
        return {"whole": True, "events": [found]}


class Batched(_Events):
    """Several CloudEvents (section 3.3)."""

    media_type = "application/cloudevents-batch+json"

    def shape(self, found: Any, headers: dict[str, str]) -> dict[str, Any]:
        return {"whole": True, "events": bounded(found)}


class Plain(_Events):
    """One draft or several; or, with ``ce-`` headers, the data of a CloudEvent in binary mode (section 3.1)."""

    media_type = "application/json"

    def shape(self, found: Any, headers: dict[str, str]) -> dict[str, Any]:
        said = {name[len(PREFIX) :]: value for name, value in headers.items() if name.startswith(PREFIX)}
        if said:
            return {"whole": True, "events": [binary(said, headers.get("content-type", ""), found)]}
        return {"whole": False, "events": bounded(found) if isinstance(found, list) else [found]}


def binary(said: dict[str, str], content_type: str, data: Any) -> dict[str, Any]:
    """The CloudEvent of these ``ce-`` headers; their values are percent-encoded UTF-8 (section 3.1.3.2)."""
    if beside := {"data", "datacontenttype"} & said.keys():
        raise EventError(f"The header {PREFIX}{min(beside)} has no meaning: the body and its Content-Type say it.")
    try:
        event: dict[str, Any] = {name: unquote(value, errors="strict") for name, value in said.items()}
    except UnicodeDecodeError:
        raise EventError(f"A {PREFIX} header is not UTF-8 when its percent-encoding is undone.") from None
    return event | {"datacontenttype": content_type.partition(";")[0].strip() or "application/json", "data": data}


def bounded(found: Any) -> list[Any]:
    """The events of a batch; 422 for what is none, or too long a one."""
    if not isinstance(found, list) or not found:
        raise EventError("A batch must be a JSON array with at least one event.")
    if len(found) > MOST:
        raise refuse(413, "too_many_events", f"There are {len(found):,} events; one request takes {MOST:,}.")
    return found
