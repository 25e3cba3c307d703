"""The gateway's counts: every request once, bounded, and as OTLP that anybody can read."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA

from apps.gateway.core.edge import HIGHEST, LOWEST, MAX_SERIES, METRIC, OTHER, Edge, Encoder, Labels, bucket

OK = Labels("mint", "mint-api", "acme", 200, "")


def point(body: bytes, index: int = 0) -> tuple[dict[str, str | int], object]:
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (metric,) = resource.scope_metrics[0].metrics
    assert (metric.name, metric.unit) == (METRIC, "s")
    assert metric.exponential_histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
    found = metric.exponential_histogram.data_points[index]
    values = {each.key: each.value.string_value or each.value.int_value for each in found.attributes}
    return values, found


@pytest.mark.parametrize(
    ("seconds", "index"),
    [
        (1.0, -1),
        (1.0000001, 0),
        (2 ** (1 / 8) - 1e-9, 0),
        (2.0, 7),
        (0.001, -80),
        (0.0, LOWEST),
        (-1.0, LOWEST),
        (1e9, HIGHEST),
    ],
)
def test_a_duration_falls_into_its_otlp_bucket(seconds: float, index: int) -> None:
    assert bucket(seconds) == index


def test_what_is_taken_is_counted_once() -> None:
    edge = Edge()
    edge.tally(OK).add(0.5)
    edge.tally(OK).add(0.25)
    (taken,) = edge.take().values()
    assert (taken.count, taken.total) == (2, 0.75)
    assert not edge and edge.take() == {}


def test_a_point_is_an_exponential_histogram_with_its_names() -> None:
    edge = Edge()
    for seconds in (0.001, 0.001, 3.0):
        edge.tally(OK).add(seconds)
    edge.tally(Labels("", "", "", 404, "no_route")).add(0.0001)
    encoder = Encoder({"service.name": "gateway"}, "scope")
    body = encoder.encode(edge.take(), 5, 2**62)
    names, first = point(body)
    assert names == {
        "mc.service": "mint", "mc.route": "mint-api", "mc.consumer": "acme", "http.response.status_code": 200,
    }  # fmt: skip
    assert (first.start_time_unix_nano, first.time_unix_nano) == (5, 2**62)
    assert (first.count, first.scale, first.sum) == (3, 3, pytest.approx(3.002))
    counts = {first.positive.offset + place: n for place, n in enumerate(first.positive.bucket_counts) if n}
    assert counts == {bucket(0.001): 2, bucket(3.0): 1}
    names, _ = point(body, 1)
    assert names == {"http.response.status_code": 404, "error.type": "no_route"}


def test_no_traffic_is_a_point_that_says_so() -> None:
    names, empty = point(Encoder({}, "scope").encode({}, 1, 2))
    assert names == {} and empty.count == 0 and not empty.positive.bucket_counts


def test_a_flood_of_names_is_bounded_and_loses_names_and_no_count() -> None:
    edge = Edge()
    for number in range(MAX_SERIES + 50):
        edge.tally(OK._replace(consumer=f"c{number}")).add(0.1)
    for number in range(2 * MAX_SERIES):
        edge.tally(OK._replace(route=f"r{number}", status=503, failure="breaker_open")).add(0.1)
    taken = edge.take()
    assert len(taken) <= 2 * MAX_SERIES + 10
    assert sum(tally.count for tally in taken.values()) == 3 * MAX_SERIES + 50
    assert taken[OK._replace(consumer=OTHER)].count == 50
    assert taken[Labels(OTHER, OTHER, OTHER, 500, "")].count >= MAX_SERIES - 100
    assert edge.overflowed == 2 * MAX_SERIES + 50
