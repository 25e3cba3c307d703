"""A small application for a stock WSGI server behind the gateway. ``/early…`` answers without reading its body."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

SEEN: list[str] = []


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Tell what arrived; ``/seen`` tells all paths that ever did."""
    path = environ["PATH_INFO"]
    about: dict[str, Any] = {"path": path, "consumer": environ.get("HTTP_X_CONSUMER", "")}
    if path == "/seen":
        about["seen"] = SEEN
    else:
        SEEN.append(path)
        if not path.startswith("/early"):
            about["body"] = environ["wsgi.input"].read().decode("latin-1")
    data = json.dumps(about).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
