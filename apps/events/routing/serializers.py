"""How rules of routing look in the API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.events.routing import rules
from apps.events.routing.models import RoutingRule


class RoutingRuleSerializer(serializers.ModelSerializer):
    class Meta:
        model = RoutingRule
        fields = ["name", "order", "pattern", "broker", "topic", "key", "enabled", "note", "created_at", "updated_at"]
        read_only_fields = ["created_at", "updated_at"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        pattern = attrs.get("pattern", getattr(self.instance, "pattern", ""))
        broker = attrs.get("broker", getattr(self.instance, "broker", ""))
        if wrong := rules.faults(pattern, broker):
            raise serializers.ValidationError({field: [why] for field, why in wrong.items()})
        return attrs
