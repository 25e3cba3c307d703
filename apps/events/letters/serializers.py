"""How dead letters and jobs look in the API, and what people may ask for."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.events.letters.actions import MAX_RATE
from apps.events.letters.choice import MAX_IDS
from apps.events.letters.models import MAX_KEY, DeadLetter, RedriveJob
from apps.events.models import Subscription
from apps.lib.rest import OnlyKnown
from services.kit.events import patterns
from services.kit.events.cloudevent import MAX_TYPE

BIGGEST = 2**63 - 1
MAX_CANARY = 10_000


def a_pattern(value: str) -> str:
    """A type or a pattern over types."""
    try:
        patterns.segments(value)
    except patterns.PatternError as error:
        raise serializers.ValidationError(str(error)) from None
    return value


class LetterSerializer(serializers.ModelSerializer):
    """One in a list."""

    subscription = serializers.CharField(source="subscription.name")
    job = serializers.IntegerField(source="job_id", allow_null=True)
    replaced_by = serializers.CharField(
        source="replaced_by.event_id", default=None, allow_null=True, help_text="The id of the edited event."
    )

    class Meta:
        model = DeadLetter
        fields = [
            *("id", "subscription", "state", "source", "event_id", "type", "key", "reason", "fingerprint", "error"),
            *("attempts", "first_failed_at", "last_failed_at", "next_at", "closed_at", "topic", "partition", "offset"),
            *("note", "actor", "job", "replay", "replaced_by"),
        ]
        read_only_fields = fields


class LetterDetailSerializer(LetterSerializer):
    """One alone: with its stack and its event."""

    data = serializers.JSONField(source="event.data", default=None, help_text="The event's data; null: see body.")
    position = serializers.IntegerField(source="event.position", default=None, allow_null=True)
    causation_id = serializers.CharField(source="event.causation_id", default="")
    behind = serializers.SerializerMethodField(help_text="How many wait behind it in its key.")

    class Meta(LetterSerializer.Meta):
        fields = [*LetterSerializer.Meta.fields, "stack", "body", "data", "position", "causation_id", "behind"]
        read_only_fields = fields

    def get_behind(self, letter: DeadLetter) -> int:
        return int(self.context.get("behind", 0))


class GroupSerializer(serializers.Serializer):
    """Letters that failed alike."""

    fingerprint = serializers.CharField()
    subscription = serializers.CharField()
    reason = serializers.CharField()
    count = serializers.IntegerField(help_text="Open ones.")
    failed = serializers.IntegerField(help_text="Given up: what a redrive tries.")
    first_at = serializers.DateTimeField(allow_null=True)
    last_at = serializers.DateTimeField(allow_null=True)
    sample = LetterSerializer(allow_null=True)


class NoteSerializer(OnlyKnown, serializers.Serializer):
    """A word about what is done."""

    note = serializers.CharField(max_length=500, allow_blank=True, default="")


class LeaveNoteSerializer(OnlyKnown, serializers.Serializer):
    """A note to leave."""

    note = serializers.CharField(max_length=500, allow_blank=True)


class EditSerializer(NoteSerializer):
    """An event with other data."""

    data = serializers.JSONField(help_text="The event's data, whole.")


class FilterSerializer(OnlyKnown, serializers.Serializer):
    """Which letters; all that is left out narrows nothing."""

    fingerprint = serializers.RegexField("^[0-9a-f]{16}$", required=False)
    type = serializers.CharField(max_length=MAX_TYPE, required=False, validators=[a_pattern])
    key = serializers.CharField(max_length=MAX_KEY, required=False)
    reason = serializers.CharField(max_length=32, required=False)
    since = serializers.DateTimeField(required=False, help_text="Last failed then or later.")
    until = serializers.DateTimeField(required=False)
    state = serializers.ChoiceField(
        ["failed", "retrying"], required=False, help_text="Given up (unless said), or between two tries."
    )
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=BIGGEST), max_length=MAX_IDS, required=False
    )


class RangeSerializer(OnlyKnown, serializers.Serializer):
    """Which events of the log; all that is left out narrows nothing."""

    types = serializers.ListField(
        child=serializers.CharField(max_length=MAX_TYPE, validators=[a_pattern]),
        required=False,
        max_length=50,
        help_text="Patterns; those of the subscription unless said.",
    )
    stream = serializers.CharField(max_length=1026, required=False)
    key = serializers.CharField(max_length=512, required=False, help_text="The wire's partitionkey.")
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)
    after = serializers.IntegerField(min_value=0, max_value=BIGGEST, required=False, help_text="A position.")
    to = serializers.IntegerField(min_value=0, max_value=BIGGEST, required=False, help_text="The last position.")


def plain(said: dict[str, Any]) -> dict[str, Any]:
    """As a job keeps it."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in said.items()}


