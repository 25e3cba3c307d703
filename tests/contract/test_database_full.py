"""SQLite with no room left, by its own limit of pages: REST says so, and nothing is half written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.db import connection
from rest_framework.test import APIClient

from apps.registry.models import Service

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def full() -> Iterator[User]:
    """The file may not grow by one page, as on a disk that is full; who asks was there before."""
    boss = User.objects.create_superuser("boss")
    if connection.vendor != "sqlite":
        yield boss
        return
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")
    yield boss
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA max_page_count = 4294967294")


def test_a_write_without_room_is_503_and_undone(full: User) -> None:
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(full)
    body = {"name": "ledger", "title": "x", "description": "y" * 500_000}
    answer = client.post("/api/v1/services", body, format="json")
    if connection.vendor != "sqlite":
        assert answer.status_code == 201
        return
    assert answer.status_code == 503, answer.content
    assert answer.json()["failure"] == "database_unavailable" and answer.headers["Retry-After"]
    assert not Service.objects.exists()


def test_the_control_database_syncs_each_commit() -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            found = [cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert found == ["wal", 2], "2 is FULL"
    else:
        with connection.cursor() as cursor:
            # The tests' own server is set to wait for no disk; what counts is that nobody of ours says so to a server.
            cursor.execute("SELECT reset_val = setting, source FROM pg_settings WHERE name = 'synchronous_commit'")
            assert cursor.fetchone() in {(True, source) for source in ("default", "configuration file", "command line")}
