"""Django admin: everybody's API tokens, to look at and to end."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from apps.people import actions
from apps.people.models import ApiToken
from apps.registry.adminkit import ReadOnlyAdmin


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """Made by their owners alone, on their page of tokens or by REST: nobody else may know one."""

    list_display = ["shown", "user", "name", "role", "limits", "status", "last_used_at", "expires_at"]
    list_display_links = ["shown"]
    list_filter = ["user", "role", "read_only", ("ended_at", admin.EmptyFieldListFilter)]
    list_select_related = ["user"]
    search_fields = ["prefix", "name", "user__username"]
    fields = ["shown", "user", "name", "role", "read_only", "areas", "status", "created_at", "expires_at"]
    fields += ["last_used_at", "ended_at", "ended_why"]
    readonly_fields = fields
    actions = ["end"]

    @display(description="Token")
    def shown(self, row: ApiToken) -> str:
        return str(row)

    @display(description="Limited to")
    def limits(self, row: ApiToken) -> str:
        words = (["reading"] if row.read_only else []) + list(row.areas)
        return ", ".join(words) or "nothing less"

    @display(description="State", label={"active": "success", "expired": "warning", "ended": "danger"})
    def status(self, row: ApiToken) -> str:
        return row.state

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("people.delete_apitoken")

    @admin.action(description="End for good", permissions=["end"])
    def end(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        ended = actions.end(queryset, f"{request.user.get_username()} ended it")
        messages.success(request, f"{ended} ended.")
