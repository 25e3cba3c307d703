"""Structured logs: one JSON object a line on stderr, with the trace they belong to."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from opentelemetry import trace


class JsonFormatter(logging.Formatter):
    """``time level service logger message`` and, inside a span, ``trace_id span_id``."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line; anything in the record that JSON can't carry is written as its repr."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = format(span.trace_id, "032x")
            line["span_id"] = format(span.span_id, "016x")
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=repr)


class Sparing(logging.Filter):
    """Lets the same message from the same place through once a minute, such as that a collector is away."""

    def __init__(self, period: float = 60.0) -> None:
        super().__init__()
        self._period = period
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is let through."""
        place = (record.pathname, record.lineno)
        if record.created - self._last.get(place, 0.0) < self._period:
            return False
        self._last[place] = record.created
        return True


class _NotOurs(logging.Filter):
    """uvicorn repeats, without its trace, an error that the problem handler has logged already."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Exception in ASGI application")


def configure(service: str, level: str) -> None:
    """Send every logger of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").addFilter(_NotOurs())
