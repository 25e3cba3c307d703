"""Where a secret comes from, and what a malformed setting is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.kit import env

NAME = "MC_FLEET_TOKEN"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (NAME, f"{NAME}_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MC_HOME", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / NAME.lower()).write_text("made at the first start\n")
    return tmp_path


def test_a_variable_goes_before_a_named_file_and_that_before_the_first_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert env.secret(NAME) == "made at the first start"
    (home / "mounted").write_text("mounted\n")
    monkeypatch.setenv(f"{NAME}_FILE", str(home / "mounted"))
    assert env.secret(NAME) == "mounted"
    monkeypatch.setenv(NAME, "given")
    assert env.secret(NAME) == "given"


def test_a_file_that_is_named_and_lacks_is_never_made_up_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{NAME}_FILE", str(home / "mounted"))
    with pytest.raises(ValueError, match=f"{NAME} is not set and .*/mounted can't be read"):
        env.secret(NAME)
    (home / "mounted").write_text("\n")
    with pytest.raises(ValueError, match=f"/mounted is empty; it should hold {NAME}"):
        env.secret(NAME)


@pytest.mark.parametrize(
    ("value", "says"), [("fast", "must be a number, not 'fast'"), ("-1", "must be between 0 and 5"), ("9", "not 9")]
)
def test_a_number_out_of_its_bounds_is_named(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_OTLP_PATIENCE", value)
    with pytest.raises(env.EnvError, match=says):
        env.number("MC_OTLP_PATIENCE", 1.0, high=5.0)


def test_a_collector_elsewhere_is_shown_the_fleet_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env.otlp_headers("http://127.0.0.1:4318") == {}
    assert env.otlp_headers("https://collector.example:4318") == {"Authorization": "Bearer made at the first start"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=north%20one, x-key=k")
    assert env.otlp_headers("https://collector.example:4318") == {"x-tenant": "north one", "x-key": "k"}


def test_the_default_broker_is_the_one_that_is_named_and_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MC_BUS_DEFAULT", *env.BROKERS.values()):
        monkeypatch.delenv(name, raising=False)
    assert env.bus_url() == env.redis_url()
    monkeypatch.setenv("MC_BUS_DEFAULT", "kafka")
    with pytest.raises(env.EnvError, match="MC_BUS_DEFAULT is kafka, but KAFKA_BOOTSTRAP_SERVERS is not set"):
        env.bus_url()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "one:9092,two:9092")
    assert env.bus_url() == "kafka://one:9092,two:9092"
    monkeypatch.setenv("MC_BUS_DEFAULT", "rabbitmq")
    monkeypatch.setenv("AMQP_URL", "amqps://u:p@rabbit/")
    assert env.bus_url() == "amqps://u:p@rabbit/"
    monkeypatch.setenv("MC_BUS_DEFAULT", "pigeons")
    with pytest.raises(env.EnvError, match="must be redis, rabbitmq, kafka, not 'pigeons'"):
        env.bus_url()
