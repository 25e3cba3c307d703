"""Identifiers of events: UUIDs that sort by time (RFC 9562 section 5.7). Pure: time and chance are arguments."""

from __future__ import annotations

RANDOM_BITS = 74


def uuid7(at: float, chance: int) -> str:
    """A version 7 UUID of wall-clock second ``at``, its other 74 bits taken from ``chance``."""
    when = f"{int(at * 1000) & ((1 << 48) - 1):012x}"
    low = f"{0b10 << 62 | chance & ((1 << 62) - 1):016x}"
    return f"{when[:8]}-{when[8:]}-7{chance >> 62 & 0xFFF:03x}-{low[:4]}-{low[4:]}"
