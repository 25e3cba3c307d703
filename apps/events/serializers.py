"""How events look in the API."""

from __future__ import annotations

from rest_framework import serializers

from apps.events.models import Event


class EventSerializer(serializers.ModelSerializer):
    id = serializers.CharField(source="event_id", help_text="The CloudEvents id, unique within its source.")
    position = serializers.IntegerField(
        allow_null=True, help_text="The place in the log, without gaps; null for the moment until it has one."
    )
    data = serializers.JSONField()
    extensions = serializers.DictField()
    tags = serializers.SlugRelatedField(
        "tag", many=True, read_only=True, help_text="What boundaries and queries find it by"
    )
    sent_at = serializers.DateTimeField(
        source="outbox.sent_at",
        default=None,
        allow_null=True,
        help_text="When the bus took it; null: not yet, or long ago",
    )

    class Meta:
        model = Event
        fields = [
            "id",
            "position",
            "type",
            "source",
            "subject",
            "time",
            "datacontenttype",
            "data",
            "extensions",
            "schema_version",
            "stream",
            "version",
            "numbered",
            "tags",
            "correlation_id",
            "causation_id",
            "traceparent",
            "sent_at",
        ]
