"""Published revisions: the immutable record of every configuration that gateways were given."""

from __future__ import annotations

import json
from typing import Any

from django.db import models
from django.utils import timezone


class Immutable(TypeError):
    """Somebody tried to change history."""


class ConfigRevision(models.Model):
    """One published document, as its bytes were sent."""

    number = models.PositiveBigIntegerField(unique=True)
    digest = models.CharField(max_length=64, help_text="Hex SHA-256 of the content.")
    document = models.TextField()
    summary = models.CharField(max_length=500)
    changes = models.JSONField(default=list, help_text="What differs from the revision before.")
    author = models.CharField(max_length=150)
    reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]
        verbose_name = "configuration revision"
        get_latest_by = "number"

    def __str__(self) -> str:
        return f"revision {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Immutable("A published revision can't be changed; publish a new one.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise Immutable("A published revision can't be deleted.")

    @property
    def content(self) -> dict[str, Any]:
        """The document, read."""
        found: dict[str, Any] = json.loads(self.document)
        return found

    @property
    def shown(self) -> dict[str, Any]:
        """The document as anybody may see it: hashes of keys are for gateways alone, who guesses keys needs one."""
        content = self.content
        for key in content.get("keys", ()):
            key.pop("hash", None)
        return content
