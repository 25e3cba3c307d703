"""What publishing by REST takes and answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from services.kit.events.cloudevent import MAX_TEXT, MAX_TYPE, TYPE

_TEXT = {"type": "string", "maxLength": MAX_TEXT}
_TYPE = {"type": "string", "maxLength": MAX_TYPE, "pattern": f"^{TYPE.pattern}$"}

DRAFT: dict[str, Any] = {
    "type": "object",
    "description": "An event of which only the type must be said.",
    "required": ["type"],
    "additionalProperties": False,
    "properties": {
        "type": _TYPE,
        "data": {"type": "object", "additionalProperties": True, "description": "At most 1 MB."},
        "id": _TEXT | {"description": "One event's within its source, for good; made up when left out."},
        "source": _TEXT | {"description": "`client/<login>`, which is the default, or below it."},
        "subject": _TEXT,
        "time": {"type": "string", "format": "date-time", "description": "When it happened; now when left out."},
        "partitionkey": _TEXT | {"description": "Keeps its events in order; the subject when left out."},
        "correlationid": _TEXT,
        "causationid": _TEXT,
        "traceparent": _TEXT,
        "dataschema": _TEXT,
        "schema_version": {"type": "integer", "minimum": 0, "description": "Of its type's schema; 0: the newest."},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 32},
    },
}
CLOUDEVENT: dict[str, Any] = {
    "type": "object",
    "description": "A CloudEvent 1.0 in JSON format.",
    "required": ["specversion", "id", "source", "type"],
    "additionalProperties": True,
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": _TEXT | {"minLength": 1},
        "source": _TEXT | {"minLength": 1},
        "type": _TYPE,
        "data": {"type": "object", "additionalProperties": True},
    },
}


class PublishedEventSerializer(serializers.Serializer):
    """Where one event is, or why it was refused."""

    id = serializers.CharField(required=False)
    source = serializers.CharField(required=False)
    position = serializers.IntegerField(
        required=False, allow_null=True, help_text="In the log; null for the moment until it has one."
    )
    stream = serializers.CharField(required=False)
    version = serializers.IntegerField(required=False, help_text="In its stream.")
    repeated = serializers.BooleanField(required=False, help_text="It was in the log before.")
    problem = serializers.DictField(required=False, help_text="A problem document (RFC 9457).")


class PublishedSerializer(serializers.Serializer):
    """What became of the events of a request, in their order."""

    source = serializers.CharField(help_text="Whose they are unless they say one below it.")
    accepted = serializers.IntegerField()
    refused = serializers.IntegerField()
    events = PublishedEventSerializer(many=True)
