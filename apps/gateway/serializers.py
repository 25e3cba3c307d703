"""How the gateway's configuration looks in the API. Relations go by name."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.gateway import bounds, queries
from apps.gateway.core import config
from apps.gateway.described import POLICIES, Described, Member
from apps.gateway.models import (
    ApiKey,
    BreakerPolicy,
    ConfigRevision,
    Consumer,
    JwtIssuer,
    RateLimitPolicy,
    Route,
    ServicePolicy,
)
from apps.lib.rest import OnlyKnown
from apps.registry.models import Service
from apps.registry.serializers import StrictBoolean, StrictFloat, Validated, Words

STAMPS = ["created_at", "updated_at"]


def _named(queryset: Any, **options: Any) -> Any:
    return serializers.SlugRelatedField(slug_field="name", queryset=queryset, **options)


class RateLimitSerializer(Validated):
    class Meta:
        model = RateLimitPolicy
        fields = ["name", "requests", "period", "burst", *STAMPS]
        read_only_fields = STAMPS


class BreakerPolicySerializer(Validated):
    class Meta:
        model = BreakerPolicy
        fields = ["name", *(name for name in config.Breaker.__struct_fields__ if name != "override"), *STAMPS]
        read_only_fields = STAMPS


class ServicePolicySerializer(Validated):
    service = _named(Service.objects.all())
    breaker = _named(BreakerPolicy.objects.all(), allow_null=True, required=False)

    class Meta:
        model = ServicePolicy
        fields = ["service", "balance", "connect_timeout", "idle_connections", "max_in_flight"]
        fields += [*config.Outlier.__struct_fields__, "panic_threshold", "breaker", *STAMPS]
        read_only_fields = STAMPS


def _setting(member: Member) -> serializers.Field:
    """The API's field for one setting of a policy."""
    common: dict[str, Any] = {"required": False, "help_text": member.help}
    if member.optional:
        common["allow_null"] = True
    if member.kind == "words":
        return Words(**common)
    if member.kind == "fields":
        return serializers.DictField(**common, child=serializers.CharField(allow_blank=True, trim_whitespace=False))
    if member.kind == "choice":
        return serializers.ChoiceField(**common, choices=list(member.choices))
    kinds: dict[str, Any] = {"flag": StrictBoolean, "whole": serializers.IntegerField, "number": StrictFloat}
    made: serializers.Field = kinds.get(member.kind, serializers.CharField)(**common)
    return made


def _policy(policy: Described) -> serializers.Field:
    name = f"{policy.name.title().replace('_', '')}PolicySerializer"
    made = {member.name: _setting(member) for member in policy.members}
    kind = type(name, (OnlyKnown, serializers.Serializer), {**made, "__doc__": policy.help})
    field: serializers.Field = kind(required=False, allow_null=True, help_text=policy.help)
    return field


PoliciesSerializer: Any = type(
    "PoliciesSerializer",
    (OnlyKnown, serializers.Serializer),
    {
        **{policy.name: _policy(policy) for policy in POLICIES},
        "__doc__": "Policies of a route by name, each with its settings; null for none.",
    },
)


class WordsOfPolicySerializer(serializers.Serializer):
    policy = serializers.CharField()
    words = serializers.CharField()


class RouteSerializer(Validated):
    service = _named(Service.objects.all())
    rate_limit = _named(RateLimitPolicy.objects.all(), allow_null=True, required=False)
    enabled = StrictBoolean(required=False)
    strip_prefix = StrictBoolean(required=False)
    hosts = Words(required=False)
    methods = Words(required=False, help_text=f"Of {', '.join(Route.METHODS)}; empty means any.")
    auth = Words(required=False, help_text="Of key and jwt; empty makes the route public.")
    issuers = Words(required=False, help_text="Whose tokens it takes; needed with jwt.")
    allow = Words(
        required=False,
        help_text="Who may call: consumers by name, groups as @group, or * for every consumer. Needed unless public.",
    )
    scopes = Words(required=False, help_text="What the caller's key or token must hold, all of it.")
    forward_credentials = StrictBoolean(required=False)
    policies = PoliciesSerializer(required=False)
    in_words = serializers.SerializerMethodField()
    shadowed_by = serializers.SerializerMethodField()

    def validate_policies(self, value: dict[str, Any]) -> dict[str, Any]:
        """A change of one policy leaves the others as they are."""
        kept = dict(self.instance.policies) if self.partial and isinstance(self.instance, Route) else {}
        return {name: settings for name, settings in {**kept, **value}.items() if settings is not None}

    @extend_schema_field(WordsOfPolicySerializer(many=True))
    def get_in_words(self, row: Route) -> list[dict[str, str]]:
        """What each of its policies does, in the order in which requests meet them."""
        return [{"policy": title, "words": words} for title, words in queries.policies_in_words(row)]

    def get_shadowed_by(self, row: Route) -> list[str]:
        """More exact routes on the same path, which get some of the requests that this one matches."""
        if "routes_by_path" not in self.context:
            self.context["routes_by_path"] = queries.routes_by_path()
        return queries.shadowed_by(row, self.context["routes_by_path"])

    class Meta:
        model = Route
        fields = [
            "name",
            "description",
            "enabled",
            *(name for name in config.Route.__struct_fields__ if name != "name"),
            "in_words",
            "shadowed_by",
            "degraded_share",
            "failing_share",
            "slow_ms",
            *STAMPS,
        ]
        read_only_fields = STAMPS


