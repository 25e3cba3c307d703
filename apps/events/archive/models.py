"""What the archive would not take into the log: rows that stay until somebody has looked."""

from __future__ import annotations

from django.db import models

from services.kit.events.cloudevent import MAX_TEXT, MAX_TYPE


class Aside(models.Model):
    """An entry of the bus that is not in the log, and why. The same one again is counted."""

    class Reason(models.TextChoices):
        NO_EVENT = "no_event", "is no event"
        FORGED = "forged", "is not proven to be of its source"
        OTHER_BODY = "other_body", "its source and id are those of another event"
        NUMBER_TAKEN = "number_taken", "its number within its key is that of another event"
        NUMBER_JUMPS = "number_jumps", "its number is too far from those before it"
        UNSTORABLE = "unstorable", "no database can store it"

    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the entry.")
    reason = models.CharField(max_length=16, choices=Reason)
    detail = models.CharField(max_length=500, blank=True)
    source = models.CharField(max_length=MAX_TEXT, blank=True)
    event_id = models.CharField(max_length=MAX_TEXT, blank=True)
    type = models.CharField(max_length=MAX_TYPE, blank=True)
    key = models.CharField(max_length=MAX_TEXT, blank=True)
    sequence = models.BigIntegerField(default=0)
    body = models.TextField(help_text="Its beginning, as text.")
    topic = models.CharField(max_length=255)
    partition = models.IntegerField()
    offset = models.CharField(max_length=64, help_text="Where the broker has it.")
    times = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering = ["-last_at"]
        verbose_name = "entry put aside"
        verbose_name_plural = "entries put aside"

    def __str__(self) -> str:
        return f"{self.type or 'an entry'} {self.get_reason_display()}"
