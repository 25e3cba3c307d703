"""How long who failed must wait. Pure: takes ``now``, keeps a bounded table, locks nobody else out.

A key is never an account alone: strangers would lock its owner out by failing in its name.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict


class Throttle:
    """After ``free`` failures a key waits ``first`` seconds, then twice as long for each further one, up to ``most``.

    A try that is refused because it came too early counts for nothing, so hammering prolongs no wait.
    After ``quiet`` seconds without a failure all is forgotten. When the table is full, the key that
    failed longest ago is: a flood of made-up names costs bounded memory.
    """

    def __init__(self, *, free: int, first: float, most: float, quiet: float = 900.0, keys: int = 10_000) -> None:
        self._free, self._first, self._most, self._quiet, self._keys = free, first, most, quiet, keys
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until ``key`` may try again; 0 when it may now."""
        count, last = self._count(key, now)
        if count < self._free:
            return 0.0
        # The exponent is bounded before it is used: a count may grow for days.
        return max(0.0, last + min(self._most, self._first * 2 ** min(count - self._free, 30)) - now)

    def failed(self, key: str, now: float) -> None:
        """One more failure."""
        count, _ = self._count(key, now)
        self._failures[key] = (count + 1, now)
        self._failures.move_to_end(key)
        while len(self._failures) > self._keys:
            self._failures.popitem(last=False)

    def forget(self, key: str) -> None:
        """It succeeded."""
        self._failures.pop(key, None)

    def _count(self, key: str, now: float) -> tuple[int, float]:
        count, last = self._failures.get(key, (0, now))
        return (count, last) if now - last < self._quiet else (0, now)


def source_of(address: str) -> str:
    """What one party holds of the address space: an IPv4 address, or the /64 of an IPv6 one (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
