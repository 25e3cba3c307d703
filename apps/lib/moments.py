"""Moments in a query string: RFC 3339 at any offset from UTC, looked for in UTC.

An offset of over sixteen hours is one that PostgreSQL does not read, and a moment is the same in either writing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django_filters import rest_framework as filters
from django_filters.fields import IsoDateTimeField


class _Moment(IsoDateTimeField):  # type: ignore[misc] # django-filter has no types
    def clean(self, value: Any) -> datetime | None:
        found = super().clean(value)
        try:
            return found.astimezone(UTC) if found is not None else None
        except OverflowError:
            raise ValidationError("This moment is out of the calendar's reach.") from None


class Moment(filters.IsoDateTimeFilter):  # type: ignore[misc] # as above
    """``field_name`` compared with a moment."""

    field_class = _Moment
