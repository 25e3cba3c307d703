"""The admin's form of a new version: it says beside the field why a version can't be registered."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from apps.events.schemas import registry
from apps.events.schemas.models import SchemaVersion
from services.kit.events.cloudevent import MAX_TYPE, EventError
from services.kit.events.schema import SchemaError


class NewVersionForm(forms.ModelForm):
    type = forms.CharField(
        max_length=MAX_TYPE, widget=UnfoldAdminTextInputWidget(), help_text="Such as business.order.placed."
    )
    document = forms.JSONField(
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 24}), help_text="JSON Schema, draft 2020-12."
    )
    force = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget(),
        help_text="Register it although it may break readers.",
    )

    class Meta:
        model = SchemaVersion
        fields = ["type", "document", "reason", "force"]

    def clean(self) -> Any:
        cleaned = super().clean()
        if self.errors:
            return cleaned
        try:
            found = registry.register(cleaned["type"], cleaned["document"], author="", dry=True)
        except SchemaError as error:
            self.add_error("document", str(error))
        except EventError as error:
            self.add_error("type", str(error))
        else:
            if not found.verdict.compatible and not cleaned["force"]:
                self.add_error("document", str(registry.Incompatible(found.type, found.version, found.verdict)))
        return cleaned
