"""Calls to other services, always through the gateway: bounded in time, in number and in stubbornness.

Owns connections, deadlines and retries. A call that can't be answered becomes ``DependencyFailed``,
a 503 that names the dependency in ``X-Failed-Dependency``, so that the gateway and the pages blame the
right service. Only idempotent methods, and others that carry an ``Idempotency-Key``, are tried again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from opentelemetry.instrumentation._semconv import _StabilityMode
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.trace import Span

from .edge import DEADLINE_HEADER, remaining
from .events.retry import Backoff
from .problem import Problem, Refused
from .settings import Settings

CONNECT_SECONDS = 1.0
TOTAL_SECONDS = 5.0
MAX_CONNECTIONS = 64
MAX_RESPONSE = 4 * 1024 * 1024
ATTEMPTS = 3
PATIENCE = 0.5
"""The longest Retry-After that a call waits for itself; a longer one is passed on to the caller."""
PAUSES = Backoff(first_s=0.1, most_s=PATIENCE)

IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
PASSING = {429, 502, 503, 504}
"""Answers that another attempt may better."""

_log = logging.getLogger("services.client")


class DependencyFailed(Refused):
    """Another service did not do its part. ``failure`` is its slug (such as ``breaker_open``)."""

    def __init__(self, service: str, failure: str, retry_after: int | None) -> None:
        super().__init__(
            Problem(
                503,
                "dependency_failed",
                f"This needs {service}, which can't answer now ({failure.replace('_', ' ')}); try again later.",
                retry_after=1 if retry_after is None else retry_after,
                headers={"X-Failed-Dependency": service},
                extra={"dependency": service, "dependency_failure": failure},
            )
        )
        self.service = service
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Answer:
    """A response below 500: the caller judges it. ``body`` is the decoded JSON."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Failure:
    slug: str
    retry_after: float | None
    again: bool


class Client:
    """Calls services by name through the gateway with this service's API key."""

    def __init__(self, settings: Settings, api_key: str) -> None:
        self._base = settings.gateway_url
        self._agent = f"{settings.name}/{settings.version}"
        self._key = api_key
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=30),
            headers={"User-Agent": self._agent, "X-API-Key": self._key, "Accept": "application/json"},
            trace_configs=[create_trace_config(request_hook=_name_span, sem_conv_opt_in_mode=_StabilityMode.HTTP)],
            auto_decompress=True,
        )

    async def stop(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, service: str, path: str, params: Mapping[str, str] | None = None) -> Answer:
        """GET ``/<service><path>``; DependencyFailed when there is no answer below 500."""
        return await self._call("GET", service, path, params=params)

    async def post(self, service: str, path: str, body: Any, idempotency_key: str = "") -> Answer:
        """POST JSON; tried again only when there is an idempotency key to make that harmless."""
        return await self._call("POST", service, path, body=body, key=idempotency_key)

    async def _call(
        self,
        method: str,
        service: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        key: str = "",
    ) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        safe = method in IDEMPOTENT or bool(key)
        failure = _Failure("deadline_exceeded", None, False)
        for attempt in range(1, ATTEMPTS + 1):
            budget = min(TOTAL_SECONDS, remaining())
            if budget <= 0:
                break
            outcome = await self._once(method, f"{self._base}/{service}{path}", budget, headers, params, body)
            if isinstance(outcome, Answer):
                return outcome
            failure = outcome
            wait = outcome.retry_after
            if wait is None:
                wait = PAUSES.pause(attempt, random.random())  # noqa: S311 - spreading load, not guarding a secret
            if not (safe and outcome.again) or wait > PATIENCE or attempt == ATTEMPTS or wait >= remaining():
                break
            await asyncio.sleep(wait)
        _log.warning("%s %s%s failed: %s", method, service, path, failure.slug)
        raise DependencyFailed(
            service, failure.slug, None if failure.retry_after is None else round(failure.retry_after)
        )

    async def _once(
        self,
        method: str,
        url: str,
        budget: float,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        body: Any,
    ) -> Answer | _Failure:
        assert self._session is not None  # noqa: S101 - start comes first
        timeout = aiohttp.ClientTimeout(total=budget, connect=min(CONNECT_SECONDS, budget))
        sent = {**headers, DEADLINE_HEADER: str(int(budget * 1000))}
        try:
            async with self._session.request(
                method, url, json=body, params=params, headers=sent, timeout=timeout, allow_redirects=False
            ) as response:
                raw = await _bounded(response)
                if response.status in {401, 403}:
                    # Our own key is refused: the caller can do nothing about it, and it is not their credentials.
                    return _Failure(_slug(raw, "not_authenticated"), None, False)
                if response.status in PASSING or response.status >= 500:
                    wait = _retry_after(response.headers.get("Retry-After", ""))
                    return _Failure(_slug(raw, f"http_{response.status}"), wait, response.status in PASSING)
                return Answer(response.status, dict(response.headers), _object(raw))
        except TimeoutError:
            return _Failure("timeout", None, True)
        except aiohttp.ClientConnectorError:
            return _Failure("gateway_unreachable", None, True)
        except (aiohttp.ClientError, ValueError) as error:
            _log.info("%s %s: %s", method, url, error)
            return _Failure("broken_response", None, True)


def _name_span(span: Span, request: aiohttp.TraceRequestStartParams) -> None:
    """The span says whom the call is for; the instrumentation's own name is the bare method."""
    service = request.url.path.split("/")[1]
    span.update_name(f"{request.method} {service}")
    span.set_attribute("peer.service", service)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    raw = await response.content.read(MAX_RESPONSE + 1)
    chunks = [raw]
    size = len(raw)
    while raw and size <= MAX_RESPONSE:
        raw = await response.content.read(MAX_RESPONSE + 1 - size)
        chunks.append(raw)
        size += len(raw)
    if size > MAX_RESPONSE:
        raise ValueError("the answer is too large")
    return b"".join(chunks)


def _object(raw: bytes) -> dict[str, Any]:
    found = json.loads(raw) if raw else {}
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return found


def _slug(raw: bytes, otherwise: str) -> str:
    try:
        slug = _object(raw).get("failure")
    except ValueError:
        return otherwise
    return slug if isinstance(slug, str) and slug else otherwise


def _retry_after(value: str) -> float | None:
    """Seconds; the HTTP-date form is not used between our own services and reads as absent."""
    return float(value) if value.isdigit() else None
