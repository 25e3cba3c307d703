"""Problem documents (RFC 9457) as services send them, and the one place where errors become them.

The shape is the gateway's: ``type title status detail failure trace_id``. A handler raises
``Refused``; everything else that can go wrong in an HTTP exchange is mapped here once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Send

CONTENT_TYPE = "application/problem+json"

SLUGS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
DETAILS = {404: "There is nothing at this address.", 405: "This address does not take that method; see Allow."}

_log = logging.getLogger("services.problem")


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal: ``failure`` is a stable slug for programs, ``detail`` a sentence for people."""

    status: int
    failure: str
    detail: str
    retry_after: int | None = None
    """Whole seconds, sent as ``Retry-After`` (RFC 9110 section 10.2.3)."""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The members of the document; ``trace_id`` only when a trace is under way."""
        body: dict[str, Any] = {
            "type": f"urn:mission-control:problem:{self.failure}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "failure": self.failure,
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            body["trace_id"] = format(span.trace_id, "032x")
        return body | dict(self.extra)

    def encode(self) -> bytes:
        """The document as UTF-8 JSON."""
        return json.dumps(self.document(), ensure_ascii=False).encode("utf-8", "replace")

    def all_headers(self) -> dict[str, str]:
        """``headers`` and, when there is a wait, ``Retry-After``."""
        wait = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**self.headers, **wait}


class Refused(Exception):
    """Ends the work with a problem document at the service's edge."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(status: int, failure: str, detail: str, **extra: Any) -> Refused:
    """Shorthand for the common refusal."""
    return Refused(Problem(status, failure, detail, extra=extra))


def respond(problem: Problem) -> Response:
    """``problem`` as a Starlette response."""
    return Response(problem.encode(), problem.status, problem.all_headers(), CONTENT_TYPE)


async def send_problem(send: Send, problem: Problem) -> None:
    """``problem`` straight onto an ASGI connection, for middleware."""
    body = problem.encode()
    headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.all_headers()}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def install(app: FastAPI) -> None:
    """Make every refusal and error of ``app`` a problem document."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 - registered for this type alone
    return respond(error.problem)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    slug = SLUGS.get(error.status_code, "refused")
    detail = DETAILS.get(error.status_code, str(error.detail))
    return respond(Problem(error.status_code, slug, detail, headers=error.headers or {}))


async def _invalid(_request: Request, error: Exception) -> Response:
    """400 when the body is not JSON at all, 422 when it is JSON of the wrong shape."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type alone
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return respond(Problem(400, "malformed_json", "The body is not valid JSON."))
    errors = [
        {"field": ".".join(str(part) for part in item["loc"][1:]), "message": item["msg"].removeprefix("Value error, ")}
        for item in found[:20]
    ]
    return respond(Problem(422, "invalid", "Some fields are not valid.", extra={"errors": errors}))


async def _unexpected(_request: Request, error: Exception) -> Response:
    """Our fault: the client learns the trace id, the log learns the rest."""
    _log.error("unhandled error", exc_info=error)
    return respond(Problem(500, "internal_error", "Something went wrong here; quote the trace id when you report it."))
