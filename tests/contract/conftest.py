"""Fixtures of the suites that every broker passes."""

from tests.contract.bus import broker, handling, lane, started

__all__ = ["broker", "handling", "lane", "started"]
