"""Identifiers of events: UUIDs that sort by time (RFC 9562 section 5.7). Pure: time and chance are arguments."""

from __future__ import annotations

from uuid import UUID

RANDOM_BITS = 74


def uuid7(at: float, chance: int) -> UUID:
    """A version 7 UUID of wall-clock second ``at``, its other 74 bits taken from ``chance``."""
    chance &= (1 << RANDOM_BITS) - 1
    value = (int(at * 1000) & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= (chance >> 62) << 64
    value |= 0b10 << 62
    value |= chance & ((1 << 62) - 1)
    return UUID(int=value)
