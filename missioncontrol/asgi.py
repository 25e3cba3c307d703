"""The control process: Django over HTTP and the live feed over WebSocket, served by Daphne."""

from __future__ import annotations

import asyncio
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import Resolver404, resolve
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.util.http import parse_excluded_urls

from missioncontrol import observe

http = get_asgi_application()

# Importable only once Django is set up; and Twisted's reactor only once Daphne's app has installed the asyncio one.
from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402

from apps.dashboard.feed import feed  # noqa: E402
from apps.dashboard.urls import websocket  # noqa: E402
from missioncontrol import refusals  # noqa: E402

UNTRACED = "/health,/ready,/static/"

refusals.install()
flush = observe.setup("control", endpoint=settings.OTLP_URL, version=settings.VERSION)


def span_details(scope: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name a request's span by its route, so that a thousand services make one operation."""
    try:
        route = "/" + resolve(scope["path"]).route.lstrip("^").removesuffix("/?$").removesuffix("$")
    except Resolver404:
        return f"{scope['method']} (no route)", {}
    return f"{scope['method']} {route}", {"http.route": route}


router = ProtocolTypeRouter(
    {
        "http": OpenTelemetryMiddleware(
            http,
            excluded_urls=parse_excluded_urls(UNTRACED),
            default_span_details=span_details,
            exclude_spans=["receive", "send"],
        ),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(websocket)),
    }
)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one connection. Daphne has no lifespan events, so the first connection starts the live feed."""
    feed().start()
    await router(scope, receive, send)


async def _close() -> None:
    await feed().stop()
    await asyncio.get_running_loop().run_in_executor(None, flush)


def _stop() -> Deferred[None]:
    """Daphne cancels its applications while we stop the feed; the reactor waits for both to be heard."""
    return Deferred.fromFuture(asyncio.ensure_future(_close()))


reactor.addSystemEventTrigger("before", "shutdown", _stop)
