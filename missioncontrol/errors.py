"""Errors that no view made: a problem document under /api/, a page elsewhere.

A page that is drawn because the database is away must not ask the database who is looking at it.
"""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views import defaults

from apps.lib import database, refused
from apps.lib.rest import body_too_big, trace_id
from services.kit.problem import CONTENT_TYPE, Problem


def problem(answer: Problem) -> HttpResponse:
    """``answer`` as a plain Django response."""
    refused.count(answer)
    return HttpResponse(
        answer.encode(trace_id()), status=answer.status, headers=answer.fields(), content_type=CONTENT_TYPE
    )


def page(answer: Problem, template: str) -> HttpResponse:
    """``answer`` for a person, drawn without asking anything of anybody."""
    refused.count(answer)
    body = render_to_string(template, {"detail": answer.detail})
    return HttpResponse(body, status=answer.status, headers=answer.fields())


def _api(request: HttpRequest) -> bool:
    return request.path.startswith("/api/") or request.path in {"/health", "/ready"}


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig):
        return problem(body_too_big(settings.DATA_UPLOAD_MAX_MEMORY_SIZE))
    if isinstance(exception, DisallowedHost):
        return problem(Problem(400, "unknown_host", "This host name is not served here; set MC_ALLOWED_HOSTS."))
    if _api(request):
        return problem(Problem(400, "invalid", "The request can't be read."))
    return defaults.bad_request(request, exception)


def invalid_query(request: HttpRequest, detail: str) -> HttpResponse:
    """The query string is one that nothing here reads; ``detail`` says why."""
    answer = Problem(400, "invalid_query", detail)
    return problem(answer) if _api(request) else page(answer, "400.html")


def unsupported_charset(request: HttpRequest, charset: str) -> HttpResponse:
    """Django would hand the body, and the query string, to whichever of Python's decoders a stranger names."""
    detail = f"The charset {charset[:40]!a} is not read here: send UTF-8."
    answer = Problem(415, "unsupported_charset", detail)
    return problem(answer) if _api(request) else page(answer, "400.html")


def not_allowed(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _api(request):
        return problem(Problem(403, "not_allowed", "Your role does not allow this."))
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _api(request):
        return problem(Problem(404, "not_found", "There is nothing at this address; /api/docs/ lists what is."))
    return defaults.page_not_found(request, exception)


def broken(request: HttpRequest) -> HttpResponse:
    """Called while the exception is handled, which alone tells a fault of ours from a database that is away."""
    error = sys.exc_info()[1]
    away = database.away(error)
    if away is not None:
        return problem(away) if _api(request) else page(away, "503.html")
    beyond = database.beyond(error)
    if beyond is not None:
        return problem(beyond) if _api(request) else page(beyond, "400.html")
    if _api(request):
        return problem(Problem(500, "internal_error", "Something here failed; the log of control says what."))
    return defaults.server_error(request)


def csrf_failed(request: HttpRequest, reason: str = "", **context: Any) -> HttpResponse:
    if _api(request):
        return problem(Problem(403, "csrf_failed", f"{reason} Send the CSRF token as X-CSRFToken, or use a token."))
    return defaults.permission_denied(request, Exception(reason))
