"""The publishers of the fleet, asked for what the bus lost: at the addresses of the registry, where the guard lets us.
Only trusted members of the fleet are asked, for the fleet token goes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
from django.conf import settings

from apps.events.archive.gaps import DjangoGaps, sources
from apps.events.archive.inbox import ask
from apps.lib.addresses import AddressRefused
from apps.registry.models import Instance
from services.kit import env
from services.kit.events.repair import Published, Repair
from services.kit.events.retry import Away

ANSWER_S = 10.0
MAX_ANSWER = 8 * 1024 * 1024


@asynccontextmanager
async def repair(source: str = "", key: str | None = None) -> AsyncIterator[Repair]:
    """The archive's repair, of one ``source`` or partition ``key`` alone where they are given."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=4, keepalive_timeout=5, socket_factory=settings.ADDRESS_GUARD.open_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"X-Fleet-Token": env.secret("MC_FLEET_TOKEN")},
        timeout=aiohttp.ClientTimeout(total=ANSWER_S, connect=2.0),
        trust_env=False,
    ) as http:

        async def find(name: str) -> Published | None:
            urls = await ask(_urls, name) if source in ("", name) else []
            return Published(partial(_get, http, urls)) if urls else None

        yield Repair(DjangoGaps(), find, sources, key=key)


def _urls(source: str) -> list[str]:
    rows = Instance.objects.filter(service__name=source, service__fleet=True, enabled=True).order_by("pk")
    return list(rows.values_list("url", flat=True)[:8])


async def _get(http: aiohttp.ClientSession, urls: list[str], path: str) -> bytes:
    """The answer of the first instance that has one; Away when none has."""
    said = ""
    for url in urls:
        try:
            async with http.get(url + path, allow_redirects=False) as response:
                if response.status == 200:
                    return await _bounded(response)
                said = f"it answered {response.status}"
        except (TimeoutError, aiohttp.ClientError, AddressRefused, OSError, ValueError) as error:
            said = str(error) or type(error).__name__
    raise Away(said)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise Away("its answer is too large")
    return b"".join(parts)
