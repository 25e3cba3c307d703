"""Django admin of what other packages bring: people, roles and the audit trail, in the same look."""

from __future__ import annotations

from typing import Any

from auditlog.admin import LogEntryAdmin
from auditlog.models import LogEntry
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

admin.site.index_title = "Configuration"

# The schedule comes from settings; a copy edited here would be overwritten at the next start.
for model in (ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule):
    admin.site.unregister(model)
for model in (User, Group, LogEntry):
    admin.site.unregister(model)


@admin.register(User)
class People(UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "roles", "is_active", "is_staff", "is_superuser", "last_login"]
    list_filter = ["groups", "is_active", "is_staff"]
    list_filter_submit = True

    @admin.display(description="Roles")
    def roles(self, row: User) -> str:
        return ", ".join(group.name for group in row.groups.all()) or "none"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")


@admin.register(Group)
class Roles(GroupAdmin, ModelAdmin):
    list_display = ["name", "held_by"]

    @admin.display(description="Held by")
    def held_by(self, row: Group) -> int:
        return row.user_set.count()


@admin.register(LogEntry)
class AuditTrail(LogEntryAdmin, ModelAdmin):
    list_filter = ["action", "content_type", "actor"]
    list_filter_submit = True
