"""Conditional writes (RFC 9110 section 13): who changes a row as they read it overwrites nobody's change."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.http import Http404
from rest_framework.permissions import SAFE_METHODS
from rest_framework.utils.encoders import JSONEncoder

from services.kit.problem import Problem, Refused


class Conditional:
    """Mixin of viewsets whose writes are transactions: reads of a row, and changes of it, give its ``ETag``.

    It names what clients may set of the row, and not what happens to it (counts, times, positions). A write with
    ``If-Match`` is refused (412) unless the row, which is locked until the write is through, has that very tag.
    """

    _row: Any = None

    def get_object(self) -> Any:
        row = super().get_object()  # type: ignore[misc]
        request = self.request  # type: ignore[attr-defined]
        wanted = request.headers.get("If-Match")
        if wanted is not None and request.method not in SAFE_METHODS:
            row = type(row)._base_manager.select_for_update().filter(pk=row.pk).first()
            if row is None:
                raise Http404
            there = self._tag(row, self.get_serializer(row).data)  # type: ignore[attr-defined]
            if there and not _matches(wanted, there):
                detail = "Somebody has changed it since you read it: read it again, then change that."
                raise Refused(Problem(412, "precondition_failed", detail, extra={"etag": there}))
        self._row = row
        return row

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        """As DRF does, with the tag of what the answer says."""
        answer = super().finalize_response(request, response, *args, **kwargs)  # type: ignore[misc]
        said = getattr(answer, "data", None)
        if self._row is not None and answer.status_code == 200 and isinstance(said, dict):
            tag = self._tag(self._row, said)
            if tag:
                answer["ETag"] = tag
        return answer

    def _tag(self, row: Any, said: Any) -> str:
        """A strong tag (section 8.8.3) for what ``said`` has of ``row``; nothing for what is no such row."""
        fields = self.get_serializer(row).fields  # type: ignore[attr-defined]
        names = [name for name, field in fields.items() if not (field.read_only or field.write_only)]
        if not names or not said.keys() >= set(names):
            return ""
        body = json.dumps([row.pk, {name: said[name] for name in names}], sort_keys=True, cls=JSONEncoder)
        return f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


def _matches(wanted: str, there: str) -> bool:
    """By strong comparison: a weak tag never matches."""
    return wanted.strip() == "*" or there in (one.strip() for one in wanted.split(","))
