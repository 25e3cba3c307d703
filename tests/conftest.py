"""Fixtures that more than one suite uses (real engines on free ports, each in its own temporary folder),
and the rules of every run: what can't run is named, and in CI nothing may be left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import SyncToAsync
from django.db import connections

from tests import machine
from tests.clickhouse import Engine
from tests.fleet import Fleet, fleet
from tests.redis_server import RedisServer

__all__ = ["fleet"]

DATABASE_FIXTURES = {"db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--orm", action="store_true", help="only the tests that use the database")
    parser.addoption("--alone", action="store_true", help="only those that need the whole system or the machine alone")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the whole system by the fixture it asks for; then keep what the options ask for."""
    for item in items:
        if "fleet" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.fleet)
    for option, wanted in (("--orm", _uses_database), ("--alone", _needs_to_be_alone)):
        if config.getoption(option):
            config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
            items[:] = [item for item in items if wanted(item)]


def _needs_to_be_alone(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(marker) for marker in ("solo", "fleet", "browser"))


def _uses_database(item: pytest.Item) -> bool:
    asked = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("django_db") is not None or bool(DATABASE_FIXTURES & asked)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test whose engine this machine lacks says so; it isn't silently passed over."""
    for marker in item.iter_markers():
        reason = machine.lacks(marker.name)
        if reason:
            pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a test that was skipped has failed; a failure with the fleet brings the fleet's last words."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI", "").lower() in {"1", "true"}:
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"left out, and in CI nothing may be: {reason}"
    system = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(system, Fleet):
        report.sections.append(("the fleet's last words", system.logs()))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave the counts, and the names of what couldn't run, for the runner of all suites (tests/suites.py)."""
    path = os.environ.get("MC_TEST_COUNTS")
    if not path or hasattr(config, "workerinput"):
        return
    stats = terminalreporter.stats
    missed = {report.nodeid: str(report.longrepr[2]) for report in stats.get("skipped", [])}
    counts = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    with Path(path).open("a") as file:
        file.write(json.dumps({"counts": counts, "missed": missed}) + "\n")


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis for this test process, on loopback, with nothing kept; its URL, which holds the password."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_process: str) -> str:
    """The URL of a real Redis, empty at the start of the test."""
    with redis.Redis.from_url(redis_process) as client:
        client.flushall()
    return redis_process


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded ClickHouse in a process of its own, or the server that CLICKHOUSE_URL names; its URL."""
    given = os.environ.get("CLICKHOUSE_URL", "")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("clickhouse")
    with Engine(folder) as engine:
        yield engine.url


@pytest.fixture(autouse=True)
def _orm_thread_lets_go() -> Iterator[None]:
    """Asynchronous code reaches the ORM on one thread (apps.lib.aio), whose connection no test would else close:
    PostgreSQL then refuses to drop the test database."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result(10)
