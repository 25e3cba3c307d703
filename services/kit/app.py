"""How a service is put together, and how it starts, drains and ends.

The order of a stop: ``/ready`` says 503, the listener closes, requests under way finish (ten seconds
at most), parts stop in reverse order of their start, the last telemetry leaves, exit 0. A second
signal ends it at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import FrameType
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from . import env, errors, garbage, logs, proof, telemetry
from .auth import FleetOnly
from .checks import Check
from .edge import Limits
from .health import Health
from .settings import Settings

DRAIN_SECONDS = 10
MAX_CONNECTIONS = 2048


class Part(Protocol):
    """Something with a life as long as the service's: a store, a consumer, a client."""

    async def start(self) -> None:
        """Acquire what it needs; an exception here ends the start of the service."""

    async def stop(self) -> None:
        """Finish what it has begun and let go."""


def create_app(
    settings: Settings,
    *,
    title: str,
    description: str,
    parts: Sequence[Part],
    checks: Sequence[Check],
    routers: Sequence[APIRouter],
) -> FastAPI:
    """The service's ASGI application; ``parts`` start in order and stop in reverse."""
    health = Health(settings, checks)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for part in parts:
                # Pushed first: a part that fails half-way through its start is stopped too.
                stack.push_async_callback(part.stop)
                await part.start()
            health.started = True
            yield
            health.draining = True

    app = FastAPI(
        title=title,
        description=description,
        version=settings.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        telemetry=_requests(),
    )
    # The last one added is met first: who may call, then how much and for how long.
    app.add_middleware(Limits)
    app.add_middleware(FleetOnly, token=settings.fleet_token)
    errors.install(app)
    app.include_router(health.router())
    for router in routers:
        app.include_router(router)
    app.state.health = health
    return app


def run(build: Callable[[Settings], FastAPI], read: Callable[[], Settings]) -> None:
    """Serve until a signal; one clear sentence and exit 2 when a setting is wrong."""
    try:
        settings = read()
    except env.EnvError as error:
        sys.exit(_plain(str(error)))
    logs.configure(settings.name, settings.log_level)
    flush = telemetry.start(
        settings.name,
        endpoint=settings.otlp_url,
        headers=env.otlp_headers(settings.otlp_url) | {proof.FIELD: proof.of(settings.fleet_token)},
        version=settings.version,
        instance=settings.instance,
        namespace="fleet",
    )
    app = build(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=75,
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = _Server(config, app.state.health)
    garbage.settle()
    server.run()
    if not server.force_exit:
        flush()


class _Server(uvicorn.Server):
    """uvicorn's server, with our way of leaving: readiness first, any second signal at once, exit 0."""

    def __init__(self, config: uvicorn.Config, health: Health) -> None:
        super().__init__(config)
        self._health = health
        self._signalled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """uvicorn's own wakes ten times a second to see whether to leave; this one is woken, and else once a second
        renews the Date header."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            try:
                async with asyncio.timeout(1.0):
                    await self._signalled.wait()
            except TimeoutError:
                pass

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: go. Signals are not raised again afterwards, so a drained exit is 0."""
        self._health.draining = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled.set)


def _requests() -> TelemetryConfig:
    """How FastAPI reports requests: one SERVER span each, named by the route, and its duration; probes are left out.

    It writes the stable HTTP names (http.request.method, http.route, http.response.status_code).
    """
    return {"exclude": _is_probe, "operation_spans": False, "logs": False, "auto_configure": False}


def _is_probe(scope: Scope) -> bool:
    # Probes come every two seconds for ever, and comparisons twice a minute; their spans would say nothing.
    return scope.get("path") in {"/health", "/ready", "/events/published/heads"}


def _operation_id(route: APIRoute) -> str:
    """Short names in the API's description: the handler's own."""
    return route.name


def _plain(sentence: str) -> Any:
    sys.stderr.write(sentence + "\n")
    return 2
