"""OTLP over HTTP (opentelemetry.io/docs/specs/otlp), as a pure ASGI app.

Owns addresses, methods, media types, limits on size and time, and who may send. Protobuf traces and
metrics are taken; logs, JSON and gRPC have their places here and are refused by name until they come.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apps.lib import clock
from apps.lib.proof import Sender
from apps.telemetry.collector.buffer import PATIENCE, Buffer
from apps.telemetry.collector.exports import Export
from apps.telemetry.collector.ingest import Ingest
from apps.telemetry.collector.report import prometheus, statistics
from apps.telemetry.collector.store import Store
from services.kit.problem import CONTENT_TYPE, Problem, Refused
from services.kit.proof import FIELD as PROOF
from services.kit.proof import of as proof_of

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MIB = 1024 * 1024
SIGNALS = {"/v1/traces": "traces", "/v1/metrics": "metrics"}
LATER = {"/v1/logs": "logs", "/v1development/profiles": "profiles"}
PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds."""

    body: int = 16 * MIB
    unpacked: int = 64 * MIB
    in_flight: int = 96 * MIB
    """Of all request bodies together, as they come in and are unpacked; then the buffer's own bound counts."""
    body_seconds: float = 10.0
    """For a body to arrive, and one more for each ``pace`` bytes of it."""
    pace: int = 64 * 1024
    patience: float = PATIENCE
    """Longest wait for ClickHouse to take a request's rows."""


class HungUp(Exception):
    """The client left before its request was whole."""


