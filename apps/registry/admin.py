"""Django admin: services with their instances."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from apps.registry.adminkit import PublishedInline, PublishingAdmin
from apps.registry.models import Instance, Service


class InstanceInline(PublishedInline):
    model = Instance
    fields = ["name", "url", "weight", "enabled"]
    verbose_name_plural = "instances"


@admin.register(Service)
class ServiceAdmin(PublishingAdmin):
    list_display = ["name", "title", "owner", "fleet", "instance_count", "updated_at"]
    list_filter = ["fleet", "owner"]
    search_fields = ["name", "title", "owner", "instances__url"]
    inlines = [InstanceInline]
    readonly_fields = ["created_at", "updated_at"]
    fieldsets = [
        (None, {"fields": [("name", "title"), "description", "owner"]}),
        ("Trust", {"fields": ["fleet"]}),
        ("Record", {"classes": ["collapse"], "fields": [("created_at", "updated_at")]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        return (
            super()
            .get_queryset(request)
            .annotate(
                enabled_count=Count("instances", filter=Q(instances__enabled=True), distinct=True),
                all_count=Count("instances", distinct=True),
            )
        )

    @display(description="Instances in rotation", ordering="enabled_count")
    def instance_count(self, row: Any) -> str:
        return f"{row.enabled_count} of {row.all_count}"


@admin.register(Instance)
class InstanceAdmin(PublishingAdmin):
    list_display = ["key", "service", "url", "weight", "rotation", "updated_at"]
    list_display_links = ["key"]
    list_filter = ["service", "enabled"]
    list_select_related = ["service"]
    search_fields = ["name", "url", "service__name"]
    autocomplete_fields = ["service"]
    readonly_fields = ["created_at", "updated_at"]
    actions = ["enable", "drain"]
    fieldsets = [
        (None, {"fields": [("service", "name"), "url", ("weight", "enabled")]}),
        ("Record", {"classes": ["collapse"], "fields": [("created_at", "updated_at")]}),
    ]

    @display(description="Instance", ordering="name")
    def key(self, row: Instance) -> str:
        return row.key

    @display(description="Rotation", label={"in rotation": "success", "drained": "warning"})
    def rotation(self, row: Instance) -> str:
        return "in rotation" if row.enabled else "drained"

    @admin.action(description="Put into rotation", permissions=["operate"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        self._turn(request, queryset, True)

    @admin.action(description="Drain: take out of rotation", permissions=["operate"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Instance]) -> None:
        self._turn(request, queryset, False)

    def _turn(self, request: HttpRequest, queryset: QuerySet[Instance], enabled: bool) -> None:
        with transaction.atomic():
            rows = list(queryset.exclude(enabled=enabled).select_related("service"))
            for row in rows:
                row.enabled = enabled
                row.save(update_fields=["enabled", "updated_at"])
            names = ", ".join(row.key for row in rows)
            self.publish(request, f"{'Enabled' if enabled else 'Drained'} {names}")
