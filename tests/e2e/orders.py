"""A service for incidents: it says nothing of itself by OTLP, and can be slow, broken on a path, hung or killed.

``python -m tests.e2e.orders PORT`` serves it. ``GET /_be?slow=SECONDS&broken=PATH`` changes how it is from then on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import requests

from tests.waiting import listening, until

ROOT = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    """Answers 200 to anything, unless it was told to be otherwise."""

    protocol_version = "HTTP/1.1"
    slow: ClassVar[float] = 0.0
    broken: ClassVar[str] = ""
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        here = type(self)
        status = 200
        if path.path == "/_be":
            wishes = parse_qs(path.query)
            here.slow = float(wishes.get("slow", ["0"])[0])
            here.broken = wishes.get("broken", [""])[0]
        elif path.path != "/health":
            time.sleep(here.slow)
            if here.broken and path.path.startswith(here.broken):
                # A bad deploy is rarely bad for everybody, nor bad enough for the breaker.
                here.asked += 1
                status = 500 if here.asked % 3 == 0 else 200
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class Instance:
    """One process of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve, and return once it does."""
        if self._process is None:
            self._process = subprocess.Popen([sys.executable, "-m", "tests.e2e.orders", str(self.port)], cwd=ROOT)
            until(lambda: listening(self.port), 30, what="the stand-in listening")

    def kill(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def be(self, slow: float = 0.0, broken: str = "") -> None:
        """Slow for so many seconds, or broken on a path; without either, well."""
        requests.get(
            f"http://127.0.0.1:{self.port}/_be", params={"slow": str(slow), "broken": broken}, timeout=10
        ).raise_for_status()


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
