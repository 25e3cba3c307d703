"""Counts what the control plane's processes passed over on Redis (apps.lib.border), by name."""

from __future__ import annotations

from opentelemetry import metrics

from apps.lib.border import MALFORMED, REFUSED

_meter = metrics.get_meter(__name__)
_counters = {
    REFUSED: _meter.create_counter(REFUSED, description="Messages on Redis that nobody we know has sealed"),
    MALFORMED: _meter.create_counter(MALFORMED, description="Messages on Redis that do not read, keys of a wrong type"),
}


def count(metric: str, name: str) -> None:
    """One more."""
    _counters[metric].add(1, {"name": name})
