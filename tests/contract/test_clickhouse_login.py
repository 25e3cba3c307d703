"""The embedded ClickHouse from another process of this machine: without the secret it tells that it lives, no more."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest
import requests

from tests.clickhouse import Engine

ASK = "SELECT 'answered'"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("clickhouse")) as found:
        yield found


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def ask(engine: Engine, headers: dict[str, str], **rest: object) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(engine.address, data=ASK, headers=headers, timeout=10, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/ping", "/health", "/ready", "/replicas_status"])
def test_whether_it_lives_is_for_all_to_know(engine: Engine, path: str) -> None:
    assert requests.get(engine.address + path, timeout=5).status_code == 200


def test_without_a_secret_it_asks_for_one(engine: Engine) -> None:
    for answer in (
        ask(engine, {}),
        ask(engine, {"Authorization": "Bearer " + engine.password}),
        ask(engine, {"X-ClickHouse-Key": engine.password}),
        # Addresses end up in logs: a secret is not taken from there.
        ask(engine, {}, params={"user": "mission", "password": engine.password}),
        requests.get(engine.address, params={"query": ASK}, timeout=5),
        requests.post(f"{engine.address}/query", data=ASK, timeout=5),
    ):
        assert answer.status_code == 401
        assert answer.headers["X-ClickHouse-Exception-Code"] == "194"
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "answered" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        basic("mission", "wrong"),
        basic("default", ""),
        basic("default", "{password}"),
        basic("mission", "{password}x"),
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()},
        {"X-ClickHouse-User": "default"},
        {"X-ClickHouse-User": "mission", "X-ClickHouse-Key": ""},
    ],
)
def test_a_wrong_secret_opens_nothing_and_is_counted(engine: Engine, headers: dict[str, str]) -> None:
    before = requests.get(f"{engine.address}/health", timeout=5).json()["refused_logins"]
    answer = ask(engine, {name: value.replace("{password}", engine.password) for name, value in headers.items()})
    assert answer.status_code == 403
    assert answer.headers["X-ClickHouse-Exception-Code"] == "516"
    assert "answered" not in answer.text
    assert requests.get(f"{engine.address}/health", timeout=5).json()["refused_logins"] == before + 1


def test_either_way_of_showing_the_secret_opens_it(engine: Engine) -> None:
    shown = {"X-ClickHouse-User": "mission", "X-ClickHouse-Key": engine.password}
    for headers in (basic("mission", engine.password), shown):
        answer = ask(engine, headers)
        assert (answer.status_code, answer.text) == (200, "answered\n")
    with clickhouse_connect.get_client(dsn=engine.url) as client:
        assert client.command(ASK) == "answered"


def test_a_strangers_body_is_not_read(engine: Engine) -> None:
    """Who shows no secret makes it hold no memory: the answer comes before the body."""
    with socket.create_connection(("127.0.0.1", engine.port), 5) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_the_secret_is_in_no_command_line_and_in_no_log(engine: Engine) -> None:
    ask(engine, basic("mission", engine.password))
    ask(engine, basic("mission", engine.password + "x"))
    assert engine.password.encode() not in Path(f"/proc/{engine.pid}/cmdline").read_bytes()
    for path in engine.home.rglob("*"):
        assert not path.is_file() or engine.password.encode() not in path.read_bytes(), path
