"""The collector's own figures: as JSON for the page, as Prometheus text for anybody's scraper. Pure."""

from __future__ import annotations

from typing import Any

from apps.telemetry.collector.ingest import Ingest


def statistics(ingest: Ingest, in_flight: int) -> dict[str, Any]:
    """Everything counted since the start; durations in seconds, sizes in bytes."""
    counts, tally = ingest.counts, ingest.buffer.tally
    return {
        "requests": counts.requests,
        "received_bytes": counts.received_bytes,
        "accepted": dict(counts.accepted),
        "rejected": dict(counts.rejected),
        "refused": dict(counts.refused),
        "truncated_values": ingest.traces.counter.truncated + ingest.metrics.counter.truncated,
        "left_out_attributes": ingest.traces.counter.left_out + ingest.metrics.counter.left_out,
        "in_flight_bytes": in_flight,
        "buffered_bytes": ingest.buffer.held,
        "stored_rows": tally.stored_rows,
        "stored": dict(tally.tables),
        "dropped": {
            "buffer_full": tally.refused_full,
            "clickhouse_away": tally.refused_away,
            "clickhouse_rejected": tally.refused_rejected,
            "fault": tally.refused_fault,
        },
        "repeated_exports": ingest.exports.repeated,
        "forgotten_exports": ingest.exports.forgotten,
        "remembered_exports": len(ingest.exports),
        "inserts": tally.inserts,
        "failed_inserts": tally.failed_inserts,
        "doubtful_inserts": tally.doubtful_inserts,
        "restarts": tally.restarts,
        "trouble": ingest.buffer.trouble(),
        "insert_seconds": round(tally.insert_seconds, 6),
        "last_insert_seconds": round(tally.last_insert_seconds, 6),
        "last_stored_at": tally.last_stored_at,
    }


_METRICS = (
    ("requests", "requests_total", "counter", ""),
    ("received_bytes", "received_bytes_total", "counter", ""),
    ("accepted", "accepted_total", "counter", "signal"),
    ("rejected", "rejected_total", "counter", "signal"),
    ("refused", "refused_requests_total", "counter", "failure"),
    ("truncated_values", "truncated_values_total", "counter", ""),
    ("left_out_attributes", "left_out_attributes_total", "counter", ""),
    ("in_flight_bytes", "in_flight_bytes", "gauge", ""),
    ("buffered_bytes", "buffered_bytes", "gauge", ""),
    ("stored", "stored_rows_total", "counter", "table"),
    ("dropped", "dropped_rows_total", "counter", "reason"),
    ("repeated_exports", "repeated_exports_total", "counter", ""),
    ("forgotten_exports", "forgotten_exports_total", "counter", ""),
    ("remembered_exports", "remembered_exports", "gauge", ""),
    ("inserts", "inserts_total", "counter", ""),
    ("failed_inserts", "failed_inserts_total", "counter", ""),
    ("doubtful_inserts", "doubtful_inserts_total", "counter", ""),
    ("restarts", "restarts_total", "counter", ""),
    ("insert_seconds", "insert_seconds_total", "counter", ""),
    ("last_insert_seconds", "last_insert_seconds", "gauge", ""),
)


def prometheus(values: dict[str, Any]) -> str:
    """``values`` in the text exposition format. Label values are our own slugs and table names."""
    lines = []
    for name, metric, kind, label in _METRICS:
        if name not in values:
            continue
        lines.append(f"# TYPE mc_collector_{metric} {kind}")
        value = values[name]
        if label:
            lines += [f'mc_collector_{metric}{{{label}="{key}"}} {number}' for key, number in sorted(value.items())]
        else:
            lines.append(f"mc_collector_{metric} {value}")
    return "\n".join(lines) + "\n"
