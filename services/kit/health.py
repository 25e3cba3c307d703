"""Whether this process can do its job: ``/health`` for the monitor, ``/ready`` for whoever starts it.

A check that fails and is critical makes ``/health`` 503, which takes the instance out of rotation;
one that is not critical is reported as ``degraded`` with 200. Answers are kept for a second, so that
many probes cost one look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from .checks import Check, Unwell
from .errors import respond
from .problem import Problem
from .settings import Settings

KEEP = 1.0
"""Seconds that an answer is reused."""


class Health:
    """Runs the checks of one service, and knows whether it has started and whether it is leaving."""

    def __init__(self, settings: Settings, checks: Sequence[Check]) -> None:
        self._settings = settings
        self._checks = checks
        self._born = time.monotonic()
        self._lock = asyncio.Lock()
        self._results: dict[str, str] = {}
        self._checked_at = float("-inf")
        self.started = False
        self.draining = False

    async def results(self) -> dict[str, str]:
        """Check → ``ok`` or the reason it fails, at most ``KEEP`` seconds old."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= KEEP:
                outcomes = await asyncio.gather(*(_run(check) for check in self._checks))
                self._results = dict(outcomes)
                self._checked_at = time.monotonic()
            return self._results

    async def health(self) -> Response:
        """200 ``ok`` or ``degraded``; 503 with the checks that fail."""
        results = await self.results()
        bad = {name: reason for name, reason in results.items() if reason != "ok"}
        if broken := self._critical(bad):
            return respond(Problem(503, "unhealthy", _sentence(broken), extra={"checks": results, **self._about()}))
        return JSONResponse({"status": "degraded" if bad else "ok", **self._about(), "checks": results})

    async def ready(self) -> Response:
        """200 when requests are welcome; 503 while starting, leaving or unwell."""
        if self.draining:
            return respond(Problem(503, "draining", "The service is stopping; it finishes what it has begun."))
        if not self.started:
            return respond(Problem(503, "starting", "The service is starting.", retry_after=1))
        results = await self.results()
        if broken := self._critical({name: reason for name, reason in results.items() if reason != "ok"}):
            return respond(Problem(503, "unhealthy", _sentence(broken), extra={"checks": results}))
        return JSONResponse({"status": "ok", **self._about()})

    def router(self) -> APIRouter:
        """The two addresses."""
        router = APIRouter(tags=["health"])
        router.add_api_route("/health", self.health, methods=["GET"], response_class=JSONResponse)
        router.add_api_route("/ready", self.ready, methods=["GET"], response_class=JSONResponse)
        return router

    def _critical(self, bad: dict[str, str]) -> dict[str, str]:
        critical = {check.name for check in self._checks if check.critical}
        return {name: reason for name, reason in bad.items() if name in critical}

    def _about(self) -> dict[str, Any]:
        return {
            "service": self._settings.name,
            "version": self._settings.version,
            "instance": self._settings.instance,
            "uptime_s": round(time.monotonic() - self._born, 1),
        }


async def _run(check: Check) -> tuple[str, str]:
    try:
        async with asyncio.timeout(check.timeout):
            await check.probe()
    except TimeoutError:
        return check.name, f"no answer within {check.timeout:g} s"
    except Unwell as reason:
        return check.name, str(reason)
    return check.name, "ok"


def _sentence(broken: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in broken.items()) + "."
