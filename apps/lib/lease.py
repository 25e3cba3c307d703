"""One of several processes at a time: a key on Redis that lasts for as long as its holder said, and no longer."""

from __future__ import annotations

import secrets
from typing import Any, cast

from apps.lib import kv

# Takes or renews the lease; else in how many milliseconds it lapses. What has another type, or outlives any lease of
# ours, is none of ours.
HOLD = """
local kind, left = redis.call('TYPE', KEYS[1]).ok, redis.call('PTTL', KEYS[1])
if (kind ~= 'string' and kind ~= 'none') or left == -1 or left > tonumber(ARGV[3]) then redis.call('DEL', KEYS[1]) end
local holder = redis.call('GET', KEYS[1])
if holder == false or holder == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]); return 0 end
return math.max(redis.call('PTTL', KEYS[1]), 1)
"""
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lease:
    """This process's side of the lease ``name``. No lease is longer than ``longest_s``."""

    def __init__(self, url: str, name: str, longest_s: float) -> None:
        self._url, self._name, self._longest_s = url, name, longest_s
        self._holder = secrets.token_hex(8)

    def hold(self, seconds: float) -> float:
        """0: it is ours for so long. Else the seconds after which it may be.

        RedisError when nobody can say: whether to go on alone is the caller's to judge.
        """
        arguments = (self._holder, _ms(min(seconds, self._longest_s)), _ms(self._longest_s))
        return int(cast(Any, kv.client(self._url).eval(HOLD, 1, self._name, *arguments))) / 1000

    def give_back(self) -> None:
        """Let another have it now. RedisError when it is left to lapse."""
        kv.client(self._url).eval(RELEASE, 1, self._name, self._holder)


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
