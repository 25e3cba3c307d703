"""How health looks in the API."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.validators import UniqueValidator

from apps.health.models import STATES, BreakerTransition, HealthCheck, HealthTransition
from apps.registry.models import Service
from apps.registry.serializers import StrictBoolean, Validated


class HealthCheckSerializer(Validated):
    service = serializers.SlugRelatedField(
        slug_field="name",
        queryset=Service.objects.all(),
        validators=[UniqueValidator(HealthCheck.objects.all(), "This service has a check already: change that one.")],
    )
    enabled = StrictBoolean(required=False)

    class Meta:
        model = HealthCheck
        fields = [
            "service",
            "path",
            "interval_s",
            "timeout_s",
            "rise",
            "fall",
            "status_low",
            "status_high",
            "enabled",
            "updated_at",
        ]
        read_only_fields = ["updated_at"]


class StatusSerializer(serializers.Serializer):
    """One instance's verdict. Times are seconds since the epoch."""

    key = serializers.CharField(help_text="`<service>/<instance>`")
    service = serializers.CharField()
    instance = serializers.CharField()
    url = serializers.CharField()
    enabled = serializers.BooleanField()
    watched = serializers.BooleanField(help_text="False: nobody checks it, by choice.")
    state = serializers.ChoiceField(choices=STATES)
    since = serializers.FloatField()
    checked_at = serializers.FloatField(allow_null=True)
    latency_ms = serializers.FloatField(allow_null=True)
    detail = serializers.CharField(help_text="What the last probe found.")
    interval_s = serializers.FloatField()


class HealthTransitionSerializer(serializers.ModelSerializer):
    instance = serializers.CharField(source="key", help_text="`<service>/<instance>`")

    class Meta:
        model = HealthTransition
        fields = ["id", "service", "instance", "from_state", "to_state", "at", "reason", "version"]


class BreakerTransitionSerializer(serializers.ModelSerializer):
    class Meta:
        model = BreakerTransition
        fields = ["id", "service", "worker", "from_state", "to_state", "at", "seconds", "reason"]
        extra_kwargs = {"worker": {"help_text": "The gateway worker; empty: the service as a whole."}}


class InstanceSummarySerializer(serializers.Serializer):
    instance = serializers.CharField()
    state = serializers.CharField()
    seconds = serializers.DictField(child=serializers.FloatField(), help_text="State → seconds spent in it.")
    healthy_share = serializers.FloatField(
        allow_null=True, help_text="Of the time in which its state was known; null when it never was."
    )


class BreakerSpellSerializer(serializers.Serializer):
    worker = serializers.CharField(help_text="Empty: the service as a whole.")
    state = serializers.CharField()
    since = serializers.FloatField()
    until = serializers.FloatField(allow_null=True, help_text="Null: it lasts.")
    seconds = serializers.FloatField()
    reason = serializers.CharField()


class BreakerSummarySerializer(serializers.Serializer):
    seconds = serializers.DictField(child=serializers.FloatField(), help_text="State → seconds, worst worker first.")
    timeline = BreakerSpellSerializer(many=True)


class SummarySerializer(serializers.Serializer):
    """Time in state over a window that ends now. Times are seconds since the epoch."""

    service = serializers.CharField()
    since = serializers.FloatField()
    until = serializers.FloatField()
    instances = InstanceSummarySerializer(many=True)
    breaker = BreakerSummarySerializer()
