"""Every refusal of the control process is counted by its failure, whichever layer refuses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from django.test import Client
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel, Request

from apps.lib import refused
from missioncontrol import refusals


class Meter:
    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.counter = MeterProvider([self.reader], shutdown_on_exit=False).get_meter("t").create_counter("c")

    def counts(self) -> Counter[str]:
        data = self.reader.get_metrics_data()
        found: Counter[str] = Counter()
        for point in data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points if data else ():
            assert set(point.attributes) == {"failure"}
            found[point.attributes["failure"]] += point.value
        return found


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    made = Meter()
    monkeypatch.setattr(refused, "_refused", made.counter)
    return made


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks for one test: what was there before comes back after it."""
    for owner, name in (
        (HTTPChannel, "lineLengthExceeded"),
        (HTTPChannel, "_respondToBadRequestAndDisconnect"),
        (HTTPChannel, "allHeadersReceived"),
        (Request, "handleContentChunk"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    refusals.install()


@pytest.mark.parametrize(
    ("sent", "failure"),
    [
        (b"garbage\r\n\r\n", "malformed"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", "uri_too_long"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", "headers_too_large"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", "body_too_large"),
    ],
)
def test_what_twisted_refuses_is_counted_once(hooks: None, meter: Meter, sent: bytes, failure: str) -> None:
    channel = HTTPChannel()
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(sent)
    channel.dataReceived(b"more that nobody reads\r\n\r\n")
    assert failure.encode() in transport.value()
    assert meter.counts() == {failure: 1}
    channel.setTimeout(None)


def test_what_django_and_the_rest_framework_refuse_is_counted(db: Any, meter: Meter) -> None:
    client = Client()
    assert client.get("/api/v1/services").status_code == 401
    assert client.get("/api/v1/services", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    assert client.get("/api/v1/no-such-thing/a").status_code == 404
    assert client.get("/api/v1/no-such-thing/b").status_code == 404
    assert client.get("/health").status_code == 200
    assert meter.counts() == {"not_authenticated": 2, "not_found": 2}
