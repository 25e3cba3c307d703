"""The reference services as real processes, for every suite that needs them: started, asked, drained, killed."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from missioncontrol.launch import layout
from services.kit.events import keys
from services.kit.events.cloudevent import CloudEvent
from services.kit.events.signing import Ring
from tests.waiting import free_port, until

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("aegis", "covenant", "nexus", "mint")
CLIENTS = {"demo": "a-demo-secret-of-some-length"}


class Home:
    """A home for services: secrets, a bus, and where the gateway would be."""

    def __init__(self, folder: Path, redis_url: str, gateway_url: str = "http://127.0.0.1:9") -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        keep = folder / "secrets"
        keep.mkdir(parents=True)
        (keep / "mc_fleet_token").write_text(self.token)
        layout.make_bus_keys(folder)
        (keep / "nexus_api_key").write_text("mc_nexus000_" + secrets.token_hex(16))
        (keep / "aegis_clients.json").write_text(json.dumps(CLIENTS))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MC_", "OTEL_"))}
        self.env = inherited | {
            "MC_HOME": str(folder),
            "REDIS_URL": redis_url,
            "MC_GATEWAY_URL": gateway_url,
            "AEGIS_ISSUER": "http://localhost:8080/aegis",
            # Nobody collects here; what is exported must cost the service nothing.
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        }

    def signed(self, event: CloudEvent, by: str = "") -> CloudEvent:
        """The event as its source publishes it here, or somebody else does."""
        known = keys.parse((self.folder / "secrets" / "mc_bus_keys").read_text(), "the file")
        return Ring.of(known).sign(event, by or event.source)


class Process:
    """One service."""

    def __init__(self, home: Home, name: str, port: int | None = None, *, module: str = "", **env: str) -> None:
        self.home, self.name, self.module = home, name, module or f"services.{name}"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = home.env | {f"MC_{name.upper()}_PORT": str(self.port)} | env
        self.log = home.folder / f"{name}-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready: bool = True) -> Process:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module], cwd=ROOT, env=self.env, stdout=log, stderr=log
            )
        if ready:
            until(self._ready, 30, what=f"{self.name} is ready")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.said()}")
        return self.get("/ready").status_code == 200

    def call(self, method: str, path: str, *, consumer: str = "demo", fleet: bool = True, **rest: Any) -> Any:
        """One request, as the gateway would send it (``fleet``) or as a stranger would."""
        headers = {"X-Fleet-Token": self.home.token, "X-Consumer": consumer} if fleet else {}
        headers |= rest.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=rest.pop("timeout", 10), **rest)

    def get(self, path: str, **rest: Any) -> Any:
        """GET."""
        return self.call("GET", path, **rest)

    def post(self, path: str, body: Any, **rest: Any) -> Any:
        """POST JSON."""
        return self.call("POST", path, json=body, **rest)

    def kill(self) -> None:
        """kill -9, and start over when ``start`` is called again."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")[-3000:]
