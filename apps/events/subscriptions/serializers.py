"""How subscriptions look in the API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.events.subscriptions import queries, rules
from apps.events.subscriptions.actions import OVERLAP_S
from apps.events.subscriptions.models import Attempt, Subscription
from apps.lib.rest import OnlyKnown
from services.kit.events.cloudevent import MAX_TEXT

WRITABLE = ("patterns", "source", "filter", "url", "mode", "handshake", "concurrency", "rate")
WRITABLE += ("max_attempts", "max_age_s", "timeout_s")


class SubscriptionSerializer(OnlyKnown, serializers.ModelSerializer):
    patterns = serializers.ListField(
        child=serializers.CharField(max_length=128),
        help_text=f"Types of events, 1 to {rules.MOST_PATTERNS}: * is one segment, # any number.",
    )
    source = serializers.CharField(max_length=MAX_TEXT, required=False, allow_blank=True, default="")
    behind = serializers.SerializerMethodField(help_text="Positions in the log that it has not settled.")
    pace = serializers.SerializerMethodField(help_text="Deliveries a second of late.")
    breaker = serializers.SerializerMethodField(help_text="closed, open or half-open")

    class Meta:
        model = Subscription
        fields = [
            *("name", "kind", "state", "reason", *WRITABLE, "position", "behind", "pace", "breaker", "opened_until"),
            *(
                "failing_since",
                "allowed_at",
                "allowed_rate",
                "delivered",
                "failed",
                "odd",
                "missed",
                "last_error",
                "delivered_at",
            ),
            *("previous_until", "created_at", "seen_at"),
        ]
        read_only_fields = [one for one in fields if one not in {"name", *WRITABLE}]
        extra_kwargs = {"url": {"help_text": "Whoever can't change it is told its host alone."}}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance is not None:
            self.fields["name"].read_only = True
        self.fields["url"].required = self.instance is None

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_behind(self, row: Subscription) -> int | None:
        return queries.behind(row, self.context["head"])

    def get_pace(self, row: Subscription) -> float:
        return round(queries.pace(row, self.context["now"]), 3)

    def to_representation(self, row: Subscription) -> dict[str, Any]:
        found: dict[str, Any] = super().to_representation(row)
        if not self.context["whole"]:
            found["url"] = rules.host_alone(found["url"])
        return found

    def get_breaker(self, row: Subscription) -> str:
        return queries.breaker(row, self.context["now"])


class NewSubscriptionSerializer(SubscriptionSerializer):
    start = serializers.CharField(
        max_length=64,
        default="now",
        write_only=True,
        help_text="now, beginning, a position in the log, or an RFC 3339 time: the first event that it gets.",
    )

    class Meta(SubscriptionSerializer.Meta):
        fields = [*SubscriptionSerializer.Meta.fields, "start"]


class IssuedSubscriptionSerializer(SubscriptionSerializer):
    secret = serializers.CharField(read_only=True, help_text="What signs its requests; shown this one time.")

    class Meta(SubscriptionSerializer.Meta):
        fields = [*SubscriptionSerializer.Meta.fields, "secret"]


class StartSerializer(OnlyKnown, serializers.Serializer[Any]):
    start = serializers.CharField(max_length=64, help_text="now, beginning, a position, or an RFC 3339 time.")


class RotationSerializer(OnlyKnown, serializers.Serializer[Any]):
    overlap_s = serializers.IntegerField(
        default=OVERLAP_S, min_value=0, max_value=30 * 86400, help_text="For so long the old secret signs too."
    )
    reason = serializers.CharField(
        max_length=500, required=False, default="", allow_blank=True, help_text="Why: it is in the audit trail."
    )


class RotatedSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="Shown this one time.")


class AttemptSerializer(serializers.ModelSerializer):
    class Meta:
        model = Attempt
        fields = ["id", "at", "source", "event_id", "type", "outcome", "status", "duration_ms", "error", "answer"]


class OutcomeSerializer(serializers.Serializer[Any]):
    outcome = serializers.CharField(help_text="delivered, or the class of the failure.")
    status = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_blank=True)
    answer = serializers.CharField(allow_blank=True)
    duration_ms = serializers.IntegerField()
