"""API tokens of people: what they may do, until when, and how they ended. The token itself is kept nowhere."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.validators import MinLengthValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.lib.roles import ADMIN, AREAS, OPERATOR, VIEWER, Grant
from apps.registry.fields import WordsField

ROLES = [(name, name) for name in (VIEWER, OPERATOR, ADMIN)]


def hidden(value: str) -> str:
    """For the audit trail: that a secret changed, and nothing of it."""
    return "(hidden)" if value else ""


class ApiToken(models.Model):
    """One token. It ends at its time, when its owner ends it, and with its owner's password or account."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=120, help_text="What it is for, such as 'deployment from CI'.")
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False, validators=[MinLengthValidator(64)])
    role = models.CharField(
        max_length=16, choices=ROLES, help_text="What it may do at most; its owner's own roles bound it as well."
    )
    read_only = models.BooleanField(default=False, help_text="It changes nothing, whatever its role.")
    areas = WordsField(words=list(AREAS), help_text="None ticked: the whole API.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="To the minute.")
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)
    ended_why = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        ordering = ["-pk"]
        verbose_name = "API token"

    def __str__(self) -> str:
        return f"mct_{self.prefix}_…"

    @property
    def grant(self) -> Grant:
        """What it may do at most."""
        return Grant(self.role, self.read_only, frozenset(self.areas))

    @property
    def state(self) -> str:
        """``ended``, ``expired`` or ``active``."""
        if self.ended_at is not None:
            return "ended"
        return "expired" if self.expires_at <= timezone.now() else "active"


def live(now: datetime) -> Any:
    """The condition of tokens that open something."""
    return Q(ended_at=None, expires_at__gt=now)
