"""The worker's ear on Redis: one subscription for everything that other processes announce.

A message lost while the subscription was down is made up for: whoever listens also refreshes from the
stored state at every (re)connection and every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import redis.asyncio
import redis.exceptions

from apps.gateway.plane.worker import Worker
from apps.lib.border import is_spoilt

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
RETRY_SECONDS = 1.0

Handler = Callable[[bytes], Awaitable[None]]
Refresh = Callable[[], Awaitable[None]]


class Listener:
    """Calls ``handlers`` by channel, and each of ``refreshes`` at connection and every five seconds."""

    def __init__(self, worker: Worker, handlers: Mapping[str, Handler], refreshes: tuple[Refresh, ...]) -> None:
        self._worker = worker
        self._client = worker.redis
        self._handlers = {channel.encode(): handler for channel, handler in handlers.items()}
        self._refreshes = refreshes
        self.connected = False

    async def run(self) -> None:
        """Listen until cancelled; Redis being away is a state, not an error."""
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(*self._handlers)
                    await self._listen(pubsub)
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                if self.connected:
                    log.warning("Redis is away, serving with what is known (%s)", type(error).__name__)
                self.connected = False
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, pubsub: redis.asyncio.client.PubSub) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            if loop.time() >= due:
                due = loop.time() + POLL_SECONDS
                for refresh in self._refreshes:
                    await self._refreshed(refresh)
                if not self.connected:
                    log.info("Listening on Redis")
                self.connected = True
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=max(0.01, due - loop.time()))
            if message is not None:
                await self._handlers[message["channel"]](message["data"])

    async def _refreshed(self, refresh: Refresh) -> None:
        try:
            await refresh()
        except redis.exceptions.ResponseError as error:
            if not is_spoilt(error):
                raise
            # One key that is not what it should be must not keep the others from being read.
            await self._worker.cleared(error)
