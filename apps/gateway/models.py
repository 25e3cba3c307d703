"""What the gateway is told to do: routes, who may call, and the policies. ``revisions`` holds what was published."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinLengthValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from apps.gateway import bounds
from apps.gateway.core import config
from apps.gateway.described import Wrong, read
from apps.gateway.revisions import ConfigRevision
from apps.gateway.rules import HOST, HOST_HINT, check_jwks_url, check_path, check_who
from apps.registry.fields import WordsField
from apps.registry.models import SLUG, Service

__all__ = [
    "ApiKey",
    "BreakerOverride",
    "BreakerPolicy",
    "ConfigRevision",
    "Consumer",
    "JwtIssuer",
    "RateLimitPolicy",
    "Route",
    "ServicePolicy",
]


def _bounded(kind: type[models.Field[Any, Any]], struct: Any, name: str, **options: Any) -> Any:
    """A field with the default and the bounds of the document's member of that name."""
    options.setdefault("default", bounds.default(struct, name))
    return kind(validators=bounds.validators(struct, name), **options)


def _one_of(struct: Any, name: str, **options: Any) -> Any:
    words = bounds.choices(struct, name)
    choices = [(word, word.replace("_", " ").capitalize()) for word in words]
    return models.CharField(max_length=32, choices=choices, default=bounds.default(struct, name), **options)


def _words(struct: Any, name: str, hint: str, **options: Any) -> WordsField:
    """A list of words that each look as the document's member of that name has it."""
    return WordsField(pattern=bounds.pattern(struct, name), hint=hint, **options)


SLUGS = "Use lower-case letters, digits and hyphens, starting with a letter."
SCOPES = "Use up to 64 printable characters, without quotation mark or backslash."


def by_key() -> list[str]:
    return list(bounds.default(config.Route, "auth"))


def eddsa() -> list[str]:
    return ["EdDSA"]


class PoliciesField(models.JSONField):
    """Settings by policy, as apps.gateway.described reads them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"default": dict, "blank": True, **kwargs})

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs

    def clean(self, value: Any, model_instance: Any) -> Any:
        try:
            return read(value)
        except Wrong as wrong:
            where = ".".join(part for part in (wrong.policy, wrong.member) if part)
            raise ValidationError(f"{where}: {wrong}" if where else str(wrong)) from None


class Stamped(models.Model):
    """When a row was made and last changed."""

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class RateLimitPolicy(Stamped):
    """How many requests a consumer may make, shared by every gateway worker."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    requests = _bounded(
        models.PositiveIntegerField, config.RateLimit, "requests", default=100, help_text="Requests allowed per period."
    )
    period = _bounded(models.FloatField, config.RateLimit, "period", help_text="Seconds.")
    burst = _bounded(
        models.PositiveIntegerField,
        config.RateLimit,
        "burst",
        null=True,
        blank=True,
        help_text="Most requests at once. Empty: as many as are allowed per period.",
    )

    class Meta:
        ordering = ["name"]
        verbose_name = "rate-limit policy"
        verbose_name_plural = "rate-limit policies"

    def __str__(self) -> str:
        return self.name


