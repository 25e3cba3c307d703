"""A real gateway for tests: its processes, its configuration in a real Redis, upstreams, and raw sockets to it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis

from apps.gateway.core import config
from apps.lib import wire
from apps.lib.border import Border
from apps.lib.messages import WorkerBeat
from missioncontrol import keys
from tests.waiting import free_ports, listening, until

ROOT = Path(__file__).resolve().parents[2]
PEPPER = b"pepper-for-tests"
FLEET_TOKEN = "fleet-token-for-tests"
KEY = "mc_testtest_" + "k" * 40


def hashed(key: str) -> str:
    return hmac.new(PEPPER, key.encode(), hashlib.sha256).hexdigest()


def signed(document: bytes, at: float | None = None) -> bytes:
    """``document`` as the control plane of this test run signs it."""
    return keys.signer().close(wire.CONFIG_CURRENT, document, time.time() if at is None else at)


def border() -> Border:
    """What the control plane of this test run says and believes."""
    return Border(keys.wire(), lambda metric, name: None)


class Processes:
    """What a test started, stopped again at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        self.all.append(process)
        return process

    def upstream(self, port: int, name: str = "one") -> subprocess.Popen[bytes]:
        process = self.start(f"upstream-{name}", "-m", "tests.wire.upstreams", str(port), name, str(self.folder))
        until(lambda: listening(port), 10, what=f"upstream {name}")
        return process

    def stop(self) -> None:
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.all:
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


