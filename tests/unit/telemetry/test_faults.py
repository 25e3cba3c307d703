"""The one reading of what ClickHouse's client says of a failure."""

from __future__ import annotations

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from apps.telemetry.faults import code_of


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("HTTPDriver for http://x returned response code 404) Received ClickHouse exception, code: 60, server …", 60),
        ("Received ClickHouse exception, code: 241", 241),
        ("Error executing HTTP request: timed out", 0),
        ("code: ², server", 0),
        ("code: , server", 0),
        ("", 0),
    ],
)
def test_the_code_is_the_servers_or_none(said: str, code: int) -> None:
    assert code_of(DatabaseError(said)) == code
