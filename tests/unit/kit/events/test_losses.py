"""What a transport met is counted once, whoever tells of it and how often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.kit.events import losses
from services.kit.events.transport.base import Stats


class Met:
    def __init__(self) -> None:
        self.now = Stats()

    def stats(self) -> Stats:
        return self.now


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> None:
        self.total += amount


def test_growth_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {name: Counter() for name in losses._COUNTERS}
    monkeypatch.setattr(losses, "_COUNTERS", counters)
    one: Any = Met()
    other: Any = Met()
    one.now, other.now = Stats(unrouted=2, late=1), Stats(unrouted=5)
    for transport in (one, other, one, other):
        losses.tell(transport)
    one.now = replace(one.now, unrouted=3)
    losses.tell(one)
    assert {name: counter.total for name, counter in counters.items() if counter.total} == {"unrouted": 8, "late": 1}
    assert counters.keys() == set(Stats.__slots__)  # type: ignore[attr-defined]
