"""Signs of life of processes without a port: a key in Redis that expires unless its owner keeps working."""

from __future__ import annotations

import json
import os

import redis

from apps.lib import clock, kv
from apps.lib.wire import HEARTBEAT_PREFIX

EVERY_S = 3.0
"""How often a process refreshes its key."""
EXPIRES_S = 10
"""How long the key outlives its last refresh."""


def refresh(url: str, name: str) -> bool:
    """Say that process ``name`` works. False when Redis is away; call it from the work, not beside it."""
    try:
        kv.client(url).set(HEARTBEAT_PREFIX + name, json.dumps({"at": clock.wall(), "pid": os.getpid()}), ex=EXPIRES_S)
    except redis.RedisError:
        return False
    return True
