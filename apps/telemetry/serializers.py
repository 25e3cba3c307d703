"""What the REST answers look like, and what its filters may be."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class TraceFilters(serializers.Serializer):
    """The query string of the list of traces."""

    service = serializers.CharField(required=False, max_length=256, help_text="A span of this service is in the trace.")
    name = serializers.CharField(required=False, max_length=256, help_text="Part of a span's name, in any case.")
    attribute = serializers.CharField(
        required=False, max_length=1024, help_text="A span has this attribute: `key=value`, the whole value."
    )
    errors = serializers.BooleanField(required=False, default=False, help_text="Only traces with a failed span.")
    min_ms = serializers.FloatField(required=False, min_value=0, max_value=1e9, help_text="A span lasts at least this.")
    since = serializers.FloatField(
        required=False, min_value=0, max_value=9e9, help_text="Seconds since the epoch; default: an hour ago."
    )
    until = serializers.FloatField(
        required=False, min_value=0, max_value=9e9, help_text="Seconds since the epoch; default: now."
    )
    limit = serializers.IntegerField(required=False, default=50, min_value=1, max_value=500)

    def validate_attribute(self, value: str) -> tuple[str, str]:
        key, equals, wanted = value.partition("=")
        if not (key and equals):
            raise serializers.ValidationError("Write it as key=value.")
        return key, wanted

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "since" in attrs and "until" in attrs and attrs["since"] >= attrs["until"]:
            raise serializers.ValidationError({"until": "Must lie after since."})
        return attrs


class TraceSummarySerializer(serializers.Serializer):
    """One trace in a list."""

    trace_id = serializers.CharField()
    name = serializers.CharField(help_text="Of the root span, else of the earliest.")
    service = serializers.CharField()
    started_at = serializers.FloatField(help_text="Seconds since the epoch.")
    duration_ms = serializers.FloatField()
    spans = serializers.IntegerField()
    errors = serializers.IntegerField()
    services = serializers.ListField(child=serializers.CharField())


class TraceListSerializer(serializers.Serializer):
    """Newest first."""

    results = TraceSummarySerializer(many=True)


class SpanEventSerializer(serializers.Serializer):
    """Something that happened within a span."""

    at = serializers.FloatField()
    name = serializers.CharField()
    attributes = serializers.DictField(child=serializers.CharField())


class SpanSerializer(serializers.Serializer):
    """One span; ``parent_span_id`` is empty for a root."""

    trace_id = serializers.CharField()
    span_id = serializers.CharField()
    parent_span_id = serializers.CharField()
    name = serializers.CharField()
    service = serializers.CharField()
    kind = serializers.CharField(help_text="Server, Client, Internal, Producer, Consumer or Unspecified.")
    started_at = serializers.FloatField(help_text="Seconds since the epoch.")
    duration_ms = serializers.FloatField()
    status = serializers.CharField(help_text="Unset, Ok or Error.")
    status_message = serializers.CharField()
    attributes = serializers.DictField(child=serializers.CharField())
    resource = serializers.DictField(child=serializers.CharField())
    events = SpanEventSerializer(many=True)


class TraceWindow(serializers.Serializer):
    """The query string of one trace: which of its spans."""

    limit = serializers.IntegerField(required=False, default=5000, min_value=1, max_value=20_000)
    offset = serializers.IntegerField(
        required=False, default=0, min_value=0, max_value=10_000_000, help_text="Spans to pass over, by start."
    )


class TraceSerializer(serializers.Serializer):
    """One trace: figures of the whole, and spans by start."""

    trace_id = serializers.CharField()
    started_at = serializers.FloatField()
    duration_ms = serializers.FloatField()
    services = serializers.ListField(child=serializers.CharField())
    errors = serializers.IntegerField(help_text="Failed spans of the whole trace.")
    total = serializers.IntegerField(help_text="Spans of the whole trace.")
    offset = serializers.IntegerField()
    spans = SpanSerializer(many=True)
