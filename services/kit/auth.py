"""Who may call: only the gateway, which holds the fleet token.

The gateway authenticates clients and says who they are in ``X-Consumer``; a service believes it
because the fleet token came along. Health, readiness, the API's description and public keys are open.
"""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import send_problem
from .problem import Problem

HEADER = b"x-fleet-token"
OPEN = frozenset({"/health", "/ready", "/openapi.json"})
OPEN_PREFIX = "/.well-known/"


class FleetOnly:
    """401 without the fleet token, except on open paths."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            await send_problem(
                send,
                Problem(
                    401,
                    "fleet_token_required",
                    "This service answers to the gateway alone; call it through the gateway.",
                    headers={"WWW-Authenticate": "Fleet"},
                ),
            )
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_PREFIX):
            return True
        given = [value for name, value in scope["headers"] if name == HEADER]
        # One token exactly: two could be read differently by whoever stands in between.
        return len(given) == 1 and hmac.compare_digest(given[0], self._token)


def consumer(request: Request) -> str:
    """Who asks, as the gateway knows them; ``anonymous`` on a public route."""
    return request.headers.get("x-consumer", "") or "anonymous"
