"""Django admin: events, and what the bus still has to take, to look at; the registry of schemas."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from apps.events.letters.models import DeadLetter, RedriveJob
from apps.events.models import Aside, Event, OutboxMessage
from apps.events.routing import actions as routing
from apps.events.routing.models import RoutingRule
from apps.events.schemas import registry
from apps.events.schemas.forms import NewVersionForm
from apps.events.schemas.models import EventType, SchemaVersion
from apps.events.schemas.queries import consumers
from apps.events.subscriptions.admin import SubscriptionAdmin

__all__ = ["SubscriptionAdmin"]
"""Django looks for admin pages here."""


class LookOnly(ModelAdmin):
    """Records that nobody adds, changes or deletes by hand."""

    list_filter_submit = True
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Event)
class EventAdmin(LookOnly):
    list_display = ["time", "type", "subject", "source", "stream", "version", "position"]
    list_filter = ["source"]
    search_fields = ["type", "subject", "correlation_id"]
    date_hierarchy = "time"
    ordering = ["-id"]


@admin.register(OutboxMessage)
class OutboxAdmin(LookOnly):
    list_display = ["event", "topic", "state", "attempts", "next_at", "sent_at", "last_error"]
    list_filter = ["topic", ("sent_at", admin.EmptyFieldListFilter)]
    list_select_related = ["event"]
    ordering = ["-event_id"]

    @display(description="State", label={"sent": "success", "waiting": "info", "tried": "warning"})
    def state(self, row: OutboxMessage) -> str:
        if row.sent_at:
            return "sent"
        return "tried" if row.attempts else "waiting"


@admin.register(Aside)
class AsideAdmin(LookOnly):
    """What the log could not take. Whoever has dealt with one deletes it."""

    list_display = ["last_at", "reason", "type", "source", "event_id", "key", "sequence", "times"]
    list_filter = ["reason", "source"]
    search_fields = ["source", "event_id", "type"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_delete_permission(self, request, obj)


@admin.register(DeadLetter)
class DeadLetterAdmin(LookOnly):
    """To look at; people act on the page and by REST."""

    list_display = ["id", "subscription", "state", "type", "key", "reason", "error", "attempts", "last_failed_at"]
    list_filter = ["state", "subscription", "reason"]
    search_fields = ["event_id", "type", "fingerprint"]
    list_select_related = ["subscription"]
    raw_id_fields = ["stored", "replaced_by", "job"]
    ordering = ["-id"]


@admin.register(RedriveJob)
class RedriveJobAdmin(LookOnly):
    list_display = [
        "id",
        "kind",
        "subscription",
        "state",
        "total",
        "taken",
        "succeeded",
        "failed",
        "actor",
        "created_at",
    ]
    list_filter = ["kind", "state"]
    list_select_related = ["subscription"]
    ordering = ["-id"]


@admin.register(EventType)
class EventTypeAdmin(LookOnly):
    """Only the mode is changed by hand."""

    list_display = ["name", "mode", "newest", "published_by", "consumed_by"]
    list_filter = ["mode"]
    search_fields = ["name"]
    fields = ["name", "mode", "newest", "published_by", "consumed_by"]
    readonly_fields = ["name", "newest", "published_by", "consumed_by"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_change_permission(self, request, obj)

    @display(description="Published by")
    def published_by(self, row: EventType) -> str:
        return ", ".join(row.producers) or "-"

    @display(description="Consumed by")
    def consumed_by(self, row: EventType) -> str:
        return ", ".join(consumers([row.name]).get(row.name, ())) or "-"


@admin.register(SchemaVersion)
class SchemaVersionAdmin(LookOnly):
    """A version is added and never changes."""

    list_display = ["event_type", "version", "author", "reason", "forced", "created_at"]
    list_filter = ["forced"]
    search_fields = ["event_type__name"]
    list_select_related = ["event_type"]
    ordering = ["event_type__name", "-version"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return ModelAdmin.has_add_permission(self, request)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else NewVersionForm

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else [(None, {"fields": NewVersionForm.Meta.fields})]

    def save_model(self, request: HttpRequest, obj: SchemaVersion, form: Any, change: bool) -> None:
        said = form.cleaned_data
        found = registry.register(
            said["type"],
            said["document"],
            author=request.user.get_username(),
            reason=said["reason"],
            force=said["force"],
        )
        row = SchemaVersion.objects.get(event_type__name=found.type, version=found.version)
        obj.__dict__.update(row.__dict__)


@admin.register(RoutingRule)
class RoutingRuleAdmin(ModelAdmin):
    """A change is published as it is saved."""

    list_display = ["name", "order", "pattern", "broker", "topic", "key", "enabled"]
    list_filter = ["broker", "enabled"]
    search_fields = ["name", "pattern", "topic"]
    fields = ["name", "order", "pattern", "broker", "topic", "key", "enabled", "note"]

    def save_model(self, request: HttpRequest, obj: RoutingRule, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        routing.publish(request.user.get_username())

    def delete_model(self, request: HttpRequest, obj: RoutingRule) -> None:
        super().delete_model(request, obj)
        routing.publish(request.user.get_username())

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        super().delete_queryset(request, queryset)
        routing.publish(request.user.get_username())
