"""Rows of subscriptions: who wants which events, how far each has come, and what happened at each attempt."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from services.kit.events.cloudevent import MAX_TEXT, MAX_TYPE

MAX_CONCURRENCY = 32
MAX_ATTEMPTS = 100
MAX_AGE_S = 30 * 86400
MAX_TIMEOUT_S = 60.0
MAX_RATE = 10_000.0
MAX_ERROR = 500
MAX_ANSWER = 2048
"""Bytes that an attempt keeps of an answer's body."""


class Subscription(models.Model):
    """Somebody who gets events of the log: an endpoint, a service's consumer group, or a handler of our own."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook"
        CONSUMER = "consumer"
        INTERNAL = "internal"

    class State(models.TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"
        DISABLED = "disabled"

    class Mode(models.TextChoices):
        STRUCTURED = "structured"
        BINARY = "binary"

    name = models.SlugField(max_length=64, unique=True, help_text="A consumer's is that of its group.")
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.WEBHOOK)
    patterns = models.JSONField(default=list, help_text="Types of events: * is one segment, # any number.")
    source = models.CharField(max_length=MAX_TEXT, blank=True, help_text="Only events of exactly this source.")
    filter = models.CharField(max_length=1000, blank=True, help_text="A condition on attributes and data, in CEL.")
    state = models.CharField(max_length=8, choices=State, default=State.ACTIVE)
    reason = models.CharField(max_length=MAX_ERROR, blank=True, help_text="Why it is in this state.")
    position = models.BigIntegerField(default=0, help_text="The last position in the log that is settled.")

    url = models.CharField(max_length=2000, blank=True)
    mode = models.CharField(
        max_length=10, choices=Mode, default=Mode.STRUCTURED, help_text="How an event lies in a request."
    )
    handshake = models.BooleanField(
        default=True, help_text="Ask the endpoint's permission first (CloudEvents HTTP webhooks, section 4)."
    )
    allowed_at = models.DateTimeField(null=True, editable=False, help_text="When the endpoint gave its permission.")
    allowed_rate = models.FloatField(default=0.0, editable=False, help_text="Events a second it permits; 0 is any.")
    secret = models.TextField(blank=True, editable=False, help_text="Encrypted.")
    previous_secret = models.TextField(blank=True, editable=False, help_text="Encrypted; still signs until then.")
    previous_until = models.DateTimeField(null=True, editable=False)

    concurrency = models.PositiveSmallIntegerField(
        default=4,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_CONCURRENCY)],
        help_text="Deliveries at the same time, of different keys.",
    )
    rate = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(MAX_RATE)],
        help_text="Events a second at most; 0 is any.",
    )
    max_attempts = models.PositiveSmallIntegerField(
        default=8,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_ATTEMPTS)],
        help_text="Then the event is a dead letter.",
    )
    max_age_s = models.PositiveIntegerField(
        default=3 * 86400,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_AGE_S)],
        help_text="Seconds after its first failure until an event is a dead letter, or a dead endpoint disabled.",
    )
    timeout_s = models.FloatField(
        default=10.0,
        validators=[MinValueValidator(0.1), MaxValueValidator(MAX_TIMEOUT_S)],
        help_text="Seconds for one attempt as a whole.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    seen_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="When a consumer last announced.")

    failures = models.PositiveIntegerField(default=0, editable=False, help_text="Attempts that failed in a row.")
    failing_since = models.DateTimeField(null=True, editable=False)
    opened_until = models.DateTimeField(null=True, editable=False, help_text="Its breaker is open until then.")
    delivered = models.BigIntegerField(default=0, editable=False)
    failed = models.BigIntegerField(default=0, editable=False, help_text="Attempts that failed.")
    odd = models.BigIntegerField(default=0, editable=False, help_text="Events on which the filter failed.")
    missed = models.BigIntegerField(
        default=0, db_default=0, editable=False, help_text="Events that retention took before they were read."
    )
    last_error = models.CharField(max_length=MAX_ERROR, blank=True, editable=False)
    delivered_at = models.DateTimeField(null=True, editable=False)
    pace = models.FloatField(default=0.0, editable=False, help_text="Deliveries a second around delivered_at.")

    revision = models.PositiveIntegerField(default=0, editable=False, help_text="Counts changes of what is above.")
    holder = models.CharField(max_length=64, blank=True, editable=False, help_text="The relay that delivers now.")
    until = models.DateTimeField(null=True, editable=False, help_text="The end of the holder's lease.")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Attempt(models.Model):
    """One request to a webhook and what came of it. The newest of each subscription are kept."""

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="attempts")
    source = models.CharField(max_length=MAX_TEXT)
    event_id = models.CharField(max_length=MAX_TEXT)
    type = models.CharField(max_length=MAX_TYPE)
    at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    outcome = models.CharField(max_length=20, help_text="delivered, or the class of the failure.")
    status = models.PositiveSmallIntegerField(null=True, help_text="Of the HTTP answer, when one came.")
    error = models.CharField(max_length=MAX_ERROR, blank=True)
    answer = models.TextField(blank=True, help_text=f"The first {MAX_ANSWER} bytes of the answer's body.")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["subscription", "-id"], name="attempt_newest"),
            models.Index(fields=["source", "event_id"], name="attempt_of_event"),
        ]

    def __str__(self) -> str:
        return f"{self.type} to {self.subscription_id}: {self.outcome}"


class Handled(models.Model):
    """An event that an internal handler has handled: the row is written in the transaction of its effects."""

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="+")
    source = models.CharField(max_length=MAX_TEXT)
    event_id = models.CharField(max_length=MAX_TEXT)
    at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["subscription", "source", "event_id"], name="handled_once_per_subscription")
        ]

    def __str__(self) -> str:
        return f"{self.subscription_id}: {self.event_id}"