class Gateway:
    """A running gateway and the document it serves."""

    def __init__(self, folder: Path, redis_url: str, *, workers: int = 1) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.workers = workers
        self.processes = Processes(folder)
        self.port, self.upstream_port, self.second_port, self.otlp_port, self.jwks_port = free_ports(5)
        self.process: subprocess.Popen[bytes] | None = None
        self.revision = 0
        self.document = config.Document(
            revision=0,
            created_at=0.0,
            services=(config.Service("up", (config.Instance("one", f"http://127.0.0.1:{self.upstream_port}"),)),),
            routes=(
                config.Route("up", "up", "/up"),
                config.Route("open", "up", "/open", auth=()),
                config.Route("get", "up", "/get", methods=("GET", "HEAD"), auth=()),
            ),
            consumers=(config.Consumer("tester"),),
            keys=(config.Key(hashed(KEY), KEY[:11], "tester"),),
        )

    # -- configuration ------------------------------------------------------------------------------

    def publish(self, **changes: Any) -> config.Document:
        """Put the document, changed so, where the control plane puts it; wait until every worker serves it."""
        self.announce(**changes)
        if self.process is not None:
            until(lambda: self.acknowledged() >= self.workers, 5, every=0.02, what="all workers on the revision")
        return self.document

    def announce(self, **changes: Any) -> None:
        """Publish without waiting."""
        self.revision += 1
        fields = {name: getattr(self.document, name) for name in self.document.__struct_fields__}
        self.document = config.Document(**{**fields, "revision": self.revision, "created_at": time.time(), **changes})
        with self.redis() as client:
            client.set(wire.CONFIG_CURRENT, signed(config.encode(self.document)))
            client.publish(wire.CONFIG_CHANNEL, str(self.revision))

    def service(self, **changes: Any) -> tuple[config.Service, ...]:
        """The one service, changed."""
        old = self.document.services[0]
        fields = {name: getattr(old, name) for name in old.__struct_fields__}
        return (config.Service(**{**fields, **changes}),)

    def both(self) -> tuple[config.Instance, ...]:
        """Two instances."""
        return (
            config.Instance("one", f"http://127.0.0.1:{self.upstream_port}"),
            config.Instance("two", f"http://127.0.0.1:{self.second_port}"),
        )

    def workers_seen(self) -> dict[str, dict[str, Any]]:
        # Not decoded: a test may have written there what is no text.
        with redis.Redis.from_url(self.redis_url) as client:
            beats = border().open_all(WorkerBeat, client.hgetall(wire.GATEWAY_WORKERS), wire.GATEWAY_WORKERS)
            return {name: msgspec.to_builtins(beat) for name, beat in beats.items()}

    def acknowledged(self) -> int:
        return sum(beat["revision"] == self.revision for beat in self.workers_seen().values())

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, decode_responses=True)

    # -- life ---------------------------------------------------------------------------------------

    def start(self, **env: str) -> None:
        (self.folder / "home").mkdir(exist_ok=True)
        self.process = self.processes.start("gateway", "-m", "missioncontrol.gateway", env=self.environment() | env)
        until(self.answers, 30, what="the gateway")

    def environment(self) -> dict[str, str]:
        """What its process is told."""
        return {
            "MC_HOME": str(self.folder / "home"),
            "MC_KEY_PEPPER": PEPPER.decode(),
            "MC_FLEET_TOKEN": FLEET_TOKEN,
            "MC_GATEWAY_PORT": str(self.port),
            "MC_GATEWAY_WORKERS": str(self.workers),
            "REDIS_URL": self.redis_url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.otlp_port}",
        }

    def answers(self) -> bool:
        return listening(self.port) and self.get("/-/health")[0] == 200

    def wait_ready(self) -> None:
        until(lambda: self.get("/-/ready")[0] == 200, 10, what="/-/ready")

    def logs(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def worker_pids(self) -> list[int]:
        return [beat["pid"] for beat in self.workers_seen().values()]

    # -- requests -----------------------------------------------------------------------------------

    def connect(self, timeout: float = 5.0) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout))

    def get(self, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(self.connect(20)) as connection:
            length = [f"Content-Length: {len(body)}"] if body else []
            connection.send(f"{method} {path} HTTP/1.1", "Host: gw", *length, *fields, body=body)
            return connection.read(method)

    def seen(self, port: int | None = None) -> dict[str, Any]:
        """What an upstream has seen, asked directly."""
        with contextlib.closing(Wire(socket.create_connection(("127.0.0.1", port or self.upstream_port), 5))) as direct:
            direct.send("GET /seen HTTP/1.1", "Host: x")
            return direct.read().json()


class Answer(tuple[int, dict[str, str], bytes]):
    """Status, fields (lower case; the last of a name) and body."""

    status = property(lambda self: self[0])
    fields = property(lambda self: self[1])
    body = property(lambda self: self[2])

    def json(self) -> Any:
        return json.loads(self[2])

    @property
    def failure(self) -> str:
        return str(self.json()["failure"])


class Wire:
    """A raw connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.raw_head = b""

    def close(self) -> None:
        self.sock.close()

    def send(self, *lines: str, body: bytes = b"") -> None:
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bool:
        data = self.sock.recv(65_536)
        self.buffer += data
        return bool(data)

    def read(self, method: str = "GET") -> Answer:
        """One whole answer, by its own framing."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(f"closed after {self.buffer!r}")
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.raw_head = head
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if method == "HEAD" or status in {204, 304} or status < 200:
            pass
        elif "content-length" in fields:
            body = self._exactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            while self.more():
                pass
            body, self.buffer = self.buffer, b""
        return Answer((status, fields, body))

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError(f"{size - len(self.buffer)} bytes short")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def skip(self, size: int) -> int:
        """Read and throw away until ``size`` bytes or the end came; how many came."""
        got, self.buffer = len(self.buffer), b""
        while got < size:
            data = self.sock.recv(1_048_576)
            if not data:
                break
            got += len(data)
        return got

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.buffer:
                if not self.more():
                    raise EOFError("a chunk is missing")
            size, self.buffer = self.buffer.split(b"\r\n", 1)
            data = self._exactly(int(size, 16) + 2)[:-2]
            if not data:
                return body
            body += data

    def closed(self, seconds: float = 5.0) -> bool:
        """Whether the other side closes within so long; what it still sends is thrown away."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


@contextlib.contextmanager
def running(folder: Path, redis_url: str, *, workers: int = 1, **env: str) -> Iterator[Gateway]:
    """A gateway with one upstream, serving its first revision."""
    gateway = Gateway(folder, redis_url, workers=workers)
    try:
        gateway.processes.upstream(gateway.upstream_port)
        gateway.publish()
        gateway.start(**env)
        gateway.wait_ready()
        yield gateway
    finally:
        gateway.processes.stop()
