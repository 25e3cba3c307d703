"""Whose pages may open a WebSocket: our own, by scheme, host and port.

A browser sends our cookies with a WebSocket that any page of the same host opens, whatever its port
(RFC 6265 section 8.5), and no same-origin policy keeps the answer from it: the gateway's upstreams
and everything else on this host would read the live feed. So the Origin (RFC 6454 section 7) is
compared whole, as Django does for forms.
"""

from __future__ import annotations

from typing import Any

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import split_domain_port, validate_host

SCHEMES = {"ws": "http", "wss": "https"}


class SameOrigin:
    """ASGI: denies a handshake that another page, or no page, begins."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        app = self.app if _welcome(scope) else WebsocketDenier()
        return await app(scope, receive, send)


def _welcome(scope: dict[str, Any]) -> bool:
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(origins) != 1 or len(hosts) != 1:
        return False
    origin, host = origins[0].decode("latin-1").lower(), hosts[0].decode("latin-1").lower()
    domain, _ = split_domain_port(host)
    if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
        return False
    return origin == f"{SCHEMES[scope['scheme']]}://{host}" or origin in settings.CSRF_TRUSTED_ORIGINS
