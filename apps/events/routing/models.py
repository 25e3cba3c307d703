"""Rules of routing as people write them, and the documents that were made of them."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

from apps.events.routing import rules
from services.kit.env import BROKERS
from services.kit.events import patterns, routing

NAME = r"[a-z][a-z0-9-]{0,63}"


class RoutingRule(models.Model):
    """Events of types that match ``pattern`` go to ``topic`` of ``broker``. All rules that match apply."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(f"^{NAME}$", "Use lower-case letters, digits and hyphens, starting with a letter.")],
    )
    order = models.PositiveIntegerField(
        default=100, help_text="The lower comes first: of rules with the same target the first one counts."
    )
    pattern = models.CharField(
        max_length=patterns.MAX_LENGTH, help_text="Of types: * is one segment, # any number. business.# is a domain."
    )
    broker = models.CharField(max_length=20, choices=[(kind, kind) for kind in (routing.DEFAULT, *BROKERS)])
    topic = models.CharField(
        max_length=64,
        blank=True,
        validators=[RegexValidator(f"^{routing.TOPIC}$", "A topic is lower-case letters, digits, '-' and '_'.")],
        help_text="Empty: the type's domain.",
    )
    key = models.CharField(
        max_length=20,
        blank=True,
        validators=[RegexValidator(f"^{routing.KEY}$", "The name of an attribute is lower-case letters and digits.")],
        help_text="The attribute whose value chooses the partition. Empty: partitionkey.",
    )
    enabled = models.BooleanField(default=True)
    note = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["order", "name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if wrong := rules.faults(self.pattern, self.broker):
            raise ValidationError({field: [why] for field, why in wrong.items()})

    def as_rule(self) -> routing.Rule:
        """As the document has it."""
        return routing.Rule(self.pattern, self.broker, self.topic, self.key, self.name)


class RoutingRevision(models.Model):
    """One published document: all rules that were enabled then. It never changes."""

    number = models.PositiveBigIntegerField(primary_key=True)
    document = models.TextField()
    author = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"rules {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("A published revision can't be changed; publish a new one.")
        super().save(*args, **kwargs)
