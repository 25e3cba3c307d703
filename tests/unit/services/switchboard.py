"""A stand-in for the gateway on the way from nexus to its neighbours: it forwards, and fails when it is told to.

The gateway itself is tested with the whole system; here what matters is what nexus makes of its answers.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from tests.waiting import free_port

Fault = Callable[[web.Request], web.Response | None]


class Switchboard:
    """Forwards ``/<service>/…`` to that service's own address, adding what the gateway would add."""

    def __init__(self, token: str, consumer: str = "nexus") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.services: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.fault: Fault | None = None
        self._token, self._consumer = token, consumer
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Switchboard:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{service}/{tail:.*}", self._forward)
        async with aiohttp.ClientSession() as self._session:
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self._up.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = dict(request.headers)
        self.seen.append((request.method, request.path, headers))
        if self.fault is not None and (answer := self.fault(request)) is not None:
            return answer
        service = request.match_info["service"]
        kept = {name: value for name, value in headers.items() if name.lower() not in {"host", "content-length"}}
        kept |= {"X-Fleet-Token": self._token, "X-Consumer": self._consumer}
        url = f"{self.services[service]}/{request.match_info['tail']}"
        body = await request.read()
        async with self._session.request(
            request.method, url, params=request.query, data=body or None, headers=kept
        ) as answer:
            passed = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in {"content-length", "transfer-encoding", "date"}
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=passed)


def problem(status: int, failure: str, **headers: str) -> web.Response:
    """A refusal as the gateway writes it."""
    body: dict[str, Any] = {"status": status, "failure": failure, "detail": failure}
    return web.Response(
        status=status, body=json.dumps(body).encode(), headers=headers, content_type="application/problem+json"
    )
