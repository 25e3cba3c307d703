"""The rows of what could not be delivered, and of the jobs that deliver again."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q
from msgspec.structs import replace

from services.kit.events.cloudevent import MAX_TYPE, CloudEvent

MAX_KEY = 1100
MAX_IDENTITY = 512
REPLAY = "mcreplay"
"""The attribute that marks what a replay delivers, with the number of its job."""


class DeadLetter(models.Model):
    """One event that one subscription did not take at its first try, or that waits behind such a one of its key.

    ``retrying``, ``parked``, ``failed`` and ``redriving`` are open: later events of the key wait behind the row.
    ``resolved`` and ``discarded`` are closed, and kept for the record.
    """

    class State(models.TextChoices):
        RETRYING = "retrying"
        """It is tried again by itself, at ``next_at``."""
        PARKED = "parked"
        """Never tried: an earlier one of its key is open."""
        FAILED = "failed"
        """Given up: it waits for somebody's word."""
        REDRIVING = "redriving"
        """Somebody's word was given; it is tried once."""
        RESOLVED = "resolved"
        DISCARDED = "discarded"

    OPEN = (State.RETRYING, State.PARKED, State.FAILED, State.REDRIVING)
    CLOSED = (State.RESOLVED, State.DISCARDED)

    subscription = models.ForeignKey("events.Subscription", on_delete=models.CASCADE, related_name="letters")
    source = models.CharField(max_length=MAX_IDENTITY, blank=True)
    event_id = models.CharField(max_length=MAX_IDENTITY)
    """With ``source`` the event's identity (CloudEvents section 3.1.1); for an odd entry its place on the broker."""
    type = models.CharField(max_length=MAX_TYPE, blank=True)
    key = models.CharField(max_length=MAX_KEY, help_text="What keeps its events in order.")
    wire_key = models.CharField(max_length=MAX_KEY, blank=True, db_default="", help_text="The wire's partitionkey.")
    place = models.BigIntegerField(help_text="Its position in the log; an edited one has that of the original.")
    stored = models.ForeignKey(
        "events.Event", null=True, on_delete=models.CASCADE, related_name="letters", help_text="If the log has it."
    )
    body = models.JSONField(null=True, help_text="The event, or the odd entry's text, when the log does not have it.")
    topic = models.CharField(max_length=255, blank=True)
    partition = models.IntegerField(null=True)
    offset = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=9, choices=State)
    reason = models.CharField(max_length=32, blank=True, help_text="The class of the failure.")
    fingerprint = models.CharField(max_length=16, blank=True, help_text="The group of those that failed alike.")
    error = models.CharField(max_length=500, blank=True)
    stack = models.TextField(blank=True)
    attempts = models.PositiveIntegerField(default=0)
    first_failed_at = models.DateTimeField(null=True)
    last_failed_at = models.DateTimeField(null=True)
    next_at = models.DateTimeField(null=True, help_text="When it is tried next by itself.")
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=150, blank=True, help_text="Who acted on it last.")
    replay = models.BigIntegerField(default=0, db_default=0, help_text="The job that replayed it; 0 for none.")
    job = models.ForeignKey("RedriveJob", null=True, on_delete=models.SET_NULL, related_name="letters")
    told_began = models.FloatField(default=0.0, db_default=0.0)
    told_row = models.BigIntegerField(default=0, db_default=0)
    told_changed = models.PositiveIntegerField(default=0, db_default=0)
    """The newest report of a service that is taken over (apps.events.letters.reports.Stamp)."""
    replaced_by = models.ForeignKey(
        "events.Event", null=True, on_delete=models.SET_NULL, related_name="replaces", help_text="The edited event."
    )

    class Meta:
        ordering = ["-id"]
        verbose_name = "dead letter"
        constraints = [
            models.UniqueConstraint(
                fields=["subscription", "source", "event_id", "replay"], name="letter_once_per_subscription"
            ),
        ]
        indexes = [
            models.Index(
                fields=["subscription", "key", "place", "id"],
                name="letter_open_by_key",
                condition=Q(state__in=["retrying", "parked", "failed", "redriving"]),
            ),
            models.Index(
                fields=["subscription", "next_at"],
                name="letter_due",
                condition=Q(state__in=["retrying", "redriving"]),
            ),
            models.Index(fields=["subscription", "state", "id"], name="letter_by_state"),
            models.Index(fields=["fingerprint", "state", "id"], name="letter_by_fingerprint"),
            models.Index(fields=["job", "state"], name="letter_by_job", condition=Q(job__isnull=False)),
            models.Index(F("closed_at"), name="letter_closed", condition=Q(closed_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.type or 'an odd entry'} {self.event_id} ({self.state})"

    @property
    def event(self) -> Any:
        """The event in the log; None when it is not there. A service's report may be there before its event is."""
        if self.stored is None and self.source:
            rows = DeadLetter.stored.field.related_model.objects
            self.stored = rows.filter(event_id=self.event_id, source=self.source).first()
            if self.stored is not None:
                DeadLetter.objects.filter(pk=self.pk).update(stored=self.stored)
        return self.stored

    def as_cloudevent(self) -> CloudEvent:
        """What is delivered: the event in the log, where an edited one has the key of its original, and a replayed one
        says of which job it is (``mcreplay``)."""
        event: CloudEvent = self.stored.as_cloudevent()
        if self.stored.addressee:
            event = replace(event, partition_key=self.wire_key)
        if self.replay:
            event = replace(event, extensions={**event.extensions, REPLAY: str(self.replay)})
        return event

    @property
    def is_open(self) -> bool:
        """Whether later events of its key wait behind it."""
        return self.state in self.OPEN


class RedriveJob(models.Model):
    """A job that delivers again, some a second: letters (``redrive``), or events of the log (``replay``)."""

    class Kind(models.TextChoices):
        REDRIVE = "redrive"
        REPLAY = "replay"

    class State(models.TextChoices):
        RUNNING = "running"
        CONFIRM = "confirm"
        """The canary went well: somebody must say that the rest may follow."""
        PAUSED = "paused"
        DONE = "done"
        CANCELLED = "cancelled"

    ACTIVE = (State.RUNNING, State.CONFIRM, State.PAUSED)

    kind = models.CharField(max_length=7, choices=Kind)
    subscription = models.ForeignKey("events.Subscription", on_delete=models.CASCADE, related_name="jobs")
    filter = models.JSONField(default=dict)
    """What it is about, as it was asked for."""
    state = models.CharField(max_length=9, choices=State, default=State.RUNNING)
    reason = models.CharField(max_length=500, blank=True, help_text="Why it paused or ended.")
    rate = models.FloatField(default=0, help_text="Events a second; 0 is as fast as it goes.")
    canary = models.PositiveIntegerField(default=0, help_text="Stop for a confirmation after so many.")
    confirmed = models.BooleanField(default=False, help_text="Somebody saw the canary, and let the rest follow.")
    again = models.BooleanField(default=False, help_text="Replay: have what was handled before handled again.")
    total = models.BigIntegerField(default=0, help_text="How many there were when it began.")
    taken = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    failed_in_a_row = models.PositiveIntegerField(default=0)
    cursor = models.BigIntegerField(default=0)
    """How far it is: the last letter that it took, or the last position of the log."""
    last = models.BigIntegerField(default=0)
    """Where it ends: the newest letter, or the last position, at its beginning."""
    actor = models.CharField(max_length=150)
    note = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    holder = models.CharField(max_length=64, blank=True)
    leased_until = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "redrive job"
        indexes = [
            models.Index(fields=["id"], name="job_active", condition=Q(state__in=["running", "confirm", "paused"]))
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk} into {self.subscription} ({self.state})"

    @property
    def is_active(self) -> bool:
        """Whether it may go on."""
        return self.state in self.ACTIVE
