from __future__ import annotations

from apps.gateway.core.metrics import BOUNDS, MAX_SERIES, OVERFLOW, Histogram, Metrics


def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_pass() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, 100.0):
        histogram.add(seconds)
    assert (histogram.buckets[0], histogram.buckets[1], histogram.buckets[-1]) == (2, 1, 1)
    assert histogram.count == 4


def test_series_are_bounded_and_the_rest_counts_together() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 50):
        metrics.request((f"r{number}", "s", "GET", 200)).add(0.1)
    assert len(metrics.durations) == MAX_SERIES + 1
    assert metrics.durations[OVERFLOW].count == 50