class BreakerPolicy(Stamped):
    """When calls to a failing service are cut off, and how it is tried again (resilience4j's terms)."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    sliding_window_type = _one_of(
        config.Breaker, "sliding_window_type", help_text="Whether the window holds a count of calls or a span of time."
    )
    sliding_window_size = _bounded(
        models.PositiveIntegerField, config.Breaker, "sliding_window_size", help_text="Calls, or seconds when timed."
    )
    minimum_calls = _bounded(
        models.PositiveIntegerField,
        config.Breaker,
        "minimum_calls",
        help_text="Calls in the window before a rate says anything.",
    )
    failure_rate = _bounded(
        models.FloatField, config.Breaker, "failure_rate", help_text="Opens at this share of failures: 0.5 is half."
    )
    slow_call_rate = _bounded(
        models.FloatField, config.Breaker, "slow_call_rate", help_text="Opens at this share of slow calls."
    )
    slow_call_duration = _bounded(
        models.FloatField, config.Breaker, "slow_call_duration", help_text="Seconds from which a call is slow."
    )
    wait_in_open = _bounded(
        models.FloatField, config.Breaker, "wait_in_open", help_text="Seconds that an open breaker waits to try again."
    )
    half_open_calls = _bounded(
        models.PositiveIntegerField, config.Breaker, "half_open_calls", help_text="Trial calls while half open."
    )

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "breaker policies"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if (
            self.sliding_window_type == "count"
            and self.minimum_calls is not None
            and self.sliding_window_size is not None
            and self.minimum_calls > self.sliding_window_size
        ):
            raise ValidationError(
                {"minimum_calls": "A window that counts calls can never hold this many; make it smaller."}
            )


class ServicePolicy(Stamped):
    """How the gateway treats one service as an upstream. A service without one has the defaults."""

    service = models.OneToOneField(Service, on_delete=models.CASCADE, related_name="policy")
    balance = _one_of(config.Service, "balance", help_text="Which instance takes the next request.")
    connect_timeout = _bounded(models.FloatField, config.Service, "connect_timeout", help_text="Seconds.")
    idle_connections = _bounded(
        models.PositiveIntegerField,
        config.Service,
        "idle_connections",
        help_text="Most connections per instance and gateway worker; past it a request is refused.",
    )
    max_in_flight = _bounded(
        models.PositiveIntegerField,
        config.Service,
        "max_in_flight",
        help_text="Most requests in flight per gateway worker; fewer while it times out. The rest are refused.",
    )
    consecutive_failures = _bounded(
        models.PositiveIntegerField,
        config.Outlier,
        "consecutive_failures",
        help_text="Failed attempts in a row that eject an instance. 0: no instance is ejected.",
    )
    failure_rate = _bounded(
        models.FloatField,
        config.Outlier,
        "failure_rate",
        help_text="Share of an instance's attempts over ten seconds that ejects it when they failed: 0.5 is half.",
    )
    base_ejection_time = _bounded(
        models.FloatField,
        config.Outlier,
        "base_ejection_time",
        help_text="Seconds for which an instance is ejected, and that much longer each time it was no better.",
    )
    max_ejected = _bounded(
        models.FloatField,
        config.Outlier,
        "max_ejected",
        help_text="Largest share of instances ejected at a time; of two or more at least one.",
    )
    panic_threshold = _bounded(
        models.FloatField,
        config.Service,
        "panic_threshold",
        help_text="With a smaller share of instances fit, all are tried again. 0: only when none is fit.",
    )
    breaker = models.ForeignKey(
        BreakerPolicy,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="services",
        help_text="Empty: the default thresholds.",
    )

    class Meta:
        ordering = ["service__name"]
        verbose_name_plural = "service policies"

    def __str__(self) -> str:
        return f"policy of {self.service}"


class BreakerOverride(models.Model):
    """An operator's word on one service's breaker: held open or closed until this row is gone."""

    STATES = [("open", "Held open: every call is refused"), ("closed", "Held closed: every call goes through")]

    service = models.OneToOneField(Service, on_delete=models.CASCADE, related_name="breaker_override")
    state = models.CharField(max_length=8, choices=STATES)
    reason = models.CharField(max_length=300, help_text="Why, for whoever finds it later.")
    by = models.CharField(max_length=150, editable=False)
    at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["service__name"]

    def __str__(self) -> str:
        return f"{self.service} held {self.state}"


class Route(Stamped):
    """Which requests go to which service, and under which policies."""

    METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    description = models.CharField(max_length=300, blank=True)
    enabled = models.BooleanField(default=True, help_text="Off: requests find no route here.")
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="routes")
    path = models.CharField(
        max_length=255, validators=[check_path], help_text="Starts with a slash, such as /nexus; the longest path wins."
    )
    match = _one_of(config.Route, "match", help_text="A prefix ends at a segment: /nexus takes /nexus/v1, not /nexusx.")
    strip_prefix = models.BooleanField(
        default=bounds.default(config.Route, "strip_prefix"),
        help_text="Forward /nexus/v1 as /v1.",
    )
    hosts = WordsField(
        pattern=HOST, hint=HOST_HINT, help_text="Host names, *.example.org for any below it. Empty: any host."
    )
    methods = WordsField(words=METHODS, help_text="None ticked: any method.")
    auth = WordsField(
        words=bounds.choices(config.Route, "auth"),
        default=by_key,
        verbose_name="credentials",
        help_text="Which credentials prove who calls. None ticked: a public route, open to anyone.",
    )
    issuers = _words(config.Route, "issuers", SLUGS, help_text="Whose tokens it takes, when jwt is ticked.")
    allow = _words(
        config.Route,
        "allow",
        "Name a consumer, a group as @group, or * for every consumer.",
        verbose_name="who may call",
        help_text="Consumers by name, groups as @group, or * for every consumer. Empty on a public route alone.",
    )
    scopes = _words(
        config.Route, "scopes", SCOPES, help_text="What the caller's key or token must hold, all of it. Empty: nothing."
    )
    forward_credentials = models.BooleanField(
        default=bounds.default(config.Route, "forward_credentials"),
        help_text="Send Authorization and X-API-Key on, for a service that authenticates by itself."
        " Keys issued here are never sent on.",
    )
    rate_limit = models.ForeignKey(
        RateLimitPolicy,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="routes",
        help_text="Empty: none.",
    )
    timeout = _bounded(
        models.FloatField, config.Route, "timeout", help_text="Seconds until the answer starts, all attempts together."
    )
    per_try_timeout = _bounded(
        models.FloatField,
        config.Route,
        "per_try_timeout",
        null=True,
        blank=True,
        help_text="Seconds until a try is given up while another instance is left. Empty: half of the timeout.",
    )
    idle_timeout = _bounded(
        models.FloatField, config.Route, "idle_timeout", help_text="Longest silence inside a body, in seconds."
    )
    retries = _bounded(
        models.PositiveSmallIntegerField,
        config.Route,
        "retries",
        help_text="Further attempts for idempotent methods, each on another instance while there is one.",
    )
    max_body = _bounded(
        models.PositiveBigIntegerField, config.Route, "max_body", help_text="Largest request body, in bytes."
    )
    policies = PoliciesField(help_text="Further policies by name, each with its settings.")
    # What the pages judge it by; the data plane knows nothing of these.
    degraded_share = models.FloatField(
        "degraded from",
        default=0.05,
        validators=[bounds.finite, MinValueValidator(0.0001), MaxValueValidator(1.0)],
        help_text="Share of a minute's answers that may be 500 or above before it is shown as degraded: 0.05 is 5%.",
    )
    failing_share = models.FloatField(
        "failing from",
        default=0.25,
        validators=[bounds.finite, MinValueValidator(0.0001), MaxValueValidator(1.0)],
        help_text="Share from which it is shown as failing.",
    )
    slow_ms = models.FloatField(
        "slow from",
        null=True,
        blank=True,
        validators=[bounds.finite, MinValueValidator(0.1)],
        help_text="Milliseconds of p95 past which it is shown as degraded. Empty: thrice its last hour's, or half its "
        "timeout.",
    )

    class Meta:
        ordering = ["path", "name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self.match == "prefix" and self.path != "/" and self.path.endswith("/"):
            raise ValidationError({"path": "A prefix ends without a slash: /nexus takes /nexus/ too."})
        if None not in (self.degraded_share, self.failing_share) and self.failing_share < self.degraded_share:
            raise ValidationError({"failing_share": "A route fails later than it degrades: raise this share."})
        check_who(self.auth, self.issuers, self.allow, self.scopes)


class Consumer(Stamped):
    """A client of the gateway: a person, a program or a service."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG], help_text="Sent upstream as X-Consumer.")
    title = models.CharField(max_length=120, blank=True)
    description = models.TextField(blank=True)
    enabled = models.BooleanField(default=True, help_text="Off: every request of this consumer is refused with 403.")
    groups = _words(config.Consumer, "groups", SLUGS, help_text="What routes may allow as @group.")
    subjects = _words(
        config.Consumer,
        "subjects",
        "Give issuer/subject, such as aegis/demo.",
        help_text="Whose tokens speak for it: each an issuer's name here, a slash and the token's subject.",
    )
    rate_limit = models.ForeignKey(
        RateLimitPolicy,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="consumers",
        help_text="Instead of the route's own.",
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """One API key, of which only the prefix and a keyed hash are kept."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="keys")
    name = models.CharField(max_length=120, blank=True, help_text="What it is for, such as 'billing job in staging'.")
    scopes = _words(config.Key, "scopes", SCOPES, help_text="For routes that ask for some.")
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    hash = models.CharField(max_length=64, unique=True, editable=False, validators=[MinLengthValidator(64)])
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=150, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it does not expire.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_by = models.CharField(max_length=150, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at", "-pk"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"mc_{self.prefix}_…"

    @property
    def state(self) -> str:
        """``revoked``, ``expired`` or ``active``."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return "expired"
        return "active"


class JwtIssuer(Stamped):
    """Whose tokens the gateway trusts. The algorithm is pinned here, whatever a token's header says."""

    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    enabled = models.BooleanField(default=True)
    issuer = models.CharField(max_length=255, unique=True, help_text="Exactly the token's iss claim.")
    audience = models.CharField(max_length=255, help_text="What the token's aud claim must hold.")
    algorithms = WordsField(words=bounds.choices(config.Issuer, "algorithms"), default=eddsa, blank=False)
    jwks_url = models.CharField(
        "JWKS URL", max_length=500, validators=[check_jwks_url], help_text="Where the issuer's public keys are."
    )
    consumer_claim = models.CharField(max_length=63, default="sub", help_text="The claim that is the subject.")
    subjects = _one_of(
        config.Issuer,
        "subjects",
        help_text="Mapped: a subject must be one of a consumer's. Any: others may call too, as issuer/subject.",
    )
    leeway = _bounded(models.FloatField, config.Issuer, "leeway", help_text="Seconds by which clocks may differ.")
    max_lifetime = _bounded(
        models.FloatField, config.Issuer, "max_lifetime", help_text="Longest life of a token, in seconds."
    )

    class Meta:
        ordering = ["name"]
        verbose_name = "JWT issuer"

    def __str__(self) -> str:
        return self.name
