"""A bound on guessing: after some wrong secrets for one client from one address, a pause. Pure."""

from __future__ import annotations

from collections import OrderedDict

FREE = 5
"""Wrong secrets before the first pause."""
PAUSE = 2.0
MAX_PAUSE = 300.0
MAX_KEPT = 10_000


class Guard:
    """Counts failures per (client, address). An address locks out itself alone, not the client everywhere."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def wait(self, client: str, address: str, now: float) -> float:
        """Seconds to wait before another try is looked at; 0 when it may be now."""
        _, until = self._failures.get((client, address), (0, 0.0))
        return max(0.0, until - now)

    def failed(self, client: str, address: str, now: float) -> None:
        """Note a wrong secret; each past the free ones doubles the pause."""
        key = (client, address)
        count = self._failures.get(key, (0, 0.0))[0] + 1
        pause = 0.0 if count < FREE else min(MAX_PAUSE, PAUSE * 2.0 ** (count - FREE))
        self._failures[key] = (count, now + pause)
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_KEPT:
            self._failures.popitem(last=False)

    def passed(self, client: str, address: str) -> None:
        """Forget: the secret was right."""
        self._failures.pop((client, address), None)
