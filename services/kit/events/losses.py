"""What a transport met, as counters: whoever pumps or consumes by it tells now and then."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from opentelemetry import metrics

from .transport.base import Stats, Transport

meter = metrics.get_meter(__name__)
_COUNTERS = {
    "trimmed": meter.create_counter("mc.bus.trimmed", description="Events that left the bounded log"),
    "lost": meter.create_counter("mc.bus.lost", description="Events that left the log before some group had read them"),
    "malformed": meter.create_counter("mc.bus.malformed", description="Entries of the bus that were no events"),
    "unrouted": meter.create_counter("mc.bus.unrouted", description="Published events that no queue took"),
    "late": meter.create_counter("mc.bus.late", description="Deliveries settled after their partition had been lost"),
    "breaks": meter.create_counter("mc.bus.breaks", description="Times that reading was cut off, or a group forgotten"),
}
_told: WeakKeyDictionary[Transport, Stats] = WeakKeyDictionary()
"""What was counted of each transport already: one may serve a pump and several consumers."""


def tell(transport: Transport) -> None:
    """Count what has come since the last time."""
    now, before = transport.stats(), _told.get(transport, Stats())
    _told[transport] = now
    for name, counter in _COUNTERS.items():
        if grown := getattr(now, name) - getattr(before, name):
            counter.add(grown)
