"""From a URL to a broker, without a connection."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys

import pytest

from services.kit.events.transport.connect import BrokerError, connect
from services.kit.events.transport.kafka_wire import Address


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
    options = Address.of("kafkas://me:p%40ss@one:9092,two:9093?sasl=SCRAM-SHA-256").options
    assert options["bootstrap_servers"] == ["one:9092", "two:9093"]
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", "p@ss")
    assert Address.of("kafka://one:9092").options == {
        "bootstrap_servers": ["one:9092"],
        "security_protocol": "PLAINTEXT",
    }
    with pytest.raises(BrokerError):
        Address.of("kafka://one:9092?acks=0")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h/0?ssl_ca_certs=ca.pem", "rediss://"),
        ("rediss://h/0?cafile=ca.pem", "ssl_ca_certs"),
        ("rediss://h/0?ssl_cert_req=none", "ssl_cert_reqs"),
        ("amqp://h/?cafile=ca.pem", "amqps://"),
        ("amqps://h/?no_verify_ssl=1", "verify"),
        ("amqps://h/?verify=no", "required or none"),
        ("amqps://h/?cafile=/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("amqps://h/?certfile=/nowhere/me.pem", "/nowhere/me.pem"),
        ("amqps://h/?keyfile=/nowhere/me.key", "certfile"),
        ("amqp://h/?heartbeat=soon", "whole seconds"),
        ("amqp:///", "host"),
        ("kafka://one:9092?verify=none", "kafkas://"),
        ("kafkas://one:9092?sasl=OAUTHBEARER", "SCRAM-SHA-256"),
        ("kafka://one:9092?sasl=PLAIN", "user:password"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused_by_name(url: str, words: str) -> None:
    with pytest.raises(BrokerError, match=re.escape(words)):
        connect(url)


def test_a_certificate_is_checked_unless_the_url_says_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    checked = Address.of("kafkas://one:9092").options["ssl_context"]
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert not caplog.records
    believing = Address.of("kafkas://one:9092?verify=none").options["ssl_context"]
    assert (believing.verify_mode, believing.check_hostname) == (ssl.CERT_NONE, False)
    assert "isn't checked" in caplog.text
