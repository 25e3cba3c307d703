"""What every REST endpoint shares: problem documents for errors and cursor pages for lists."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from opentelemetry import trace
from rest_framework import exceptions
from rest_framework.pagination import CursorPagination
from rest_framework.response import Response

from apps.lib.problem import CONTENT_TYPE, Problem, Refused

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


class Pages(CursorPagination):
    """Newest first unless the view says otherwise; ``?page_size=`` up to 500."""

    page_size = 50
    max_page_size = 500
    page_size_query_param = "page_size"
    ordering = "-pk"


def handle_exception(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: any refusal as a problem document; None lets a programming error be a 500."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        problem = error.problem
    elif isinstance(error, Http404):
        problem = Problem(404, "not_found", str(error) or "There is nothing at this address.")
    elif isinstance(error, PermissionDenied):
        problem = Problem(403, "not_allowed", "Your role does not allow this.")
    elif isinstance(error, exceptions.APIException):
        problem = _from_drf(error)
        if header := getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = header
    else:
        return None
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return respond(problem, headers)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """``problem`` as a DRF response, with the current trace's id."""
    span = trace.get_current_span().get_span_context()
    body = problem.document(format(span.trace_id, "032x") if span.is_valid else "")
    return Response(body, status=problem.status, headers=headers, content_type=CONTENT_TYPE)


def _from_drf(error: exceptions.APIException) -> Problem:
    slug = SLUGS.get(error.status_code, "error")
    if isinstance(error, exceptions.ValidationError):
        return Problem(400, "invalid", "Some fields are not valid.", extra={"errors": error.detail})
    wait = getattr(error, "wait", None)
    return Problem(error.status_code, slug, str(error.detail), retry_after=int(wait) + 1 if wait else None)
