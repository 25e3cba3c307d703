"""Django admin: events, and what the bus still has to take, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from apps.events.models import Event, OutboxMessage


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
