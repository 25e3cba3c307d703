"""The control process: Django over HTTP and the live feed over WebSocket, served by Daphne."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import Resolver404, resolve
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.util.http import parse_excluded_urls

from missioncontrol import observe
from missioncontrol.origin import SameOrigin
from missioncontrol.peer import believed

http = get_asgi_application()

# Importable only once Django is set up; and Twisted's reactor only once Daphne's app has installed the asyncio one.
from daphne.ws_protocol import WebSocketProtocol  # noqa: E402
from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from apps.dashboard.consumers import LiveConsumer  # noqa: E402
from apps.dashboard.feed import feed  # noqa: E402
from apps.dashboard.urls import websocket  # noqa: E402
from missioncontrol import deadlines, refusals  # noqa: E402

if settings.SECURE_TLS and not settings.TRUSTED_PROXIES:
    logging.getLogger(__name__).warning(
        "MC_TLS is set and MC_TRUSTED_PROXIES is not: every request looks like plain HTTP and is redirected. "
        "Name the proxies that end TLS, such as MC_TRUSTED_PROXIES=127.0.0.1."
    )

UNTRACED = "/health,/ready,/static/"

refusals.install()
deadlines.install(settings.CONTROL_CONNECTIONS)
flush = observe.start("control")


def span_details(scope: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name a request's span by its route, so that a thousand services make one operation."""
    try:
        route = "/" + resolve(scope["path"]).route.lstrip("^").removesuffix("/?$").removesuffix("$")
    except Resolver404:
        return f"{scope['method']} (no route)", {}
    return f"{scope['method']} {route}", {"http.route": route}


def close_with_any_code(protocol: WebSocketProtocol, code: int | None = None) -> None:
    """Close with ``code``. Autobahn's own sendClose refuses what IANA has registered since RFC 6455,
    and we say 1012 (service restart) and 1013 (try again later)."""
    protocol.sendCloseFrame(code=code or 1000, isReply=False)


WebSocketProtocol.serverClose = close_with_any_code

router = ProtocolTypeRouter(
    {
        "http": OpenTelemetryMiddleware(
            http,
            excluded_urls=parse_excluded_urls(UNTRACED),
            default_span_details=span_details,
            exclude_spans=["receive", "send"],
        ),
        "websocket": SameOrigin(AuthMiddlewareStack(websocket)),
    }
)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one connection. Daphne has no lifespan events, so the first connection starts the live feed."""
    feed().start()
    await router(believed(scope, settings.TRUSTED_PROXIES), receive, send)


async def _close() -> None:
    # Before Daphne does anything: what it does at the end cuts sockets without a word.
    await LiveConsumer.end_all()
    await feed().stop()
    await asyncio.get_running_loop().run_in_executor(None, flush)


def _stop() -> Deferred[None]:
    """Say goodbye and stop the feed; the reactor waits for it."""
    return Deferred.fromFuture(asyncio.ensure_future(_close()))


reactor.addSystemEventTrigger("before", "shutdown", _stop)
