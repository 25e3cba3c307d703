"""Nudges over Redis: who publishes tells whoever works on the log that there is something new.

A nudge may be lost, and Redis may be away: whoever is nudged looks by itself too, a little later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import redis
import redis.asyncio
from django.conf import settings

from apps.lib import kv
from apps.lib.wire import OUTBOX_CHANNEL

log = logging.getLogger(__name__)

AGAIN_S = 2.0
"""Between two tries to listen while Redis is away."""


def nudge(channel: str = OUTBOX_CHANNEL) -> None:
    """Say that events were committed, or on another channel what that stands for."""
    try:
        kv.client(settings.REDIS_URL).publish(channel, "")
    except redis.RedisError as error:
        log.debug("Nobody was nudged: %s", error)


async def listen(url: str, bell: asyncio.Event, *channels: str) -> None:
    """Ring ``bell`` at each nudge on ``channels`` (without any: of the outbox), until cancelled."""
    while True:
        try:
            await _listen_once(kv.async_client(url, socket_timeout=None), bell, channels or (OUTBOX_CHANNEL,))
        except (redis.RedisError, OSError):
            await asyncio.sleep(AGAIN_S)


async def _listen_once(client: redis.asyncio.Redis, bell: asyncio.Event, channels: Sequence[str]) -> None:
    async with client, client.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(*channels)
        # What was committed before somebody listened.
        bell.set()
        async for _ in heard.listen():
            bell.set()
