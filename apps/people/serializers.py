"""How tokens look in the API."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers

from apps.lib.roles import AREAS, RANK, Grant
from apps.people.actions import DEFAULT_LIFE, LONGEST_LIFE
from apps.people.models import ApiToken
from apps.registry.serializers import StrictBoolean, Validated, Words


class TokenSerializer(Validated):
    role = serializers.ChoiceField(
        choices=list(RANK), required=False, help_text="What it may do at most; default: what you may. Never more."
    )
    read_only = StrictBoolean(required=False, help_text="It changes nothing.")
    areas = Words(required=False, help_text=f"Of {', '.join(AREAS)}; empty: the whole API.")
    expires_at = serializers.DateTimeField(
        required=False,
        help_text=f"At most {LONGEST_LIFE.days} days from now; default: {DEFAULT_LIFE.days} days.",
    )
    state = serializers.ChoiceField(choices=["active", "expired", "ended"], read_only=True)

    class Meta:
        model = ApiToken
        fields = ["id", "name", "prefix", "role", "read_only", "areas", "state", "created_at", "expires_at"]
        fields += ["last_used_at", "ended_at", "ended_why"]
        read_only_fields = ["prefix", "created_at", "last_used_at", "ended_at", "ended_why"]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """What is left out comes from who asks."""
        grant: Grant = self.context["grant"]
        inherited = {
            "role": grant.role,
            "read_only": grant.read_only,
            "areas": sorted(grant.areas),
            "expires_at": timezone.now() + DEFAULT_LIFE,
        }
        return super().validate(inherited | attrs)

    def validate_expires_at(self, value: Any) -> Any:
        now = timezone.now()
        if value <= now:
            raise serializers.ValidationError("This moment has passed.")
        if value > now + LONGEST_LIFE:
            raise serializers.ValidationError(f"A token lasts {LONGEST_LIFE.days} days at most.")
        return value


class IssuedTokenSerializer(TokenSerializer):
    """The answer to adding a token: the one time it is told."""

    token = serializers.CharField(read_only=True, help_text="The token itself. It is not shown again.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token"]