class NewJobSerializer(OnlyKnown, serializers.Serializer):
    """A job to begin, or, with ``dry_run``, to look at."""

    subscription = serializers.SlugRelatedField("name", queryset=Subscription.objects.all())
    rate = serializers.FloatField(
        min_value=0, max_value=MAX_RATE, default=0.0, help_text="Events a second; 0: as fast as it goes."
    )
    canary = serializers.IntegerField(
        min_value=0, max_value=MAX_CANARY, default=0, help_text="Stop for a confirmation after so many."
    )
    note = serializers.CharField(max_length=500, allow_blank=True, default="")
    dry_run = serializers.BooleanField(default=False)


class RedriveSerializer(NewJobSerializer):
    filter = FilterSerializer(default=dict)


class ReplaySerializer(NewJobSerializer):
    subscription = serializers.SlugRelatedField(
        "name",
        queryset=Subscription.objects.all(),
        required=False,
        help_text="Into whom. A dry run may leave it out, and counts what is in the log.",
    )
    filter = RangeSerializer(default=dict)
    again = serializers.BooleanField(
        default=False, help_text="Have an internal handler handle again what it has handled."
    )

    def validate(self, said: dict[str, Any]) -> dict[str, Any]:
        """Who gets it is left open by a dry run alone."""
        if "subscription" not in said and not said["dry_run"]:
            raise serializers.ValidationError({"subscription": ["Say into which one, or ask for a dry run."]})
        return said


class JobSerializer(serializers.ModelSerializer):
    subscription = serializers.CharField(source="subscription.name")

    class Meta:
        model = RedriveJob
        fields = [
            *("id", "kind", "subscription", "filter", "state", "reason", "rate", "canary", "confirmed", "again"),
            *("total", "taken", "succeeded", "failed", "actor", "note", "created_at", "ended_at"),
        ]
        read_only_fields = fields


class PlanSerializer(serializers.Serializer):
    """What a job would do. Nothing was changed."""

    dry_run = serializers.BooleanField(default=True)
    total = serializers.IntegerField()
    by_type = serializers.DictField(child=serializers.IntegerField())
    waiting = serializers.IntegerField(help_text="Behind them in their keys; they follow.")
    redriving = serializers.IntegerField(help_text="Under way already, by other jobs.")
    sample = serializers.ListField(child=serializers.DictField())


class DiscardedSerializer(serializers.Serializer):
    discarded = serializers.IntegerField()


class DiscardSerializer(OnlyKnown, serializers.Serializer):
    """Which letters nobody wants any more."""

    subscription = serializers.SlugRelatedField("name", queryset=Subscription.objects.all())
    filter = FilterSerializer()
    note = serializers.CharField(max_length=500, help_text="Why.")

    def validate_filter(self, said: dict[str, Any]) -> dict[str, Any]:
        """All letters of a subscription are discarded by saying so."""
        if not said:
            raise serializers.ValidationError("Narrow it: a fingerprint, a type, a key, a time or ids.")
        return said