class Collector:
    """The ASGI app. The store's schema is applied in the background; until then it is alive but not ready."""

    def __init__(
        self, store: Store, *, fleet_token: str, proof: str, version: str, keep_days: int, limits: Limits
    ) -> None:
        self.limits = limits
        self._store = store
        self._token = fleet_token.encode()
        self._proofs = [(Sender.OURS, proof.encode()), (Sender.FLEET, proof_of(fleet_token).encode())]
        self._version = version
        self._keep_days = keep_days
        self._started = clock.monotonic()
        self._in_flight = 0
        self._ingest: Ingest | None = None
        self._preparing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1002})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._ingest = Ingest(
                    Buffer(self._store.insert, patience=self.limits.patience),
                    unpacked_limit=self.limits.unpacked,
                    patience=self.limits.patience,
                    keep_days=self._keep_days,
                )
                self._prepare()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _prepare(self) -> None:
        self._preparing = asyncio.create_task(self._store.prepare(), name="schema")
        self._preparing.add_done_callback(self._prepared)

    def _prepared(self, task: asyncio.Task[None]) -> None:
        """What applies the schema died of a fault: it is started again."""
        if task.cancelled() or (fault := task.exception()) is None or self._ingest is None:
            return
        self._ingest.buffer.tally.restarts += 1
        log.error("what applies the schema died and is started again", exc_info=fault)
        asyncio.get_running_loop().call_later(1.0, self._prepare)

    async def _close(self) -> None:
        if self._preparing is not None and not self._preparing.done():
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        if self._ingest is not None:
            await self._ingest.buffer.close()
        await self._store.close()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path in SIGNALS:
            await self._export(SIGNALS[path], scope, receive, send)
        elif path in LATER:
            await self._refuse(send, Problem(404, "not_served", f"This collector does not take {LATER[path]} yet."))
        elif path not in {"/health", "/ready", "/stats", "/metrics"}:
            await self._refuse(send, Problem(404, "not_found", "Traces go to /v1/traces and metrics to /v1/metrics."))
        elif method not in {"GET", "HEAD"}:
            await self._refuse(send, Problem(405, "method_not_allowed", "Use GET here."), [(b"allow", b"GET")])
        else:
            await self._probe(path, send)

    async def _probe(self, path: str, send: Send) -> None:
        if path == "/ready" and (reason := self._unready()):
            await self._refuse(send, Problem(503, "telemetry_away", reason, retry_after=1))
            return
        if path == "/metrics":
            text = prometheus(self._statistics())
            await _respond(send, 200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")
            return
        body: dict[str, Any] = {
            "status": "ok",
            "service": "collector",
            "version": self._version,
            "uptime_s": round(clock.monotonic() - self._started, 1),
        }
        if path == "/stats":
            body |= self._statistics()
        await _respond(send, 200, json.dumps(body).encode(), "application/json")

    def _unready(self) -> str:
        """Why exports can't be stored now; empty when they can."""
        if self._ingest is None or not self._store.ready:
            return self._store.reason
        return self._ingest.buffer.trouble()

    def _statistics(self) -> dict[str, Any]:
        return {} if self._ingest is None else statistics(self._ingest, self._in_flight)

    async def _export(self, signal: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if scope["method"] != "POST":
                raise Refused(Problem(405, "method_not_allowed", "Send OTLP by POST."))
            sender = self._authenticate(scope, headers)
            _check_media_type(headers)
            if self._ingest is None:
                raise Refused(Problem(503, "starting", "The collector is starting.", retry_after=1))
            self._ingest.counts.requests += 1
            answer = await self._ingest.outcome(await self._take(self._ingest, signal, sender, headers, receive))
        except HungUp:
            return
        except Refused as error:
            if self._ingest is not None:
                self._ingest.counts.refused[error.problem.failure] += 1
            extra = [(b"allow", b"POST")] if error.problem.status == 405 else []
            if error.problem.status == 401:
                extra.append((b"www-authenticate", b'Bearer realm="mission-control"'))
            await self._refuse(send, error.problem, extra)
        else:
            await _respond(send, 200, answer, PROTOBUF)

    async def _take(
        self, ingest: Ingest, signal: str, sender: Sender, headers: dict[str, str], receive: Receive
    ) -> Export:
        """Read the body and hand its rows over; no byte of it is held afterwards."""
        hold = _Hold(self)
        try:
            body = await self._body(headers, receive, hold)
            ingest.counts.received_bytes += len(body)
            packing = headers.get("content-encoding", "").strip().lower()
            return ingest.take(signal, sender, body, packing, self.limits.in_flight - self._in_flight + len(body))
        finally:
            hold.release()

    def _authenticate(self, scope: Scope, headers: dict[str, str]) -> Sender:
        """Who sends. Loopback needs no token; a wrong one is refused from anywhere."""
        shown = headers.get(PROOF, "").encode()
        sender = next((who for who, proof in self._proofs if hmac.compare_digest(shown, proof)), Sender.ANYONE)
        given = headers.get("authorization", "")
        if given:
            kind, _, token = given.partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token):
                raise Refused(Problem(401, "bad_token", "The bearer token is not this fleet's token."))
            sender = max(sender, Sender.FLEET)
        elif not sender and not _loopback(scope):
            raise Refused(Problem(401, "no_token", "Send the fleet token as 'Authorization: Bearer <token>'."))
        return sender

    async def _body(self, headers: dict[str, str], receive: Receive, hold: _Hold) -> bytes:
        limit = self.limits.body
        too_large = Problem(413, "too_large", f"The body is larger than {limit} bytes; send less at once.")
        declared = headers.get("content-length", "")
        expected = int(declared) if declared.isdigit() and len(declared) < 20 else 0
        if expected > limit:
            raise Refused(too_large)
        if self._in_flight + expected > self.limits.in_flight:
            raise Refused(_full())
        parts: list[bytes] = []
        deadline = clock.monotonic() + self.limits.body_seconds
        while True:
            try:
                async with asyncio.timeout(deadline - clock.monotonic() + hold.size / self.limits.pace):
                    message = await receive()
            except TimeoutError:
                raise Refused(Problem(408, "body_timeout", "The body did not arrive in time.")) from None
            if message["type"] == "http.disconnect":
                raise HungUp
            part = message.get("body", b"")
            hold.add(len(part))
            if hold.size > limit:
                raise Refused(too_large)
            if self._in_flight > self.limits.in_flight:
                raise Refused(_full())
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _refuse(self, send: Send, problem: Problem, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        extra = list(headers or [])
        extra += [(name.lower().encode(), value.encode()) for name, value in problem.fields().items()]
        await _respond(send, problem.status, problem.encode(), CONTENT_TYPE, extra)


class _Hold:
    """The bytes of one request that are in memory, counted while they are."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.size = 0

    def add(self, size: int) -> None:
        self.size += size
        self._collector._in_flight += size

    def release(self) -> None:
        self._collector._in_flight -= self.size
        self.size = 0


def _full() -> Problem:
    return Problem(503, "collector_full", "Too many bytes are in flight; try again.", retry_after=1)


def _check_media_type(headers: dict[str, str]) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        raise Refused(
            Problem(415, "unsupported_media_type", f"OTLP as JSON is not taken yet; send protobuf ({PROTOBUF}).")
        )
    if kind != PROTOBUF:
        raise Refused(Problem(415, "unsupported_media_type", f"Content-Type must be {PROTOBUF}."))


def _loopback(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is None or ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


async def _respond(
    send: Send, status: int, body: bytes, media_type: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    head = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
