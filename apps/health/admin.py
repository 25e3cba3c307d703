"""Django admin: health checks to edit, verdicts and history to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from apps.health.actions import checks_changed
from apps.health.models import BreakerTransition, HealthCheck, HealthTransition, InstanceHealth
from apps.registry.adminkit import ReadOnlyAdmin

STATE_LOOK = {"healthy": "success", "unhealthy": "danger", "unknown": "info"}
BREAKER_LOOK = {"closed": "success", "half open": "warning", "open": "danger", "gone": "info"}


@admin.register(HealthCheck)
class HealthCheckAdmin(ModelAdmin):
    list_display = ["service", "path", "every", "timeout", "rise", "fall", "enabled", "updated_at"]
    list_filter = ["enabled"]
    list_select_related = ["service"]
    search_fields = ["service__name", "path"]
    autocomplete_fields = ["service"]
    readonly_fields = ["updated_at"]
    list_filter_submit = True
    warn_unsaved_form = True
    fieldsets = [
        (None, {"fields": ["service", "enabled", "path", ("status_low", "status_high")]}),
        ("Pace", {"fields": [("interval_s", "timeout_s")]}),
        ("Thresholds", {"fields": [("rise", "fall")]}),
        ("Record", {"classes": ["collapse"], "fields": ["updated_at"]}),
    ]

    @display(description="Every", ordering="interval_s")
    def every(self, row: HealthCheck) -> str:
        return f"{row.interval_s:g} s"

    @display(description="Timeout", ordering="timeout_s")
    def timeout(self, row: HealthCheck) -> str:
        return f"{row.timeout_s:g} s"

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return [*fields, "service"] if obj else fields

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        super().save_model(request, obj, form, change)
        checks_changed()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        checks_changed()

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        super().delete_queryset(request, queryset)
        checks_changed()


@admin.register(InstanceHealth)
class InstanceHealthAdmin(ReadOnlyAdmin):
    list_display = ["instance", "verdict", "since", "checked_at", "latency", "detail"]
    list_filter = ["state", "instance__service"]
    list_select_related = ["instance__service"]
    search_fields = ["instance__name", "instance__service__name", "detail"]
    ordering = ["instance__service__name", "instance__name"]

    @display(description="State", ordering="state", label=STATE_LOOK)
    def verdict(self, row: InstanceHealth) -> str:
        return row.state

    @display(description="Latency", ordering="latency_ms")
    def latency(self, row: InstanceHealth) -> str:
        return "–" if row.latency_ms is None else f"{row.latency_ms:.1f} ms"


@admin.register(HealthTransition)
class HealthTransitionAdmin(ReadOnlyAdmin):
    list_display = ["at", "key", "was", "became", "reason"]
    list_filter = ["to_state", "service"]
    search_fields = ["key", "reason"]
    date_hierarchy = "at"
    show_full_result_count = False

    @display(description="From", ordering="from_state", label=STATE_LOOK)
    def was(self, row: HealthTransition) -> str:
        return row.from_state

    @display(description="To", ordering="to_state", label=STATE_LOOK)
    def became(self, row: HealthTransition) -> str:
        return row.to_state


@admin.register(BreakerTransition)
class BreakerTransitionAdmin(ReadOnlyAdmin):
    list_display = ["at", "service", "by", "was", "became", "stayed", "reason"]
    list_filter = ["to_state", "service"]
    search_fields = ["service", "worker", "reason"]
    date_hierarchy = "at"
    show_full_result_count = False

    @display(description="Worker", ordering="worker")
    def by(self, row: BreakerTransition) -> str:
        return row.worker or "service as a whole"

    @display(description="From", ordering="from_state", label=BREAKER_LOOK)
    def was(self, row: BreakerTransition) -> str:
        return row.get_from_state_display()

    @display(description="To", ordering="to_state", label=BREAKER_LOOK)
    def became(self, row: BreakerTransition) -> str:
        return row.get_to_state_display()

    @display(description="In the state before", ordering="seconds")
    def stayed(self, row: BreakerTransition) -> str:
        return f"{row.seconds:.1f} s"
