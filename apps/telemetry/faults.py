"""What ClickHouse's client says of a failure, for those who ask and those who write. Pure."""

from __future__ import annotations


def code_of(error: Exception) -> int:
    """The server's error code in clickhouse-connect's message; 0 when the server said nothing."""
    digits = str(error).partition("code: ")[2].partition(",")[0].strip()
    return int(digits) if digits.isdecimal() and digits.isascii() else 0
