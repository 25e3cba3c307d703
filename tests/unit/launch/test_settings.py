from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from missioncontrol.launch import redisconf
from missioncontrol.launch import settings as environment
from missioncontrol.launch.processes import GATEWAY, STATE, table
from missioncontrol.launch.report import Stop
from missioncontrol.launch.settings import PORTS, Settings
from tests.waiting import free_port


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*PORTS, "MC_HOST", "MC_PROCESSES", "REDIS_URL", "CLICKHOUSE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MC_HOME", str(tmp_path))
    monkeypatch.setenv("MC_VENV", sys.prefix)


def test_the_defaults_are_those_of_the_design() -> None:
    settings = environment.read()
    assert settings.ports == PORTS
    assert settings.host == "127.0.0.1"
    assert settings.own_redis
    assert settings.own_clickhouse


def test_a_url_replaces_an_engine_and_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/3")
    monkeypatch.setenv("CLICKHOUSE_URL", "http://elsewhere:8123")
    settings = environment.read()
    assert {"MC_REDIS_PORT", "MC_CLICKHOUSE_PORT"}.isdisjoint(settings.ports)
    names = [process.name for process in table(settings, "")]
    assert {"redis", "clickhouse"}.isdisjoint(names)
    assert settings.children_env()["REDIS_URL"] == "redis://elsewhere:6379/3"


def test_what_faces_clients_starts_last_and_so_stops_first() -> None:
    rows = table(environment.read(), "/usr/bin/redis-server")
    ranks = [row.rank for row in rows]
    assert ranks == sorted(ranks)
    assert rows[0].rank == STATE
    assert [row.name for row in rows if row.rank == GATEWAY] == ["gateway"]


def test_redis_is_on_loopback_whatever_the_host_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_HOST", "0.0.0.0")  # noqa: S104
    settings = environment.read()
    text = redisconf.configuration(settings.home / "redis", settings.ports["MC_REDIS_PORT"], "secret")
    assert "bind 127.0.0.1" in text.splitlines()
    assert settings.reach == "127.0.0.1"


def test_only_the_named_processes_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_PROCESSES", "gateway, collector")
    assert [row.name for row in table(environment.read(), "")] == ["collector", "gateway"]
    monkeypatch.setenv("MC_PROCESSES", "gatewya")
    with pytest.raises(Stop, match="MC_PROCESSES names gatewya, which is none of redis, clickhouse"):
        table(environment.read(), "")


def test_children_write_byte_code_and_keep_what_the_caller_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    monkeypatch.setenv("MC_GATEWAY_WORKERS", "4")
    env = environment.read().children_env()
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert env["MALLOC_ARENA_MAX"] == "8"
    assert env["MC_GATEWAY_WORKERS"] == "4"
    assert env["MC_GATEWAY_PORT"] == "8080"


def test_no_proxy_of_the_users_stands_between_our_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "corp.example, ::1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    known = environment.read().children_env()
    assert known["no_proxy"] == known["NO_PROXY"] == "corp.example,::1,127.0.0.1,localhost"
    assert known["http_proxy"] == "http://127.0.0.1:9", "what is called elsewhere goes as the user says"


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80 80"])
def test_a_port_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MC_AEGIS_PORT", value)
    with pytest.raises(Stop, match="MC_AEGIS_PORT"):
        environment.read()


def free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PORTS:
        monkeypatch.setenv(name, str(free_port()))


def test_every_taken_port_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        first, second = one.getsockname()[1], two.getsockname()[1]
        monkeypatch.setenv("MC_CONTROL_PORT", str(first))
        monkeypatch.setenv("MC_MINT_PORT", str(second))
        with pytest.raises(Stop, match=rf"{first} \(MC_CONTROL_PORT\) and {second} \(MC_MINT_PORT\) are taken"):
            environment.check_ports(environment.read())
        monkeypatch.setenv("MC_PROCESSES", "redis,gateway")
        environment.check_ports(environment.read())


def test_a_port_left_in_time_wait_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    settings: Settings = environment.read()
    port = settings.ports["MC_CONTROL_PORT"]
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = server.accept()
        accepted.close()  # the server closes first, so TIME_WAIT is on its side
        assert client.recv(1) == b""
    environment.check_ports(settings)


def test_a_host_of_another_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch)
    monkeypatch.setenv("MC_HOST", "192.0.2.1")
    with pytest.raises(Stop, match=r"MC_HOST is 192\.0\.2\.1, which is no address of this machine"):
        environment.check_ports(environment.read())


def test_a_server_elsewhere_without_a_password_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    assert environment.open_engines() == []
    monkeypatch.setenv("REDIS_URL", "redis://cache.example.org:6379/0")
    monkeypatch.setenv("CLICKHOUSE_URL", "http://reader@192.0.2.1:8123")
    monkeypatch.setenv("DATABASE_URL", "postgres://mc@localhost/mc")
    assert environment.open_engines() == ["REDIS_URL", "CLICKHOUSE_URL"]
    monkeypatch.setenv("REDIS_URL", "redis://:secret@cache.example.org:6379/0")
    monkeypatch.setenv("CLICKHOUSE_URL", "http://reader@[::1]:8123")
    assert environment.open_engines() == []
