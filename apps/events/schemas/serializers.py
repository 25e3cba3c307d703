"""How the registry looks in the API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.events.schemas.models import EventType, SchemaVersion
from apps.lib.rest import OnlyKnown


class EventTypeSerializer(serializers.ModelSerializer):
    type = serializers.CharField(source="name", read_only=True)
    newest = serializers.IntegerField(read_only=True, help_text="Number of the newest version.")
    producers = serializers.ListField(child=serializers.CharField(), read_only=True)
    consumers = serializers.SerializerMethodField(help_text="Who is known to consume it.")

    class Meta:
        model = EventType
        fields = ["type", "mode", "newest", "producers", "consumers"]

    def get_consumers(self, row: EventType) -> list[str]:
        found: dict[str, list[str]] = self.context.get("consumers", {})
        return found.get(row.name, [])


class SchemaVersionSerializer(serializers.ModelSerializer):
    type = serializers.CharField(source="event_type.name", read_only=True)
    dataschema = serializers.CharField(source="uri", read_only=True, help_text="How events name it.")
    document = serializers.DictField(help_text="The JSON Schema, draft 2020-12.")

    class Meta:
        model = SchemaVersion
        fields = ["type", "version", "dataschema", "document", "author", "reason", "forced", "created_at"]


class RegistrationSerializer(OnlyKnown, serializers.Serializer[Any]):
    """A version to be registered."""

    schema = serializers.DictField(help_text="The JSON Schema, draft 2020-12, as docs/events-schemas.md bounds it.")
    producer = serializers.CharField(max_length=64, required=False, default="", allow_blank=True)
    reason = serializers.CharField(max_length=300, required=False, default="", allow_blank=True)
    dry_run = serializers.BooleanField(default=False, help_text="Only say what would come of it.")
    force = serializers.CharField(
        max_length=128,
        required=False,
        default="",
        allow_blank=True,
        help_text="The type's name, to register what may break its readers.",
    )


class BreakSerializer(serializers.Serializer[Any]):
    rule = serializers.CharField()
    path = serializers.CharField(help_text="JSON Pointer into the reader's schema, references written out.")
    detail = serializers.CharField()
    certain = serializers.BooleanField(help_text="False: it only can't be shown to be compatible.")
    reader = serializers.CharField()
    writer = serializers.CharField()


class AffectedSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    breaks = BreakSerializer(many=True, help_text="Empty when it can live with the change.")


class VerdictSerializer(serializers.Serializer[Any]):
    compatible = serializers.BooleanField()
    mode = serializers.CharField()
    breaks = BreakSerializer(many=True)
    consumers = AffectedSerializer(many=True)


class RegisteredSerializer(serializers.Serializer[Any]):
    type = serializers.CharField()
    version = serializers.IntegerField(help_text="The number that it has, or on a dry run would have.")
    dataschema = serializers.CharField()
    registered = serializers.BooleanField(help_text="False on a dry run, and when the newest version says the same.")
    verdict = VerdictSerializer()