class ConsumerSerializer(Validated):
    rate_limit = _named(RateLimitPolicy.objects.all(), allow_null=True, required=False)
    enabled = StrictBoolean(required=False)
    groups = Words(required=False)
    subjects = Words(required=False, help_text="Whose tokens speak for it, each as issuer/subject.")

    class Meta:
        model = Consumer
        fields = ["name", "title", "description", "enabled", "groups", "subjects", "rate_limit", *STAMPS]
        read_only_fields = STAMPS


class IssuerSerializer(Validated):
    enabled = StrictBoolean(required=False)
    algorithms = Words(required=False, help_text=f"Of {', '.join(bounds.choices(config.Issuer, 'algorithms'))}.")

    class Meta:
        model = JwtIssuer
        fields = [*config.Issuer.__struct_fields__, *STAMPS]
        read_only_fields = STAMPS


class KeySerializer(Validated):
    consumer = _named(Consumer.objects.all())
    scopes = Words(required=False, help_text="For routes that ask for some.")
    state = serializers.ChoiceField(choices=["active", "expired", "revoked"], read_only=True)

    class Meta:
        model = ApiKey
        fields = ["id", "consumer", "name", "scopes", "prefix", "state", "created_at", "created_by", "expires_at"]
        fields += ["revoked_at", "revoked_by"]
        read_only_fields = ["prefix", "created_at", "created_by", "revoked_at", "revoked_by"]

    def validate_expires_at(self, value: Any) -> Any:
        if value is not None and value <= timezone.now():
            raise serializers.ValidationError("This moment has passed.")
        return value


class IssuedKeySerializer(KeySerializer):
    """The answer to adding a key: the one time it is told."""

    key = serializers.CharField(read_only=True, help_text="The key itself. It is not shown again.")

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "key"]


class RevisionSerializer(serializers.ModelSerializer):
    class Meta:
        model = ConfigRevision
        fields = ["number", "digest", "summary", "author", "reason", "created_at"]
        read_only_fields = fields


class RevisionDetailSerializer(RevisionSerializer):
    document = serializers.SerializerMethodField()

    class Meta(RevisionSerializer.Meta):
        fields = [*RevisionSerializer.Meta.fields, "document"]
        read_only_fields = fields

    def get_document(self, row: ConfigRevision) -> dict[str, Any]:
        """What gateways were given, without the hashes of keys."""
        return row.shown


class ChangeSerializer(serializers.Serializer):
    kind = serializers.CharField()
    name = serializers.CharField()
    change = serializers.ChoiceField(choices=["added", "removed", "changed"])
    fields = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(), required=False, help_text="Of what changed: name, and [old, new]."
    )


class DiffSerializer(serializers.Serializer):
    revision = serializers.IntegerField()
    against = serializers.IntegerField(allow_null=True)
    changes = ChangeSerializer(many=True)


class OverrideSerializer(serializers.Serializer):
    state = serializers.ChoiceField(choices=["open", "closed"])
    reason = serializers.CharField()
    by = serializers.CharField()
    at = serializers.DateTimeField()


class EjectedSerializer(serializers.Serializer):
    instance = serializers.CharField()
    since = serializers.FloatField(help_text="Seconds since the epoch.")
    until = serializers.FloatField(help_text="When the last worker asks it again.")
    reason = serializers.CharField()
    workers = serializers.IntegerField(help_text="How many workers leave it out; each judges by its own attempts.")


class BreakerSerializer(serializers.Serializer):
    service = serializers.CharField()
    state = serializers.ChoiceField(choices=["closed", "half_open", "open", "unknown"])
    since = serializers.FloatField(allow_null=True, help_text="Seconds since the epoch.")
    calls = serializers.IntegerField(help_text="Calls in the windows of all workers.")
    failure_rate = serializers.FloatField(allow_null=True)
    slow_rate = serializers.FloatField(allow_null=True)
    retry_at = serializers.FloatField(allow_null=True, help_text="When an open breaker tries again.")
    workers = serializers.IntegerField(help_text="Live workers that report it; 0 makes the state unknown.")
    at = serializers.FloatField(allow_null=True)
    ejected = EjectedSerializer(
        many=True, help_text="Instances out of rotation for failing; they come back by themselves."
    )
    panic = serializers.BooleanField(help_text="Too few instances look fit to believe it, so all are asked.")
    in_flight = serializers.IntegerField(help_text="Requests in flight in all workers.")
    limit = serializers.IntegerField(help_text="How many may be; fewer than was set while the service times out.")
    override = OverrideSerializer(allow_null=True)


class ReasonSerializer(serializers.Serializer):
    reason = serializers.CharField(max_length=300, help_text="Why, for whoever finds it later.")


class WorkerSerializer(serializers.Serializer):
    id = serializers.CharField()
    revision = serializers.IntegerField(help_text="The revision that it serves: its acknowledgement.")
    digest = serializers.CharField()
    at = serializers.FloatField(help_text="When it last said so; seconds since the epoch.")
    pid = serializers.IntegerField()
    node = serializers.CharField()
    dropped = serializers.IntegerField(help_text="Telemetry records that it had no room for.")
    refused = serializers.IntegerField(help_text="Messages on Redis that nobody we know sent, or that do not read.")
