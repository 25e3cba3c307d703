"""The shared nouns: a service and the instances that serve it."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from apps.registry.upstreams import UpstreamError, parse_upstream

SLUG = RegexValidator(
    r"^[a-z][a-z0-9-]{0,62}\Z",
    "Use lower-case letters, digits and hyphens, starting with a letter (63 characters at most).",
)


def validate_upstream(value: str) -> None:
    """The URL of an instance: http or https, a host, a port, no path, user or query."""
    try:
        upstream = parse_upstream(value)
    except UpstreamError as error:
        raise ValidationError(str(error)) from None
    check_address(upstream.host, upstream.port)


def check_address(host: str, port: int) -> None:
    """ValidationError for an address that can never be called. What a name stands for is asked when connecting."""
    reason = settings.ADDRESS_GUARD.early(host, port)
    if reason is not None:
        raise ValidationError(f"This address is not allowed: {reason}.")


class Service(models.Model):
    """A named backend that clients reach through the gateway and the monitor watches."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    title = models.CharField(max_length=120, blank=True, help_text="What people call it.")
    description = models.TextField(blank=True)
    owner = models.CharField(max_length=120, blank=True, help_text="Team or person to call.")
    fleet = models.BooleanField(
        default=False,
        help_text="Trusted member of the fleet: the gateway authenticates itself to it with the fleet token.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Instance(models.Model):
    """One process that serves a service."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="instances")
    name = models.CharField(max_length=63, validators=[SLUG])
    url = models.CharField(
        max_length=255, validators=[validate_upstream], help_text="Scheme, host and port, such as http://10.0.0.7:7102"
    )
    weight = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(100)])
    enabled = models.BooleanField(default=True, help_text="Off takes it out of rotation and stops its probes.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["service__name", "name"]
        constraints = [
            models.UniqueConstraint(fields=["service", "name"], name="instance_name_once_per_service"),
            models.UniqueConstraint(fields=["service", "url"], name="instance_url_once_per_service"),
        ]

    def __str__(self) -> str:
        return self.key

    def clean(self) -> None:
        self.url = self.url.rstrip("/")

    @property
    def key(self) -> str:
        """``service/name``: how every process and every Redis key calls this instance."""
        return f"{self.service.name}/{self.name}"
