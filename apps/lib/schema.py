"""What the OpenAPI document says of every operation alike: how to authenticate and what a refusal looks like."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

PROBLEM = {
    "type": "object",
    "description": "Why the request was refused (RFC 9457).",
    "required": ["type", "title", "status", "detail", "failure"],
    "properties": {
        "type": {"type": "string", "description": "A stable URN of the kind of problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence that says what to do."},
        "failure": {"type": "string", "description": "A stable slug for programs, such as `invalid`."},
        "trace_id": {"type": "string", "description": "The trace in which to look."},
        "errors": {
            "type": "object",
            "additionalProperties": True,
            "description": "Per field, what is wrong with it; for `invalid` alone.",
        },
    },
}

IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeating a request with the same key within a day gives the first answer again.",
}


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """An API token as a bearer token."""

    target_class = "apps.people.tokens.Token"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API token; `Token <token>` is understood too."}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The login of the pages."""

    target_class = "apps.lib.rest.Session"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "mc_session", "description": "Writes also need X-CSRFToken."}


def add_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """spectacular's hook: every operation may answer with a problem document, and writes take an idempotency key."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
    refusal = {
        "description": "Refused; the document says why.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in result.get("paths", {}).values():
        for method, operation in path.items():
            if not isinstance(operation, dict) or "responses" not in operation:
                continue
            operation["responses"].setdefault("default", refusal)
            if method == "post":
                operation.setdefault("parameters", []).append(IDEMPOTENCY)
    return result
