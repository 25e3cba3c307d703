"""The one place where a service's refusals and errors become answers.

A handler raises ``Refused``; everything else that can go wrong in an HTTP exchange is mapped here once.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Send

from .problem import CONTENT_TYPE, Problem, Refused

SLUGS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
DETAILS = {404: "There is nothing at this address.", 405: "This address does not take that method; see Allow."}

_log = logging.getLogger("services.problem")


def _trace_id() -> str:
    """The current trace's id in hex, or nothing outside a trace."""
    span = trace.get_current_span().get_span_context()
    return format(span.trace_id, "032x") if span.is_valid else ""


def respond(problem: Problem) -> Response:
    """``problem`` as a Starlette response."""
    return Response(problem.encode(_trace_id()), problem.status, problem.fields(), CONTENT_TYPE)


async def send_problem(send: Send, problem: Problem) -> None:
    """``problem`` straight onto an ASGI connection, for middleware."""
    body = problem.encode(_trace_id())
    headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.fields()}
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
