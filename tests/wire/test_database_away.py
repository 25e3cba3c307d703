"""The database stops, is locked by another process or is gone: 503 with the reason, a plain page, then all is well."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests import postgres
from tests.control import Control, controlled
from tests.waiting import until

SET_UP = """
from django.contrib.auth.models import User
from apps.people.actions import issue
from datetime import timedelta
from django.utils import timezone
_, token = issue(User.objects.create_superuser("boss"), "test", timezone.now() + timedelta(days=1))
print(token)
"""
READS = ["/api/v1/services", "/api/v1/keys", "/api/v1/events", "/api/v1/health", "/api/v1/tokens"]


@contextmanager
def started(home: Path, redis_url: str, **extra: str) -> Iterator[tuple[Control, dict[str, str]]]:
    with controlled(home, redis_url, **extra) as control:
        token = control.run("shell", "-v0", text=SET_UP).split()[-1]
        control.run("collectstatic", "--noinput", "-v0")
        control.start()
        yield control, {"Authorization": f"Bearer {token}"}


def unavailable(answer: requests.Response) -> None:
    assert answer.status_code == 503, f"{answer.status_code} {answer.text[:300]}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["failure"] == "database_unavailable" and int(answer.headers["Retry-After"]) > 0


def honest_page(answer: requests.Response) -> None:
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert "text/html" in answer.headers["Content-Type"] and "The database" in answer.text


@pytest.mark.postgres
def test_postgresql_stops_and_comes_back(tmp_path: Path, redis_url: str) -> None:
    with postgres.server() as server, started(tmp_path, redis_url, DATABASE_URL=server.url) as (control, token):
        session = {"Cookie": "mc_session=" + "a" * 32}
        assert control.ask("GET", "/api/v1/services", headers=token).status_code == 200
        server.stop()
        # The first request finds a connection that has just been cut, the second one that can't be had.
        for _ in range(2):
            for path in READS:
                unavailable(control.ask("GET", path, headers=token))
            unavailable(control.ask("POST", "/api/v1/services", json={"name": "ledger"}, headers=token))
            unavailable(control.ask("GET", "/api/v1/services", headers=session))
            honest_page(control.ask("GET", "/", headers=session))
        assert control.ask("GET", "/health").status_code == 200
        assert control.ask("GET", "/ready").status_code == 503
        server.start()
        until(control.ready, 30, what="control ready again")
        assert control.ask("GET", "/api/v1/services", headers=token).status_code == 200


def test_sqlite_is_held_by_a_second_process(tmp_path: Path, redis_url: str) -> None:
    with started(tmp_path, redis_url) as (control, token):
        other = sqlite3.connect(tmp_path / "control.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            unavailable(control.ask("POST", "/api/v1/services", json={"name": "ledger"}, headers=token))
            assert control.ask("GET", "/api/v1/services", headers=token).status_code == 200, "readers need no lock"
        finally:
            other.rollback()
            other.close()
        made = control.ask("POST", "/api/v1/services", json={"name": "ledger"}, headers=token)
        assert made.status_code == 201, made.text


def test_sqlite_loses_its_file(tmp_path: Path, redis_url: str) -> None:
    with started(tmp_path, redis_url) as (control, token):
        for name in ("control.sqlite3", "control.sqlite3-wal", "control.sqlite3-shm"):
            path = tmp_path / name
            if path.exists():
                path.write_bytes(b"\xff" * path.stat().st_size)
        unavailable(control.ask("GET", "/api/v1/services", headers=token))
