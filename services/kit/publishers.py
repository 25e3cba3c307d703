"""The publishers that a service listens to, asked over HTTP for what the bus lost, with the fleet token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import aiohttp
from fastapi import APIRouter

from .auth import HEADER
from .events.mending import Mender
from .events.repair import Published
from .events.retry import Away

ANSWER_S = 10.0
MAX_ANSWER = 8 * 1024 * 1024


class Publishers:
    """Source → its address, such as ``http://127.0.0.1:7102``. A part of the service, which lives as long as it."""

    def __init__(self, addresses: Mapping[str, str], token: str) -> None:
        self._addresses = dict(addresses)
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4, keepalive_timeout=5),
            headers={HEADER.decode(): self._token},
            timeout=aiohttp.ClientTimeout(total=ANSWER_S, connect=2.0),
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def names(self) -> Sequence[str]:
        """Whose events are listened to."""
        return list(self._addresses)

    async def find(self, source: str) -> Published | None:
        """The log of ``source``; None when its address is not known here."""
        address = self._addresses.get(source)
        return None if address is None else Published(partial(self._get, address))

    async def _get(self, address: str, path: str) -> bytes:
        if self._session is None:
            raise Away("the service is stopping")
        try:
            async with self._session.get(address + path, allow_redirects=False) as response:
                if response.status != 200:
                    raise Away(f"it answered {response.status}")
                return await bounded(response)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise Away(str(error) or type(error).__name__) from None


def repairs(mender: Mender) -> APIRouter:
    """``POST /events/repair``: compare with the publishers and fetch now; ``/health`` says how it goes."""
    routes = APIRouter(prefix="/events", tags=["events"])

    @routes.post("/repair", status_code=202)
    async def repair() -> dict[str, list[str]]:
        """Look at once for what the bus lost. ``known``: what is being looked for already."""
        known = mender.said
        mender.ask()
        return {"known": known}

    return routes


async def bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body; ``Away`` when it is larger than any that a publisher gives."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise Away("its answer is too large")
    return b"".join(parts)
