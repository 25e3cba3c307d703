"""Admin pages whose every save publishes in its own transaction, and look-only pages for records."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from apps.lib.roles import OPERATOR, has
from apps.lib.writes import ChangeRefused
from apps.registry.fields import WordsField
from apps.registry.publishing import Publication, changed


class RefusableForm(forms.ModelForm):
    """Says beside the field why the change as a whole was refused."""

    refusal: ChangeRefused | None = None
    """Set on the class that one request's form is made of."""

    def clean(self) -> Any:
        cleaned = super().clean()
        if self.refusal is not None:
            field = self.refusal.field
            self.add_error(field if field in self.fields else None, self.refusal.message)
        return cleaned


class WordsWidgets:
    """Gives a list of words the look of the other fields."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, WordsField):
            ticks = db_field.words is not None
            return db_field.formfield(
                widget=UnfoldAdminCheckboxSelectMultipleWidget() if ticks else UnfoldAdminTextInputWidget()
            )
        return super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]


class PublishingAdmin(WordsWidgets, ModelAdmin):
    """A change, whether by form, inline, deletion or action, stands together with its revision or not at all."""

    form = RefusableForm
    list_filter_submit = True
    warn_unsaved_form = True
    save_on_top = False

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        form.refusal = getattr(request, "refusal", None)
        return form

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        try:
            with transaction.atomic():
                response = super().changeform_view(request, object_id, form_url, extra_context)
        except ChangeRefused as refused:
            # All of it is rolled back; the form is shown again, invalid for this reason.
            request.refusal = refused  # type: ignore[attr-defined]
            return super().changeform_view(request, object_id, form_url, extra_context)
        self.tell(request)
        return response

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        self.publish(request, f"{_noun(form.instance)} {'changed' if change else 'added'}")

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        try:
            with transaction.atomic():
                response = super().delete_view(request, object_id, extra_context)
        except ChangeRefused as refused:
            messages.error(request, f"Not deleted: {refused.message}")
            return HttpResponseRedirect(request.path)
        self.tell(request)
        return response

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        noun = _noun(obj)
        super().delete_model(request, obj)
        self.publish(request, f"{noun} deleted")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            nouns = [_noun(row) for row in queryset]
            for row in queryset:
                # One by one, for the audit trail.
                row.delete()
            self.publish(request, f"{', '.join(nouns)} deleted")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        try:
            response = super().changelist_view(request, extra_context)
        except ChangeRefused as refused:
            messages.error(request, f"Nothing was changed: {refused.message}")
            return HttpResponseRedirect(request.get_full_path())
        self.tell(request)
        return response

    def publish(self, request: HttpRequest, reason: str) -> Publication:
        """Publish in the requester's name; ChangeRefused ends the transaction."""
        publication = changed(request.user.get_username(), reason)  # type: ignore[union-attr]
        request.publication = publication  # type: ignore[attr-defined]
        return publication

    def tell(self, request: HttpRequest) -> None:
        """After the commit: what came of it."""
        publication: Publication | None = getattr(request, "publication", None)
        if publication is None or not publication.new:
            return
        if publication.delivered:
            messages.info(request, f"Published as revision {publication.revision}; gateways have it within 2 seconds.")
        else:
            messages.warning(
                request,
                f"Stored as revision {publication.revision}, but Redis can't be reached:"
                " gateways get it within seconds of Redis coming back.",
            )

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Operators and admins may act on what they may not change."""
        return has(request.user, OPERATOR)


class PublishedInline(WordsWidgets, TabularInline):
    """Rows that belong to a published noun."""

    extra = 0
    show_change_link = True


class ReadOnlyAdmin(ModelAdmin):
    """Records: looked at, never added, changed or deleted."""

    list_filter_submit = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _noun(row: Any) -> str:
    return f"{row._meta.verbose_name} {row}"
