"""What every REST endpoint shares: sessions, how bodies are read, problem documents and cursor pages."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import Any, NoReturn

from auditlog.context import auditlog_value
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, ValidationError
from django.db.models import ProtectedError
from django.http import Http404
from opentelemetry import trace
from rest_framework import exceptions
from rest_framework.authentication import SessionAuthentication
from rest_framework.pagination import CursorPagination
from rest_framework.parsers import JSONParser
from rest_framework.response import Response

from apps.lib import database, refused
from services.kit.events.cloudevent import EventError
from services.kit.problem import CONTENT_TYPE, Problem, Refused

SLUGS = {
    400: "invalid",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    415: "unsupported_media_type",
    429: "rate_limited",
}


DEEPEST = 20
"""Levels of a JSON body."""
TOO_DEEP = "The JSON is nested too deeply."
TOO_LONG = "A number in the JSON has thousands of digits."
NO_TEXT = re.compile("[\\x00\ud800-\udfff]")


class Session(SessionAuthentication):
    """The login of the pages; writes need the CSRF token."""

    def enforce_csrf(self, request: Any) -> None:
        try:
            super().enforce_csrf(request)
        except exceptions.PermissionDenied as error:
            raise Refused(
                Problem(403, "csrf_failed", f"{error.detail} Send the CSRF token as X-CSRFToken, or use a token.")
            ) from None


class OnlyKnown:
    """Mixin of serializers: a member that is not known is refused, for it is most likely a misspelt one, and without it
    the request asks for something else."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [name for name in data if name not in self.fields]):  # type: ignore[attr-defined]
            raise exceptions.ValidationError({str(name): ["There is no such field."] for name in unknown[:20]})
        return super().to_internal_value(data)  # type: ignore[misc]


class Json(JSONParser):
    """JSON bodies (RFC 8259), read no further than the limit however they are framed."""

    limit: int | None = None
    """Bytes; the setting's when there is none."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        request = (parser_context or {}).get("request")
        coding = "" if request is None else request.headers.get("Content-Encoding", "").strip().lower()
        if coding not in {"", "identity"}:
            # RFC 9110 section 8.4: what is coded so is not what it says it is.
            raise exceptions.UnsupportedMediaType(coding, f"Bodies are read as they are, not as {coding[:40]}.")
        limit = self.limit or settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        raw: bytes = stream.read(limit + 1)
        if len(raw) > limit:
            too_big(limit)
        found = _load(raw)
        if odd := _odd(found):
            raise exceptions.ParseError(odd)
        return found


def _load(raw: bytes) -> Any:
    if raw.startswith(codecs.BOM_UTF8):
        raise exceptions.ParseError("The body begins with a byte order mark: leave it out.")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise exceptions.ParseError(TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise exceptions.ParseError(f"The body is not UTF-8, which JSON is, at byte {error.start:,}.") from None
    except json.JSONDecodeError as error:
        raise exceptions.ParseError(f"The body is not JSON: {error}.") from None
    except ValueError:
        # Python bounds how long a number it reads.
        raise exceptions.ParseError(TOO_LONG) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259 section 4: of two members of one name, each reader takes the one it likes."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise exceptions.ParseError(f"The name {name[:80]!a} stands twice in one object.")
    return found


def _no_number(word: str) -> NoReturn:
    raise exceptions.ParseError(f"{word} is no number of JSON.")


def _odd(document: Any) -> str:
    """What no document may be, as a sentence: nested beyond use, or with names that can't be told. Values are
    for the fields to judge, which say beside whose they are."""
    level = [document]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if any(NO_TEXT.search(name) for name in item):
                    return "A name holds a NUL or half a surrogate pair."
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return ""
        level = below
    return TOO_DEEP


def too_big(limit: int) -> NoReturn:
    """Refuse a body of more than ``limit`` bytes."""
    raise Refused(body_too_big(limit))


def body_too_big(limit: int) -> Problem:
    return Problem(413, "body_too_large", f"The body is larger than the {limit:,} bytes that are read here.")


class Pages(CursorPagination):
    """Newest first unless the view says otherwise; ``?page_size=`` up to 500."""

    page_size = 50
    max_page_size = 500
    page_size_query_param = "page_size"
    ordering = "-pk"

    def paginate_queryset(self, queryset: Any, request: Any, view: Any = None) -> Any:
        """As DRF does; 404 too for a cursor whose position is no value of the column that it should continue."""
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, ValidationError):
            if self.cursor_query_param not in request.query_params:
                raise
            raise exceptions.NotFound(self.invalid_cursor_message) from None


def handle_exception(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: any refusal as a problem document; None lets a programming error be a 500."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        problem = error.problem
    elif isinstance(error, EventError):
        problem = error.problem()
    elif isinstance(error, Http404):
        # Django's own sentence names the model, which is no word of ours for people.
        said = "" if "matches the given query" in str(error) else str(error)
        problem = Problem(404, "not_found", said or "There is nothing at this address.")
    elif isinstance(error, PermissionDenied):
        problem = Problem(403, "not_allowed", "Your role does not allow this.")
    elif isinstance(error, ProtectedError):
        problem = _in_use(error)
    elif isinstance(error, RequestDataTooBig):
        problem = body_too_big(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    elif isinstance(error, exceptions.APIException):
        problem = _from_drf(error)
        if header := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = header
    elif (away := database.away(error)) is not None:
        problem = away
    elif (beyond := database.beyond(error)) is not None:
        problem = beyond
    else:
        return None
    return respond(problem, headers)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """``problem`` as a DRF response, with the current trace's id."""
    refused.count(problem)
    fields = problem.fields() | (headers or {})
    return Response(problem.document(trace_id()), status=problem.status, headers=fields, content_type=CONTENT_TYPE)


def name_the_actor(user: Any) -> None:
    """The audit middleware ran before the token was read; tell it who this is."""
    context = auditlog_value.get(None)
    if isinstance(context, dict):
        context["actor"] = user


def trace_id() -> str:
    """The current trace's id in hex, or nothing outside a trace."""
    span = trace.get_current_span().get_span_context()
    return format(span.trace_id, "032x") if span.is_valid else ""


def _from_drf(error: exceptions.APIException) -> Problem:
    slug = SLUGS.get(error.status_code, "error")
    if isinstance(error, exceptions.ValidationError):
        return Problem(400, "invalid", "Some fields are not valid.", extra={"errors": error.detail})
    if isinstance(error, exceptions.PermissionDenied) and error.detail == exceptions.PermissionDenied.default_detail:
        return Problem(403, slug, "Your role does not allow this.")
    if isinstance(error, exceptions.NotAuthenticated):
        return Problem(401, slug, "Log in, or send a token: 'Authorization: Bearer <token>'.")
    wait = getattr(error, "wait", None)
    return Problem(error.status_code, slug, str(error.detail), retry_after=int(wait) + 1 if wait else None)


def _in_use(error: ProtectedError) -> Problem:
    users = sorted({f"{item._meta.verbose_name} {item}" for item in error.protected_objects})
    shown = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
    return Problem(409, "in_use", f"It is in use by {shown}; change or delete that first.")
