"""What is checked, what was found, and how it changed.

``InstanceHealth`` is the present and is written by compare-and-set on ``version``; the transition
tables are history and only grow, until retention. Times of history are UTC.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from apps.registry.models import Instance, Service

PATH = RegexValidator(
    r"^/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*(\?[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?$",
    "Use a path that starts with / and holds no spaces, such as /health",
)
STATES = [("unknown", "unknown"), ("healthy", "healthy"), ("unhealthy", "unhealthy")]
BREAKER_STATES = [("closed", "closed"), ("half_open", "half open"), ("open", "open"), ("gone", "gone")]


class HealthCheck(models.Model):
    """How the instances of one service are probed. A service without a row gets the defaults."""

    service = models.OneToOneField(Service, on_delete=models.CASCADE, related_name="health_check")
    path = models.CharField(max_length=255, default="/health", validators=[PATH])
    interval_s = models.FloatField(
        "interval",
        default=5.0,
        validators=[MinValueValidator(1.0), MaxValueValidator(3600.0)],
        help_text="Seconds from one probe of an instance to the next, 1 to 3600.",
    )
    timeout_s = models.FloatField(
        "timeout",
        default=1.0,
        validators=[MinValueValidator(0.05), MaxValueValidator(60.0)],
        help_text="Seconds until a probe without a whole answer has failed; no longer than the interval.",
    )
    rise = models.PositiveSmallIntegerField(
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Passes in a row that make an unhealthy instance healthy.",
    )
    fall = models.PositiveSmallIntegerField(
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Failures in a row that make an instance unhealthy.",
    )
    status_low = models.PositiveSmallIntegerField(
        "lowest good status", default=200, validators=[MinValueValidator(200), MaxValueValidator(599)]
    )
    status_high = models.PositiveSmallIntegerField(
        "highest good status",
        default=299,
        validators=[MinValueValidator(200), MaxValueValidator(599)],
        help_text="Redirects are not followed: a 3xx passes only if this range holds it.",
    )
    enabled = models.BooleanField(default=True, help_text="Off: its instances are not probed and count as unknown.")
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["service__name"]

    def __str__(self) -> str:
        return f"GET {self.path} every {self.interval_s:g} s"

    def clean(self) -> None:
        if self.timeout_s is not None and self.interval_s is not None and self.timeout_s > self.interval_s:
            raise ValidationError({"timeout_s": "The timeout can't be longer than the interval."})
        if self.status_low is not None and self.status_high is not None and self.status_low > self.status_high:
            raise ValidationError({"status_high": "The highest good status lies below the lowest."})


class InstanceHealth(models.Model):
    """The newest verdict on one instance, and what the next one will build on."""

    instance = models.OneToOneField(Instance, primary_key=True, on_delete=models.CASCADE, related_name="health")
    state = models.CharField(max_length=10, choices=STATES, default="unknown")
    since = models.DateTimeField(help_text="When this state began.")
    version = models.PositiveBigIntegerField(default=0, help_text="Counts changes of state.")
    passes = models.PositiveSmallIntegerField(default=0, help_text="Passes in a row towards healthy.")
    failures = models.PositiveSmallIntegerField(default=0, help_text="Failures in a row towards unhealthy.")
    checked_at = models.DateTimeField(null=True, blank=True)
    latency_ms = models.FloatField(null=True, blank=True)
    detail = models.CharField(max_length=300, blank=True, help_text="What the last probe found.")
    next_at = models.DateTimeField(help_text="When it is due again; moved on by whoever claims the probe.")
    claim = models.CharField(max_length=32, blank=True, help_text="The round that claimed it last.")

    class Meta:
        verbose_name_plural = "instance health"
        indexes = [models.Index(fields=["next_at"], name="instance_health_due")]

    def __str__(self) -> str:
        return f"{self.instance_id} {self.state}"


class HealthTransition(models.Model):
    """One change of an instance's verdict. Keeps the instance's name, so history outlives the instance."""

    service = models.CharField(max_length=63)
    key = models.CharField("instance", max_length=127)
    from_state = models.CharField(max_length=10, choices=STATES)
    to_state = models.CharField(max_length=10, choices=STATES)
    at = models.DateTimeField()
    reason = models.CharField(max_length=300)
    version = models.PositiveBigIntegerField()

    class Meta:
        ordering = ["-at", "-pk"]
        indexes = [
            models.Index(fields=["service", "at"], name="transition_by_service"),
            models.Index(fields=["key", "at"], name="transition_by_instance"),
            models.Index(fields=["at"], name="transition_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.key} {self.from_state} → {self.to_state}"


class BreakerTransition(models.Model):
    """One change of a breaker, as one gateway worker reported it; ``worker`` empty: of the service as a whole.

    A service as a whole is as bad as its worst worker: open, then half open, then closed.
    """

    stream_id = models.CharField(max_length=160, unique=True, help_text="Its cause: recording it twice does nothing.")
    service = models.CharField(max_length=63)
    worker = models.CharField(max_length=120, blank=True)
    from_state = models.CharField(max_length=10, choices=BREAKER_STATES)
    to_state = models.CharField(max_length=10, choices=BREAKER_STATES)
    at = models.DateTimeField()
    seconds = models.FloatField(help_text="Time spent in the state it left.")
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-at", "-pk"]
        indexes = [
            models.Index(fields=["service", "worker", "at"], name="breaker_by_service"),
            models.Index(fields=["at"], name="breaker_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.service} {self.from_state} → {self.to_state}"


class BreakerSpellNow(models.Model):
    """The state that a breaker is in now; ``worker`` empty: of the service as a whole."""

    service = models.CharField(max_length=63)
    worker = models.CharField(max_length=120, blank=True)
    state = models.CharField(max_length=10, choices=BREAKER_STATES)
    since = models.DateTimeField()
    reason = models.CharField(max_length=300, blank=True)
    seen_at = models.DateTimeField(help_text="When the worker last reported it.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["service", "worker"], name="one_present_spell_per_breaker")]

    def __str__(self) -> str:
        return f"{self.service} {self.worker or 'all'} {self.state}"


class Cursor(models.Model):
    """How far a stream was read, moved in the transaction that stores what was read."""

    name = models.CharField(max_length=63, primary_key=True)
    position = models.CharField(max_length=63)

    def __str__(self) -> str:
        return f"{self.name} at {self.position}"
