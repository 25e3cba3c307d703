"""The admin's form of a route: the model's own fields, and those of its policies, made from their structs."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from apps.gateway.described import POLICIES, Member, Wrong, read
from apps.registry.adminkit import RefusableForm
from apps.registry.fields import WordsInput


class FieldsInput(forms.CharField):
    """``Name: value`` on a line each, as a mapping."""

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name}: {text}" for name, text in value.items()) if isinstance(value, dict) else value

    def to_python(self, value: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in re.split(r"[\r\n]+", value or ""):
            if not line.strip():
                continue
            name, colon, text = line.partition(":")
            if not colon:
                raise ValidationError(f"Give a name, a colon and a value on each line: {line[:60]!r} has no colon.")
            if name.strip() in found:
                raise ValidationError(f"{name.strip()} is there twice.")
            found[name.strip()] = text.strip()
        return found

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.to_python(data) != (initial or {})
        except ValidationError:
            return True


def field(member: Member) -> forms.Field:
    """A form's field for one setting."""
    common: dict[str, Any] = {"label": member.title, "help_text": member.help, "required": False}
    common["initial"] = member.default
    if member.kind == "flag":
        return forms.BooleanField(**common, widget=UnfoldBooleanWidget())
    if member.kind == "words":
        return WordsInput(**common, widget=UnfoldAdminTextInputWidget())
    if member.kind == "fields":
        return FieldsInput(**common, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))
    if member.kind == "choice":
        choices = [(word, word.replace("_", " ").capitalize()) for word in member.choices]
        return forms.ChoiceField(**common, choices=choices, widget=UnfoldAdminSelectWidget())
    common["required"] = not member.optional and member.kind != "text"
    if member.kind == "whole":
        return forms.IntegerField(**common, validators=member.validators, widget=UnfoldAdminIntegerFieldWidget())
    if member.kind == "number":
        return forms.FloatField(**common, validators=member.validators, widget=UnfoldAdminTextInputWidget())
    return forms.CharField(**common, validators=member.validators, widget=UnfoldAdminTextInputWidget())


def _name(policy: str, member: str = "") -> str:
    return f"policy_{policy}_{member}" if member else f"policy_{policy}"


FIELDSETS = [
    (
        policy.title,
        {
            "classes": ["collapse"],
            "description": policy.help,
            "fields": [_name(policy.name), *(_name(policy.name, member.name) for member in policy.members)],
        },
    )
    for policy in POLICIES
]
"""A part of the form for each policy."""


class _PolicyForm(RefusableForm):
    """Reads the policies of a row into the fields that were made for them, and back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, settings in self.instance.policies.items():
            self.initial[_name(name)] = True
            self.initial |= {_name(name, member): value for member, value in settings.items()}

    def clean(self) -> Any:
        cleaned = super().clean()
        given: dict[str, Any] = {}
        for policy in POLICIES:
            names = {member.name: _name(policy.name, member.name) for member in policy.members}
            if not cleaned.get(_name(policy.name)):
                if not set(names.values()).isdisjoint(self.changed_data):
                    self.add_error(_name(policy.name), "Tick this as well, or what is written below has no effect.")
                continue
            settings = {name: cleaned[made] for name, made in names.items() if made in cleaned}
            given[policy.name] = settings
        if not self.errors:
            try:
                self.instance.policies = read(given)
            except Wrong as wrong:
                self.add_error(_name(wrong.policy, wrong.member), str(wrong))
        return cleaned


def _declared() -> dict[str, forms.Field]:
    made: dict[str, forms.Field] = {}
    for policy in POLICIES:
        made[_name(policy.name)] = forms.BooleanField(
            label="On", required=False, help_text=policy.help, widget=UnfoldBooleanWidget()
        )
        made |= {_name(policy.name, member.name): field(member) for member in policy.members}
    return made


RouteForm: type[RefusableForm] = type("RouteForm", (_PolicyForm,), {**_declared(), "__module__": __name__})
