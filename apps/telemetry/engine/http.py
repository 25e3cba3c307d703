"""ClickHouse's HTTP interface over the embedded engine, as a pure ASGI app: what clickhouse-connect speaks.

Owns limits, codings, headers and the mapping of refusals. Statements are for whoever shows the secret;
health is for all. It answers only to loopback names, and to nothing that a browser sends from another site.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_form

from apps.lib import clock
from apps.telemetry import coding
from apps.telemetry.engine.embedded import Answer, Embedded
from apps.telemetry.engine.errors import EngineError, refusal
from apps.telemetry.engine.login import REQUIRED, Login
from apps.telemetry.engine.request import Request, read
from services.kit.problem import CONTENT_TYPE, Problem

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MIB = 1024 * 1024
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


class HungUp(Exception):
    """The client left before its request was whole."""


class Interface:
    """The ASGI app. ``open_engine`` runs once, in the lifespan."""

    def __init__(
        self,
        open_engine: Callable[[], Embedded],
        login: Login,
        *,
        version: str,
        body_limit: int = 64 * MIB,
        unpacked_limit: int = 256 * MIB,
    ) -> None:
        self._open_engine = open_engine
        self._login = login
        self._engine: Embedded | None = None
        self._version = version
        self._started = clock.monotonic()
        self._body_limit = body_limit
        self._unpacked_limit = unpacked_limit
        self.held = 0
        """Body bytes in memory over all requests."""
        self.refused_logins = 0

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
                self._engine = await asyncio.to_thread(self._open_engine)
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self._engine is not None:
                    await asyncio.to_thread(self._engine.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        if why := _foreign(headers):
            await _problem(send, Problem(403, "not_allowed", why))
        elif path in {"/ping", "/health", "/ready", "/replicas_status"} and method in {"GET", "HEAD"}:
            await self._probe(path, send)
        elif path not in {"/", "/query"}:
            await _plain(send, 404, f"There is no handle {path}\n\nUse / or /ping for health checks.\n".encode(), [])
        elif method not in {"GET", "HEAD", "POST"}:
            await _plain(send, 405, b"Only GET and POST are served here.\n", [(b"allow", b"GET, POST")])
        elif refused := self._login.refusal(headers):
            self.refused_logins += 1
            await _refuse(send, refused, str(uuid.uuid4()))
        else:
            await self._statement(scope, headers, receive, send)

    async def _probe(self, path: str, send: Send) -> None:
        if path in {"/ping", "/replicas_status"}:
            await _plain(send, 200, b"Ok.\n", [])
        elif path == "/ready" and self._engine is None:
            await _problem(send, Problem(503, "starting", "The engine is opening its data.", retry_after=1))
        else:
            body: dict[str, Any] = {
                "status": "ok",
                "service": "clickhouse",
                "version": self._version,
                "uptime_s": round(clock.monotonic() - self._started, 1),
            }
            if self._engine is not None:
                body |= {"engine": self._engine.version, "pending": self._engine.pending(), "held_bytes": self.held}
                body |= {"refused_logins": self.refused_logins, "lost_blocks": self._engine.lost_blocks}
                body["broken_parts"] = self._engine.broken_parts
            await _plain(send, 200, json.dumps(body).encode(), [], b"application/json")

    async def _statement(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        query_id = str(uuid.uuid4())
        with _Hold(self) as hold:
            try:
                if self._engine is None:
                    raise refusal(209, "SOCKET_TIMEOUT", "The engine is opening its data; try again in a second")
                body = await self._body(headers, receive, hold)
                pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
                if headers.get("content-type", "").startswith("multipart/form-data"):
                    pairs, body = pairs + _form(headers, body), b""
                method = "GET" if scope["method"] == "HEAD" else scope["method"]
                request = read(pairs, headers, body, method=method)
                query_id = request.query_id or query_id
                answer = await self._engine.run(request)
            except HungUp:
                return
            except EngineError as error:
                await _refuse(send, error, query_id)
            except coding.TooLarge as error:
                await _refuse(send, refusal(307, "TOO_MANY_BYTES", str(error)), query_id)
            except coding.Unsupported as error:
                await _refuse(send, refusal(48, "NOT_IMPLEMENTED", str(error)), query_id)
            except ValueError as error:
                await _refuse(send, refusal(36, "BAD_ARGUMENTS", str(error)), query_id)
            else:
                await _answer(send, self._engine, request, answer, headers, query_id)

    async def _body(self, headers: dict[str, str], receive: Receive, hold: _Hold) -> bytes:
        too_many = refusal(307, "TOO_MANY_BYTES", f"The body is larger than {self._body_limit} bytes")
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._body_limit:
            raise too_many
        if self.held > 2 * self._body_limit:
            raise refusal(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many request bytes are waiting")
        parts: list[bytes] = []
        whole = False
        while not whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HungUp
            part = message.get("body", b"")
            hold.add(len(part))
            if hold.size > self._body_limit:
                raise too_many
            parts.append(part)
            whole = not message.get("more_body", False)
        body = b"".join(parts)
        packed = headers.get("content-encoding", "")
        return await asyncio.to_thread(coding.decode, body, packed, self._unpacked_limit) if packed else body


class _Hold:
    """The body bytes of one request, counted for as long as it is being answered."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.size = 0

    def add(self, size: int) -> None:
        self.size += size
        self._interface.held += size

    def __enter__(self) -> _Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self._interface.held -= self.size


