"""How services and instances look in the API, and what every serializer here shares."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models
from rest_framework import serializers

from apps.lib.rest import OnlyKnown
from apps.registry.fields import MOST
from apps.registry.models import Instance, Service


class Words(serializers.ListField):
    """A short list of words; the model's field says which are allowed."""

    child = serializers.CharField(max_length=255)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MOST, **kwargs)


class StrictBoolean(serializers.BooleanField):
    """true or false, not "yes", 1 or "on"."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("Must be true or false.")
        return data


class StrictFloat(serializers.FloatField):
    """A number; true is none."""

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool):
            self.fail("invalid")
        return float(super().to_internal_value(data))


class Validated(OnlyKnown, serializers.ModelSerializer):
    """Checks a row exactly as admin does: the model's own field and whole-row rules."""

    serializer_field_mapping = {**serializers.ModelSerializer.serializer_field_mapping, models.FloatField: StrictFloat}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        model = self.Meta.model  # type: ignore[attr-defined]
        row = model()
        if self.instance is not None:
            for field in model._meta.concrete_fields:
                setattr(row, field.attname, getattr(self.instance, field.attname))
        for name, value in attrs.items():
            setattr(row, name, value)
        mine = {field.source for field in self._writable_fields}
        without = [field.name for field in model._meta.concrete_fields if field.name not in mine]
        try:
            row.full_clean(exclude=without, validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            found = error.message_dict
            if NON_FIELD_ERRORS in found:
                found["non_field_errors"] = found.pop(NON_FIELD_ERRORS)
            raise serializers.ValidationError(found) from None
        # clean() may have put a value in its normal form.
        return {name: getattr(row, name) for name in attrs}


class ServiceSerializer(Validated):
    instances = serializers.SlugRelatedField(many=True, read_only=True, slug_field="key")
    fleet = StrictBoolean(required=False)

    class Meta:
        model = Service
        fields = ["name", "title", "description", "owner", "fleet", "instances", "created_at", "updated_at"]
        read_only_fields = ["created_at", "updated_at"]


class InstanceSerializer(Validated):
    service = serializers.SlugRelatedField(slug_field="name", queryset=Service.objects.all())
    enabled = StrictBoolean(required=False)

    class Meta:
        model = Instance
        fields = ["id", "key", "service", "name", "url", "weight", "enabled", "created_at", "updated_at"]
        read_only_fields = ["created_at", "updated_at"]
        extra_kwargs = {"key": {"help_text": "service/name: how every process calls this instance."}}
