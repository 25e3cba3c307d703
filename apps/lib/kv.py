"""One Redis client per process and URL, with bounded waits: Redis away is an error in a second, never a hang."""

from __future__ import annotations

from functools import lru_cache

import redis
import redis.asyncio

WAIT = 1.0
"""Seconds to connect, and to wait for an answer."""
ERRORS = "surrogateescape"
"""Bytes that are no UTF-8 are read as something that nobody believes, and not as an error of the one who looks."""


@lru_cache(maxsize=8)
def client(url: str) -> redis.Redis:
    """The synchronous client for ``url`` (its pool is thread-safe)."""
    return redis.Redis.from_url(
        url, decode_responses=True, encoding_errors=ERRORS, socket_connect_timeout=WAIT, socket_timeout=WAIT
    )


def async_client(url: str, *, decode: bool = True, socket_timeout: float | None = 5.0) -> redis.asyncio.Redis:
    """A new asyncio client for the running loop; whoever asks closes it. Blocking reads set their own timeout.

    ``socket_timeout`` None leaves all waiting to the caller's own ``asyncio.timeout``. Tasks that end by
    being cancelled need that: the client guards its writes by ``asyncio.wait_for``, which before Python
    3.12 loses a cancellation that arrives as the write completes (python/cpython issue 86296).
    """
    return redis.asyncio.Redis.from_url(
        url, decode_responses=decode, encoding_errors=ERRORS, socket_connect_timeout=WAIT, socket_timeout=socket_timeout
    )
