"""Signs of life of processes without a port: a key in Redis that expires unless its owner keeps working."""

from __future__ import annotations

import os

import redis

from apps.lib import clock, kv
from apps.lib.border import Border
from apps.lib.messages import Alive
from apps.lib.wire import HEARTBEAT_PREFIX

EVERY_S = 3.0
"""How often a process refreshes its key."""
EXPIRES_S = 10
"""How long the key outlives its last refresh."""


def refresh(url: str, border: Border, name: str) -> bool:
    """Say that process ``name`` works. False when Redis is away; call it from the work, not beside it."""
    try:
        said = border.close(Alive(clock.wall(), os.getpid()), HEARTBEAT_PREFIX + name)
        kv.client(url).set(HEARTBEAT_PREFIX + name, said, ex=EXPIRES_S)
    except redis.RedisError:
        return False
    return True
