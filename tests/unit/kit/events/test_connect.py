"""From a URL to a broker, without a connection."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.kit.events.transport.connect import BrokerError, connect
from services.kit.events.transport.kafka_wire import Place, UrlError


async def test_a_url_says_which_broker() -> None:
    names = []
    for url in ("redis://h/0", "rediss://h/0", "amqp://h/", "amqps://h/", "kafka://h:1", "kafkas://h:1,i:2"):
        made = connect(url)
        names.append(made.name)
        await made.close()
    assert names == ["redis", "redis", "rabbitmq", "rabbitmq", "kafka", "kafka"]


@pytest.mark.parametrize("url", ["", "localhost:9092", "http://h/", "nats://h"])
def test_what_is_no_brokers_url_is_refused_with_what_would_be(url: str) -> None:
    with pytest.raises(BrokerError, match="kafka://"):
        connect(url)


def test_who_has_redis_needs_no_other_driver() -> None:
    program = (
        "import sys; sys.modules.update(aiormq=None, aiokafka=None)\n"
        "from services.kit.events.transport.connect import BrokerError, connect\n"
        "assert connect('redis://h/0').name == 'redis'\n"
        "for url in ('amqp://h/', 'kafka://h:1'):\n"
        "    try: connect(url)\n"
        "    except BrokerError as error: assert 'installed' in str(error)\n"
        "    else: raise SystemExit('not refused')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_kafkas_url_says_how_it_is_spoken_to() -> None:
    options = Place.of("kafkas://me:p%40ss@one:9092,two:9093?sasl=SCRAM-SHA-256").options
    assert options["bootstrap_servers"] == ["one:9092", "two:9093"]
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", "p@ss")
    assert Place.of("kafka://one:9092").options == {
        "bootstrap_servers": ["one:9092"],
        "security_protocol": "PLAINTEXT",
    }
    with pytest.raises(UrlError):
        Place.of("kafka://one:9092?acks=0")
