"""Model fields that several apps need: a short list of words, edited as text, stored as JSON."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

MOST = 50


class WordsInput(forms.CharField):
    """Words separated by commas, spaces or lines, as a list."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> list[str]:
        return [word for word in re.split(r"[\s,]+", value or "") if word]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or [])


class WordsChoice(forms.MultipleChoiceField):
    """Words ticked from a few, as a list in the order in which they are offered."""

    def clean(self, value: Any) -> list[str]:
        picked = super().clean(value)
        return [word for word, _ in self.choices if word in picked]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return set(initial or []) != set(data or [])


class WordsField(models.JSONField):
    """A list of distinct words, at most 50. ``words`` limits which; ``pattern`` limits how each looks.

    A form offers ``words``, or those that ``formfield`` is given, to pick from.
    """

    def __init__(
        self, *args: Any, words: list[str] | None = None, pattern: str = "", hint: str = "", **kwargs: Any
    ) -> None:
        self.words, self.pattern, self.hint = words, pattern, hint
        kwargs.setdefault("default", list)
        kwargs.setdefault("blank", True)
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs

    def validate(self, value: Any, model_instance: Any) -> None:
        if value == [] and self.blank:
            return
        super().validate(value, model_instance)
        self.check_words(value)

    def check_words(self, value: Any) -> None:
        """ValidationError unless ``value`` is a list of distinct words that are allowed here."""
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValidationError("Give a list of words.")
        if len(value) > MOST:
            raise ValidationError(f"Give {MOST} at most.")
        if len(set(value)) != len(value):
            raise ValidationError("Each may be there once.")
        for word in value:
            if self.words is not None and word not in self.words:
                raise ValidationError(f"{word!r} is not one of {', '.join(self.words)}.")
            if self.pattern and not re.fullmatch(self.pattern, word):
                raise ValidationError(f"{word!r} is not valid. {self.hint}".strip())

    def formfield(self, **kwargs: Any) -> Any:
        common = {
            "required": not self.blank,
            "label": kwargs.get("label") or self._label(),
            "help_text": self.help_text,
        }
        if callable(self.default):
            common["initial"] = self.default
        words = kwargs.get("words", self.words)
        if words is None:
            return WordsInput(**common, widget=kwargs.get("widget", forms.TextInput))
        choices = [(word, word) for word in words]
        return WordsChoice(**common, choices=choices, widget=kwargs.get("widget", forms.CheckboxSelectMultiple))

    def _label(self) -> str:
        text = str(self.verbose_name)
        return text[:1].upper() + text[1:]