async def _answer(
    send: Send, engine: Embedded, request: Request, answer: Answer, headers: dict[str, str], query_id: str
) -> None:
    summary = {
        "read_rows": str(answer.read_rows),
        "read_bytes": str(answer.read_bytes),
        "written_rows": str(answer.written_rows),
        "written_bytes": str(answer.written_bytes),
        "total_rows_to_read": "0",
        "result_rows": "0",
        "result_bytes": str(len(answer.data)),
        "elapsed_ns": str(int(answer.elapsed * 1e9)),
    }
    out = [
        (b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")),
        (b"x-clickhouse-timezone", engine.timezone.encode()),
        (b"x-clickhouse-summary", json.dumps(summary, separators=(",", ":")).encode()),
    ]
    if request.statement.reads:
        out.append((b"x-clickhouse-format", request.format.encode()))
    data = answer.data
    packing = coding.choose(headers.get("accept-encoding", "")) if request.compress else ""
    if packing and data:
        data = await asyncio.to_thread(coding.encode, data, packing)
        out.append((b"content-encoding", packing.encode()))
    await _plain(send, 200, data, out, _media_type(request.format))


async def _refuse(send: Send, error: EngineError, query_id: str) -> None:
    out = [
        (b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")),
        (b"x-clickhouse-exception-code", str(error.code).encode()),
    ]
    if error.status == 503:
        out.append((b"retry-after", b"1"))
    if error.status in {401, 403} or error.code == 307:
        # The rest of the body is not read, so the connection can't be used again.
        out.append((b"connection", b"close"))
    if error.code == REQUIRED:
        out.append((b"www-authenticate", b'Basic realm="ClickHouse server HTTP API"'))
    await _plain(send, error.status, error.text.encode() + b"\n", out)


def _foreign(headers: dict[str, str]) -> str:
    """Why a request is not from this machine's own programs; empty when it is."""
    host = headers.get("host", "localhost")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() not in LOCAL_NAMES:
        return "This ClickHouse answers only to localhost; another name here is a browser being misled (DNS rebinding)."
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return "Requests from web pages of another site are refused."
    origin = headers.get("origin", "")
    if origin and origin.partition("://")[2].lower() != host.lower():
        return "Requests from web pages of another site are refused."
    return ""


def _form(headers: dict[str, str], body: bytes) -> list[tuple[str, str]]:
    """Plain fields of a multipart form, where clickhouse-connect puts long parameters."""
    pairs: list[tuple[str, str]] = []

    def on_field(field: Any) -> None:
        pairs.append(((field.field_name or b"").decode(), (field.value or b"").decode()))

    def on_file(file: Any) -> None:
        raise refusal(48, "NOT_IMPLEMENTED", "External data tables are not served by the embedded engine")

    message = Message()
    message["content-type"] = headers["content-type"]
    boundary = message.get_boundary()
    if not boundary:
        raise refusal(36, "BAD_ARGUMENTS", "The form names no boundary")
    try:
        feed = _Feed(body)
        parse_form({"Content-Type": headers["content-type"].encode("latin-1")}, feed, on_field, on_file)
    except FormParserError as error:
        raise refusal(36, "BAD_ARGUMENTS", f"The form can't be read: {error}") from None
    return pairs


class _Feed:
    """The least of a file that the form parser reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int = -1) -> bytes:
        data, self._data = (self._data, b"") if size < 0 else (self._data[:size], self._data[size:])
        return data


def _media_type(name: str) -> bytes:
    if name.startswith("JSON"):
        return b"application/x-ndjson" if "EachRow" in name else b"application/json; charset=UTF-8"
    if name.startswith(("TabSeparated", "TSV", "Pretty", "Values", "Vertical")):
        return b"text/tab-separated-values; charset=UTF-8"
    if name.startswith("CSV"):
        return b"text/csv; charset=UTF-8"
    return b"application/octet-stream"


async def _plain(
    send: Send, status: int, body: bytes, headers: Headers, media_type: bytes = b"text/plain; charset=UTF-8"
) -> None:
    head = [(b"content-type", media_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def _problem(send: Send, problem: Problem) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.fields().items()]
    await _plain(send, problem.status, problem.encode(), headers, CONTENT_TYPE.encode())
