"""Fixtures of a service's own database: one that is new to each test, of each kind that it may run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.postgres import cluster


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new folder' / 'store.sqlite3'}"
    server = request.getfixturevalue("postgres").replace("postgres://", "postgresql+psycopg://")
    name = f"t{abs(hash(tmp_path)):x}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(request.getfixturevalue("postgres")).removesuffix("/postgres") + f"/{name}"
