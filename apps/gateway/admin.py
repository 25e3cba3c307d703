"""Django admin: routes, policies, consumers, keys, issuers, overrides, and the revisions they made."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelect2MultipleWidget

from apps.gateway import actions, queries
from apps.gateway.core import config
from apps.gateway.forms import FIELDSETS, RouteForm
from apps.gateway.models import (
    ApiKey,
    BreakerOverride,
    BreakerPolicy,
    ConfigRevision,
    Consumer,
    JwtIssuer,
    RateLimitPolicy,
    Route,
    ServicePolicy,
)
from apps.registry.adminkit import PublishingAdmin, ReadOnlyAdmin, RefusableForm

RECORD = ("Record", {"classes": ["collapse"], "fields": [("created_at", "updated_at")]})
STAMPS = ["created_at", "updated_at"]


def _callers() -> list[str]:
    """Everyone, each consumer, and each group that a consumer is in or a route allows."""
    consumers = Consumer.objects.order_by("name").values_list("name", "groups")
    groups = {f"@{group}" for _, groups in consumers for group in groups}
    groups |= {name for allow in Route.objects.values_list("allow", flat=True) for name in allow if name[0] == "@"}
    return [config.EVERYONE, *sorted(groups), *(name for name, _ in consumers)]


def _issuers() -> list[str]:
    return list(JwtIssuer.objects.order_by("name").values_list("name", flat=True))


OFFERED = {"allow": _callers, "issuers": _issuers}
"""Fields of a route that are picked from what there is."""


@admin.register(Route)
class RouteAdmin(PublishingAdmin):
    form = RouteForm
    list_display = ["name", "path", "service", "callers", "credentials", "rate_limit", "timeout_shown", "state"]
    list_filter = ["service", "enabled", "rate_limit"]
    list_select_related = ["service", "rate_limit"]
    search_fields = ["name", "path", "description", "service__name"]
    autocomplete_fields = ["service", "rate_limit"]
    readonly_fields = ["in_words", "shadows", *STAMPS]
    actions = ["enable", "disable"]
    fieldsets = [
        (None, {"fields": [("name", "enabled"), "description", "in_words"]}),
        ("Which requests", {"fields": [("path", "match"), "hosts", "methods", "shadows"]}),
        ("Where to", {"fields": [("service", "strip_prefix")]}),
        ("Who may call", {"fields": ["auth", "issuers", "allow", "scopes", ("forward_credentials", "rate_limit")]}),
        ("Limits", {"fields": [("timeout", "per_try_timeout", "idle_timeout"), ("retries", "max_body")]}),
        *FIELDSETS,
        ("Expected", {"fields": [("degraded_share", "failing_share", "slow_ms")]}),
        RECORD,
    ]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        offered = OFFERED.get(db_field.name)
        if offered is not None:
            return db_field.formfield(words=offered(), widget=UnfoldAdminSelect2MultipleWidget())
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @display(description="Policies in words")
    def in_words(self, row: Route) -> str:
        if row.pk is None:
            return "Told once it is saved."
        told = queries.policies_in_words(row)
        return format_html("<dl>{}</dl>", format_html_join("", "<dt><b>{}</b></dt><dd>{}</dd>", told))

    @display(description="More exact routes on this path")
    def shadows(self, row: Route) -> str:
        return ", ".join(queries.shadowed_by(row, queries.routes_by_path())) or "None: what it matches is its own."

    @display(description="Who may call", label={"anyone": "warning", "every consumer": "warning"})
    def callers(self, row: Route) -> str:
        if not row.auth:
            return "anyone"
        return "every consumer" if config.EVERYONE in row.allow else ", ".join(row.allow)

    @display(description="Credentials")
    def credentials(self, row: Route) -> str:
        return " or ".join(row.auth) or "none"

    @display(description="Timeout", ordering="timeout")
    def timeout_shown(self, row: Route) -> str:
        return f"{row.timeout:g} s"

    @display(description="State", label={"on": "success", "off": "warning"}, ordering="enabled")
    def state(self, row: Route) -> str:
        return "on" if row.enabled else "off"

    @admin.action(description="Turn on", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Route]) -> None:
        self._turn(request, queryset, True)

    @admin.action(description="Turn off", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Route]) -> None:
        self._turn(request, queryset, False)

    def _turn(self, request: HttpRequest, queryset: QuerySet[Route], enabled: bool) -> None:
        with transaction.atomic():
            rows = list(queryset.exclude(enabled=enabled))
            for row in rows:
                row.enabled = enabled
                row.save(update_fields=["enabled", "updated_at"])
            names = ", ".join(row.name for row in rows)
            self.publish(request, f"route {names} turned {'on' if enabled else 'off'}")


@admin.register(RateLimitPolicy)
class RateLimitAdmin(PublishingAdmin):
    list_display = ["name", "rate", "burst", "route_count", "consumer_count", "updated_at"]
    search_fields = ["name"]
    readonly_fields = STAMPS
    fieldsets = [(None, {"fields": ["name", ("requests", "period", "burst")]}), RECORD]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RateLimitPolicy]:
        counts = {name: Count(name, distinct=True) for name in ("routes", "consumers")}
        return super().get_queryset(request).annotate(**{f"{name}_n": count for name, count in counts.items()})

    @display(description="Rate")
    def rate(self, row: RateLimitPolicy) -> str:
        return f"{row.requests} per {row.period:g} s"

    @display(description="Routes", ordering="routes_n")
    def route_count(self, row: Any) -> int:
        return int(row.routes_n)

    @display(description="Consumers", ordering="consumers_n")
    def consumer_count(self, row: Any) -> int:
        return int(row.consumers_n)


@admin.register(BreakerPolicy)
class BreakerPolicyAdmin(PublishingAdmin):
    list_display = ["name", "window", "opens_at", "slow_at", "tries_again", "updated_at"]
    search_fields = ["name"]
    readonly_fields = STAMPS
    fieldsets = [
        (None, {"fields": ["name"]}),
        ("Window", {"fields": [("sliding_window_type", "sliding_window_size", "minimum_calls")]}),
        ("Opens", {"fields": ["failure_rate", ("slow_call_rate", "slow_call_duration")]}),
        ("Tries again", {"fields": [("wait_in_open", "half_open_calls")]}),
        RECORD,
    ]

    @display(description="Window")
    def window(self, row: BreakerPolicy) -> str:
        unit = "calls" if row.sliding_window_type == "count" else "s"
        return f"{row.sliding_window_size} {unit}, at least {row.minimum_calls} calls"

    @display(description="Opens at", ordering="failure_rate")
    def opens_at(self, row: BreakerPolicy) -> str:
        return f"{row.failure_rate:.0%} failures"

    @display(description="Slow calls")
    def slow_at(self, row: BreakerPolicy) -> str:
        return f"{row.slow_call_rate:.0%} over {row.slow_call_duration:g} s"

    @display(description="Tries again", ordering="wait_in_open")
    def tries_again(self, row: BreakerPolicy) -> str:
        return f"after {row.wait_in_open:g} s, {row.half_open_calls} calls"


@admin.register(ServicePolicy)
class ServicePolicyAdmin(PublishingAdmin):
    list_display = ["service", "balance", "breaker", "connect_timeout", "idle_connections"]
    list_filter = ["balance", "breaker"]
    list_select_related = ["service", "breaker"]
    search_fields = ["service__name"]
    autocomplete_fields = ["service", "breaker"]
    readonly_fields = STAMPS
    fieldsets = [
        (None, {"fields": [("service", "balance"), "breaker"]}),
        ("Holds", {"fields": [("max_in_flight", "idle_connections", "connect_timeout")]}),
        ("Ejects an instance", {"fields": [("consecutive_failures", "failure_rate"), "base_ejection_time"]}),
        ("Stays in rotation", {"fields": [("max_ejected", "panic_threshold")]}),
        RECORD,
    ]


@admin.register(Consumer)
class ConsumerAdmin(PublishingAdmin):
    list_display = ["name", "title", "group_names", "rate_limit", "live_keys", "state", "updated_at"]
    list_filter = ["enabled", "rate_limit"]
    list_select_related = ["rate_limit"]
    search_fields = ["name", "title", "description"]
    autocomplete_fields = ["rate_limit"]
    readonly_fields = STAMPS
    fieldsets = [
        (None, {"fields": [("name", "title"), "description", ("enabled", "rate_limit")]}),
        ("Who it is", {"fields": ["groups", "subjects"]}),
        RECORD,
    ]

    @display(description="Groups")
    def group_names(self, row: Consumer) -> str:
        return ", ".join(row.groups)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Consumer]:
        live = Q(keys__revoked_at=None) & (Q(keys__expires_at=None) | Q(keys__expires_at__gt=timezone.now()))
        return super().get_queryset(request).annotate(live_n=Count("keys", filter=live))

    @display(description="Live keys", ordering="live_n")
    def live_keys(self, row: Any) -> int:
        return int(row.live_n)

    @display(description="State", label={"on": "success", "off": "danger"}, ordering="enabled")
    def state(self, row: Consumer) -> str:
        return "on" if row.enabled else "off"


class ApiKeyForm(RefusableForm):
    def clean_expires_at(self) -> Any:
        value = self.cleaned_data["expires_at"]
        if value is not None and "expires_at" in self.changed_data and value <= timezone.now():
            raise ValidationError("This moment has passed; to end a key now, revoke it.")
        return value


@admin.register(ApiKey)
class ApiKeyAdmin(PublishingAdmin):
    """The key is made here and shown on the answer to the form, once."""

    form = ApiKeyForm
    list_display = ["shown", "consumer", "name", "status", "expires_at", "created_at", "created_by"]
    list_display_links = ["shown"]
    list_filter = ["consumer", ("revoked_at", admin.EmptyFieldListFilter), "expires_at"]
    list_select_related = ["consumer"]
    search_fields = ["prefix", "name", "consumer__name"]
    autocomplete_fields = ["consumer"]
    actions = ["revoke"]

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        asked = (None, {"fields": ["consumer", "name", "scopes", "expires_at"]})
        if obj is None:
            return [asked]
        record = ["shown", "status", ("created_at", "created_by"), ("revoked_at", "revoked_by")]
        return [asked, ("Record", {"fields": record})]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        record = ["shown", "status", "created_at", "created_by", "revoked_at", "revoked_by"]
        return record if obj is None else ["consumer", *record]

    @display(description="Key")
    def shown(self, row: ApiKey) -> str:
        return str(row)

    @display(description="State", label={"active": "success", "expired": "warning", "revoked": "danger"})
    def status(self, row: ApiKey) -> str:
        return row.state

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if not change:
            key = actions.make_key()
            obj.prefix, obj.hash = actions.describe_key(key)
            obj.created_by = request.user.get_username()
            request.issued_key = key  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        context = self.admin_site.each_context(request) | {
            "title": "API key issued",
            "opts": self.opts,
            "row": obj,
            "key": request.issued_key,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "gateway/key_issued.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Revoke for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        with transaction.atomic():
            done = [row for row in queryset if actions.revoke_key(row, author=request.user.get_username())]
            self.publish(request, f"revoked {', '.join(str(row) for row in done)}")
        messages.success(request, f"{len(done)} revoked.")


@admin.register(JwtIssuer)
class JwtIssuerAdmin(PublishingAdmin):
    list_display = ["name", "issuer", "audience", "pinned", "jwks_url", "state"]
    list_filter = ["enabled"]
    search_fields = ["name", "issuer", "audience"]
    readonly_fields = STAMPS
    fieldsets = [
        (None, {"fields": [("name", "enabled"), "issuer", "audience"]}),
        ("Signatures", {"fields": ["algorithms", "jwks_url"]}),
        ("Claims", {"fields": [("consumer_claim", "subjects"), ("leeway", "max_lifetime")]}),
        RECORD,
    ]

    @display(description="Algorithms")
    def pinned(self, row: JwtIssuer) -> str:
        return ", ".join(row.algorithms)

    @display(description="State", label={"trusted": "success", "off": "warning"}, ordering="enabled")
    def state(self, row: JwtIssuer) -> str:
        return "trusted" if row.enabled else "off"


@admin.register(BreakerOverride)
class BreakerOverrideAdmin(PublishingAdmin):
    list_display = ["service", "held", "reason", "by", "at"]
    list_select_related = ["service"]
    search_fields = ["service__name", "reason", "by"]
    autocomplete_fields = ["service"]
    readonly_fields = ["by", "at"]
    fieldsets = [(None, {"fields": [("service", "state"), "reason", ("by", "at")]})]

    @display(description="Held", label={"open": "danger", "closed": "info"})
    def held(self, row: BreakerOverride) -> str:
        return row.state

    def save_model(self, request: HttpRequest, obj: BreakerOverride, form: Any, change: bool) -> None:
        obj.by, obj.at = request.user.get_username(), timezone.now()
        super().save_model(request, obj, form, change)


@admin.register(ConfigRevision)
class ConfigRevisionAdmin(ReadOnlyAdmin):
    list_display = ["number", "created_at", "author", "summary_shown", "reason"]
    list_filter = ["author", "created_at"]
    search_fields = ["number", "summary", "author", "reason", "digest"]
    fields = ["number", "created_at", "author", "reason", "digest", "difference", "content_shown"]
    readonly_fields = fields
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConfigRevision]:
        rows = super().get_queryset(request)
        return (
            rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("document")
        )

    @display(description="What changed")
    def summary_shown(self, row: ConfigRevision) -> str:
        return row.summary if len(row.summary) <= 160 else row.summary[:159] + "…"

    @display(description="What changed")
    def difference(self, row: ConfigRevision) -> str:
        return render_to_string("gateway/changes.html", {"changes": row.changes})

    @display(description="Document")
    def content_shown(self, row: ConfigRevision) -> str:
        return format_html(
            "<details><summary>What gateways were given, without the hashes of keys</summary>"
            '<pre class="overflow-x-auto text-xs">{}</pre></details>',
            json.dumps(row.shown, indent=2, ensure_ascii=False),
        )
