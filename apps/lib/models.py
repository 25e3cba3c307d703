"""The one table of this room: what makes a repeated REST write harmless."""

from __future__ import annotations

from django.db import models


class IdempotentWrite(models.Model):
    """The answer to a REST write that carried an ``Idempotency-Key``, kept for a day so that a repeat gets it again.

    Written by apps.lib.writes in the transaction of the write itself. ``answer`` is encrypted under
    a key that only the client's Idempotency-Key gives back: the answer may hold a new API key.
    """

    digest = models.CharField(max_length=64, unique=True, help_text="Of user, method, path and Idempotency-Key.")
    fingerprint = models.CharField(max_length=64, help_text="Of the request's body.")
    status = models.PositiveSmallIntegerField(default=0)
    answer = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        # Where it was made, before it belonged to every app that writes: both releases find it during an upgrade.
        db_table = "registry_idempotentwrite"

    def __str__(self) -> str:
        return f"{self.digest[:12]} {self.status}"
