"""What every request to the control process passes through, besides Django's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auditlog.middleware import AuditlogMiddleware
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from apps.events.intake.parsers import MAX_BODY
from apps.lib import query
from apps.lib.rest import body_too_big
from missioncontrol.errors import invalid_query, problem, unsupported_charset

Handler = Callable[[HttpRequest], HttpResponse]

API = "/api/"
LOOSER = {
    # unfold runs on Alpine, which evaluates attributes, and sets styles by attribute.
    "/admin/": "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none';"
    " frame-ancestors 'none'; form-action 'self'",
    # Swagger UI sets styles by attribute and draws its icons from data: addresses.
    "/api/docs": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
}
"""Content security policies of the two sections that can't bear the strict one; neither lets another host in."""

LARGER = {"/api/v1/events": MAX_BODY}
"""Bytes of a body, where the address takes more than the others."""

CHARSETS = {"utf-8", "utf8", "us-ascii"}
"""Names of the one encoding that is read here, and of a part of it."""

HEADERS = {
    # What one person may see is no other's, and a shared cache knows no roles. Static files pass by here.
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Frame-Options": "DENY",
}


class Edge:
    """Lets nothing but UTF-8 in, bounds bodies by their announced length, drops the slash after API addresses, sets
    what all answers carry."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        path = request.path_info
        response = self.answer(request)
        for prefix, policy in LOOSER.items():
            if path.startswith(prefix):
                response.headers.setdefault("Content-Security-Policy", policy)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def answer(self, request: HttpRequest) -> HttpResponse:
        charset = (request.content_params or {}).get("charset")
        if charset is not None:
            request.encoding = "utf-8"
            if charset.strip('"').lower() not in CHARSETS:
                return unsupported_charset(request, charset)
        limit = LARGER.get(request.path.rstrip("/"), settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        length = request.META.get("CONTENT_LENGTH") or "0"
        if length.isdigit() and int(length) > limit and request.path.startswith(API):
            return problem(body_too_big(limit))
        if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
            # Django REST framework takes a request without a length for one without a body.
            body = request.read(limit + 1)
            if len(body) > limit:
                return problem(body_too_big(limit))
            request._body, request.META["CONTENT_LENGTH"] = body, str(len(body))
        unread = query.refusal((name, value) for name, values in request.GET.lists() for value in values)
        if unread:
            return invalid_query(request, unread)
        path = request.path_info
        if path.startswith("/api/v1/") and path.endswith("/"):
            request.path_info = path.rstrip("/")
            request.path = request.path.rstrip("/")
        return self.get_response(request)


class Audit(AuditlogMiddleware):
    """Who changed what, from the address that missioncontrol.peer believes: the header is whatever a client sends."""

    @staticmethod
    def _get_remote_addr(request: Any) -> Any:
        return request.META.get("REMOTE_ADDR") or None

    @staticmethod
    def _get_remote_port(request: Any) -> None:
        return None
