"""What the environment says of whom may be called."""

from __future__ import annotations

import pytest

from apps.lib.addresses import Guard
from missioncontrol import guard
from services.kit import env


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*guard.ENGINES, "MC_HOST", "MC_LOOPBACK_UPSTREAMS", "MC_UPSTREAM_ALLOW", "MC_UPSTREAM_DENY"):
        monkeypatch.delenv(name, raising=False)


def here(found: Guard) -> Guard:
    return Guard(found.policy, lambda address: address == "192.168.1.4")


@pytest.mark.parametrize("port", [8000, 8080, 4318, 8123, 6390])
def test_control_gateway_collector_and_engines_are_closed(port: int) -> None:
    found = here(guard.read())
    assert found.refusal("127.0.0.1", port) and found.refusal("::1", port) and found.refusal("192.168.1.4", port)
    assert not found.refusal("10.0.0.4", port)


def test_ports_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_CONTROL_PORT", "9001")
    found = here(guard.read())
    assert found.refusal("127.0.0.1", 9001) and not found.refusal("127.0.0.1", 8000)


def test_other_loopback_ports_are_open_while_nobody_else_can_reach_us(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not guard.read().refusal("127.0.0.1", 9000)
    for host in ("0.0.0.0", "::", "192.168.1.4", "mc.example.org"):  # noqa: S104
        monkeypatch.setenv("MC_HOST", host)
        assert guard.read().refusal("127.0.0.1", 9000)
        assert not guard.read().refusal("127.0.0.1", 7101), "the fleet lives there"
    monkeypatch.setenv("MC_LOOPBACK_UPSTREAMS", "1")
    assert not guard.read().refusal("127.0.0.1", 9000)


def test_engines_by_url_are_closed_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@localhost/name")
    monkeypatch.setenv("REDIS_URL", "rediss://:p@10.0.0.9")
    monkeypatch.setenv("CLICKHOUSE_URL", "https://no-such-host.invalid:8443")
    monkeypatch.setenv("AMQP_URL", "amqp://u:p@10.0.0.7/")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "10.0.0.5:9093, 10.0.0.6")
    found = here(guard.read())
    assert found.refusal("10.0.0.7", 5672) and found.refusal("10.0.0.5", 9093) and found.refusal("10.0.0.6", 9092)
    assert found.refusal("192.168.1.4", 5432), "PostgreSQL here listens on more than loopback"
    assert found.refusal("10.0.0.9", 6379) and not found.refusal("10.0.0.8", 6379)
    assert not found.refusal("127.0.0.1", 6390), "no embedded Redis"


@pytest.mark.parametrize("name", ["MC_UPSTREAM_ALLOW", "MC_UPSTREAM_DENY"])
def test_a_list_that_is_none_is_said_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "10.0.0.0/8, elsewhere")
    with pytest.raises(env.EnvError, match=name):
        guard.read()
