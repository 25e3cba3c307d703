"""Problem documents (RFC 9457): the one shape in which Mission Control says no.

Owns the document and its encoding. Pure, and knows nothing of HTTP frameworks; each edge maps its own
errors to a ``Problem`` once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "application/problem+json"

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length required",
    412: "Precondition failed",
    413: "Content too large",
    414: "URI too long",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Request header fields too large",
    499: "Client closed request",
    500: "Internal error",
    501: "Not implemented",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}

LATER = frozenset({429, 503, 504})
"""Refusals that pass by themselves: a client that is not told when to come again comes at once."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal: ``failure`` is a stable slug for programs, ``detail`` a sentence for people."""

    status: int
    failure: str
    detail: str
    retry_after: int | None = None
    """Whole seconds, sent as ``Retry-After`` (RFC 9110 section 10.2.3); those of ``LATER`` always say something."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the document."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Fields of the answer that go with this refusal, such as ``WWW-Authenticate``."""

    def __post_init__(self) -> None:
        if self.retry_after is None and self.status in LATER:
            object.__setattr__(self, "retry_after", 1)

    def document(self, trace_id: str = "") -> dict[str, Any]:
        """The members of the document; ``trace_id`` is left out when there is none."""
        body: dict[str, Any] = {
            "type": f"urn:mission-control:problem:{self.failure}",
            "title": TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "failure": self.failure,
        }
        if trace_id:
            body["trace_id"] = trace_id
        return {**body, **self.extra}

    def encode(self, trace_id: str = "") -> bytes:
        """The document as UTF-8 JSON."""
        # Half a surrogate pair, as a JSON body may bring it, has no UTF-8.
        return json.dumps(self.document(trace_id), ensure_ascii=False).encode("utf-8", "replace")

    def fields(self) -> dict[str, str]:
        """``headers`` and, when there is a wait, ``Retry-After``: what every edge sends with the document."""
        if self.retry_after is None:
            return {**self.headers}
        return {**self.headers, "Retry-After": str(self.retry_after)}


class Refused(Exception):
    """Raised inside a process to end the work with a problem document at its edge."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def refuse(status: int, failure: str, detail: str, **extra: Any) -> Refused:
    """Shorthand for the common refusal."""
    return Refused(Problem(status, failure, detail, extra=extra))
