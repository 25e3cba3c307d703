"""Rules of routing as the control plane publishes them: heard on Redis, believed by their signature, kept on disk.

Whoever follows them goes by them with control and Redis away. Documents only go forward: one that nobody we know
signed, that this release can't read, or that is older than the one in use changes nothing, and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis.asyncio
from opentelemetry import metrics
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ...files import write_private
from ...seal import Refused
from ...signature import Verifier
from ..routing import CHANNEL, CURRENT, NOTHING, Document, RoutesError, decode

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
refused = meter.create_counter("mc.bus.routes.refused", description="Documents of rules not followed, by reason")
following = meter.create_gauge("mc.bus.routes", description="The revision of the rules that are followed")

FIRST_S: Final = 1.0
"""How long a start waits for the newest rules."""
LOOK_S: Final = 30.0
"""How long a lost announcement can cost."""
AGAIN_S: Final = 2.0
WAIT_S: Final = 2.0
MAX_BYTES: Final = 8 * 1024 * 1024


class Rules:
    """Follows the rules on the Redis at ``url``, and hands each newer document to ``adopt``."""

    def __init__(self, url: str, verifier: Verifier, file: Path, adopt: Callable[[Document], None]) -> None:
        self._client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            url, socket_connect_timeout=1.0, socket_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self._verifier, self._file, self._adopt = verifier, file, adopt
        self._document = NOTHING
        self._signed_at = 0.0
        self._seen = b""
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go by those on disk, and by the newest if Redis says them within a second; then follow, until ``stop``."""
        try:
            kept = self._file.read_bytes()
        except FileNotFoundError:
            kept = b""
        except OSError as error:
            log.warning("The last good rules of routing can't be read (%s).", error.strerror)
            kept = b""
        if kept:
            self._take(kept)
        self._task = asyncio.create_task(self._follow(), name="rules of routing")
        try:
            async with asyncio.timeout(FIRST_S):
                await self._known.wait()
        except TimeoutError:
            log.warning("Redis does not say the rules of routing: events go by revision %d.", self._document.revision)

    async def stop(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _follow(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("The rules of routing can't be heard: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            async with asyncio.timeout(WAIT_S):
                await channel.subscribe(CHANNEL)
            while True:
                await self._refresh()
                self._known.set()
                # Whatever was said: what holds is what stands there.
                await channel.get_message(timeout=LOOK_S)

    async def _refresh(self) -> None:
        async with asyncio.timeout(WAIT_S):
            # A document beyond all bounds is not even fetched.
            data: Any = await self._client.getrange(CURRENT, 0, MAX_BYTES)
        if not data or data == self._seen:
            return
        self._seen = data
        if self._take(data):
            try:
                await asyncio.to_thread(write_private, self._file, data)
            except OSError as error:
                log.warning("The rules of routing can't be kept on disk (%s).", error.strerror)

    def _take(self, data: bytes) -> bool:
        """Go by a document; False when it is not to be followed, or is the one in use."""
        try:
            signed = self._verifier.open(CURRENT, data)
            document = decode(signed.body)
        except Refused as error:
            refused.add(1, {"reason": "forged"})
            log.error("Rules of routing that the control plane did not sign were refused: %s", error)
            return False
        except RoutesError as error:
            refused.add(1, {"reason": "unreadable"})
            log.error("Published rules of routing were refused, those before them stay: %s", error)
            return False
        if document == self._document:
            self._signed_at = max(signed.at, self._signed_at)
            return False
        # The higher number is the newer one. A database that was restored counts anew: then the later signature
        # decides.
        if document.revision <= self._document.revision and signed.at <= self._signed_at:
            refused.add(1, {"reason": "overtaken"})
            log.error("Rules of routing %d were refused: they are older than those in use.", document.revision)
            return False
        self._document, self._signed_at = document, signed.at
        self._adopt(document)
        following.set(document.revision)
        log.info("Events go by revision %d of the rules of routing.", document.revision)
        return True
