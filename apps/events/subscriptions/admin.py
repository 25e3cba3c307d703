"""Django admin: webhooks to add and change, all subscriptions to look at, pause and resume."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from apps.events import queries as log
from apps.events.subscriptions import actions, queries, rules
from apps.events.subscriptions.models import Subscription
from apps.events.subscriptions.serializers import WRITABLE
from apps.lib import clock, roles
from services.kit.problem import Refused


class Lines(forms.CharField):
    """A list of words, one a line."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        return (value or "").split()

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or [])


class WebhookForm(forms.ModelForm):
    patterns = Lines(
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), help_text="One a line: * is one segment, # any number."
    )

    class Meta:
        model = Subscription
        fields = ["name", *WRITABLE]

    def clean(self) -> Any:
        cleaned = super().clean() or {}
        try:
            rules.check({name: value for name, value in cleaned.items() if name in WRITABLE}, settings.ADDRESS_GUARD)
        except ValidationError as error:
            for name, faults in error.message_dict.items():
                self.add_error(name, faults)
        return cleaned


class NewWebhookForm(WebhookForm):
    start = forms.CharField(
        max_length=64,
        initial="now",
        widget=UnfoldAdminTextInputWidget(),
        help_text="The first event it gets: now, beginning, a position in the log, or a time.",
    )

    def clean_start(self) -> str:
        start = str(self.cleaned_data["start"])
        try:
            actions.position_of(start)
        except ValidationError as error:
            raise ValidationError(error.message_dict["start"]) from None
        return start


@admin.register(Subscription)
class SubscriptionAdmin(ModelAdmin):
    """Handlers of our own and services' consumers are said in code: they are to look at."""

    form = WebhookForm
    list_display = ["name", "kind", "shown_state", "breaker", "behind", "delivered", "failed", "last_error"]
    list_filter = ["kind", "state"]
    search_fields = ["name", "url"]
    actions = ["pause", "resume", "rotate"]
    said = ["kind", "state", "reason", "position", "delivered", "failed", "odd", "missed", "last_error", "allowed_at"]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else NewWebhookForm

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if not obj:
            return ["name", *WRITABLE, "start"]
        whole = roles.has(request.user, roles.ADMIN)
        return ["name", *(name if whole or name != "url" else "host" for name in WRITABLE), *self.said]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ["name", "host", *self.said] if obj else []

    def get_search_fields(self, request: HttpRequest) -> Any:
        # What may not be read may not be guessed letter by letter either.
        return self.search_fields if roles.has(request.user, roles.ADMIN) else ["name"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or obj.kind == Subscription.Kind.WEBHOOK)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.kind != Subscription.Kind.INTERNAL)

    def get_actions(self, request: HttpRequest) -> Any:
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    @display(description="State", label={"active": "success", "paused": "info", "disabled": "danger"})
    def shown_state(self, row: Subscription) -> str:
        return row.state

    @display(description="Breaker", label={"closed": "success", "half-open": "warning", "open": "danger"})
    def breaker(self, row: Subscription) -> str:
        return queries.breaker(row, clock.wall())

    @display(description="Url")
    def host(self, row: Subscription) -> str:
        return rules.host_alone(row.url)

    @display(description="Behind")
    def behind(self, row: Subscription) -> str:
        found = queries.behind(row, log.head())
        return "-" if found is None else f"{found:,}"

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        fields = {name: form.cleaned_data[name] for name in WRITABLE}
        if change:
            actions.change(obj, fields)
            return
        row, request.issued_secret = actions.create(  # type: ignore[attr-defined]
            {"name": form.cleaned_data["name"], **fields}, form.cleaned_data["start"]
        )
        obj.__dict__.update(row.__dict__)

    def delete_model(self, request: HttpRequest, obj: Subscription) -> None:
        actions.delete(obj)

    def response_add(self, request: HttpRequest, obj: Subscription, post_url_continue: Any = None) -> HttpResponse:
        return self._issued(request, obj, request.issued_secret)  # type: ignore[attr-defined]

    def _issued(self, request: HttpRequest, row: Subscription, secret: str) -> HttpResponse:
        context = self.admin_site.each_context(request) | {
            "title": "Secret of the webhook",
            "opts": self.opts,
            "row": row,
            "secret": secret,
        }
        response = TemplateResponse(request, "events/secret_issued.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        self._each(request, queryset, actions.pause, "paused")

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        self._each(request, queryset, actions.resume, "resumed")

    @admin.action(description="Replace the secret", permissions=["change"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> HttpResponse | None:
        rows = list(queryset[:2])
        if len(rows) != 1:
            messages.error(request, "Choose one: its secret is shown once.")
            return None
        try:
            return self._issued(request, rows[0], actions.rotate(rows[0]))
        except Refused as refused:
            messages.error(request, str(refused))
            return None

    def _each(self, request: HttpRequest, queryset: QuerySet[Subscription], act: Any, done: str) -> None:
        for row in queryset:
            try:
                act(row)
                messages.success(request, f"{row} {done}.")
            except Refused as refused:
                messages.error(request, str(refused))
