"""One exchange: a request from its first byte to the last byte of its answer, and the record it leaves.

Owns the order in which things are asked (path, route, credentials, limit, breaker, instance), the
retries, the deadlines and the back-pressure between client and upstream. The decisions are the core's.
An exchange is driven by callbacks from both sides; each ends in ``_finish``, once.
"""

from __future__ import annotations

from binascii import hexlify
from http import HTTPStatus
from time import time_ns
from typing import TYPE_CHECKING

from apps.gateway.core.auth import Denied, Identity, UnknownKey, missing, no_key
from apps.gateway.core.config import Route
from apps.gateway.core.headers import (
    MAX_LOOPS,
    VIA_LINE,
    Fields,
    RequestHead,
    ResponseHead,
    host_name,
    sort_request,
    sort_response,
)
from apps.gateway.core.paths import normalise
from apps.gateway.core.retry import REPLAY_BYTES, RETRY_STATUS, may_retry, worth_another
from apps.gateway.core.routing import Miss, forward_path
from apps.gateway.core.trace import parse_traceparent
from apps.lib.clock import monotonic
from apps.lib.problem import CONTENT_TYPE, Problem, Refused

if TYPE_CHECKING:
    from apps.gateway.plane.gateway import Gateway
    from apps.gateway.plane.limiter import Lease
    from apps.gateway.plane.server import ClientConnection
    from apps.gateway.plane.table import Service
    from apps.gateway.plane.upstream import Connecting, Instance, UpstreamConnection

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
BODILESS = frozenset({204, 205, 304})

BODY_HIGH = 131_072
"""Bytes of a request's body kept while they can't go on; at this much the client is no longer read."""

FAILURE_STATUS = {
    "upstream_connect_failed": 502,
    "upstream_connect_timeout": 504,
    "upstream_timeout": 504,
    "upstream_reset": 502,
    "upstream_protocol_error": 502,
    "upstream_overloaded": 503,
}


class Exchange:
    """A request and its answer."""

    __slots__ = (
        "_answered",
        "_attempt_at",
        "_attempts",
        "_chunked_in",
        "_chunked_out",
        "_connecting",
        "_deadline_kind",
        "_extra",
        "_finished",
        "_identity",
        "_instance",
        "_path",
        "_permit",
        "_replay",
        "_request_head",
        "_sent",
        "_service",
        "_tried",
        "_upstream",
        "body",
        "body_done",
        "body_size",
        "client",
        "deadline",
        "failed_dependency",
        "failure",
        "fields",
        "gateway",
        "head",
        "is_started",
        "keep",
        "method",
        "old",
        "parent_id",
        "query",
        "refusal",
        "route",
        "sampled",
        "span_id",
        "started",
        "started_ns",
        "target",
        "trace_id",
    )

    def __init__(
        self, client: ClientConnection, method: bytes, target: bytes, fields: Fields, keep: bool, old: bool
    ) -> None:
        """``keep``: the client would use the connection again. ``old``: it speaks HTTP/1.0."""
        self.client = client
        self.gateway: Gateway = client.gateway
        self.method = method
        self.target = target
        self.fields = fields
        self.keep = keep
        self.old = old
        self.body: list[bytes] = []
        self.body_size = 0
        self.body_done = False
        self.refusal: Problem | None = None
        self.is_started = False
        self._upstream: UpstreamConnection | None = None
        self._connecting: Connecting | None = None
        self._finished = False

    # -- admission ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Decide what becomes of the request; called once its head is there."""
        if self._finished:
            return
        self.is_started = True
        gateway = self.gateway
        self.started = monotonic()
        self.started_ns = time_ns()
        self.route: Route | None = None
        self._service: Service | None = None
        self._instance: Instance | None = None
        self._identity: Identity | None = None
        self._permit = self._attempts = 0
        self._tried: list[Instance] = []
        self._answered = self._sent = False
        self._extra = b""
        self._path = ""
        self._replay: list[bytes] | None = []
        self.failure = ""
        self.failed_dependency: bytes | None = None
        self.trace_id = b""
        self.sampled = True
        self.parent_id = b""
        self.deadline = 0.0
        self.span_id = gateway.ids.getrandbits(64).to_bytes(8, "big")
        gateway.inflight.add(self)
        try:
            self._admit()
        except Refused as refused:
            self._turn_down(refused)

    def _turn_down(self, refused: Refused) -> None:
        if isinstance(refused, Denied) and refused.problem.status == 401:
            self._extra += f"WWW-Authenticate: {refused.challenge}\r\n".encode()
        self._refuse(refused.problem)

    def _admit(self) -> None:
        gateway = self.gateway
        if self.refusal is not None:
            raise Refused(self.refusal)
        head = self.head = sort_request(self.fields)
        if head.traceparent is not None and (context := parse_traceparent(head.traceparent)) is not None:
            self.trace_id, self.parent_id, self.sampled = context
            if head.state is not None:
                head.lines += (b"tracestate", b": ", head.state, b"\r\n")
        else:
            self.trace_id = b"%032x" % gateway.ids.getrandbits(128)
        target = self.target
        if not target.startswith(b"/"):
            target = self._absolute(target, head)
        elif not head.host and not self.old:
            raise Refused(Problem(400, "framing", "The request has no Host field."))
        raw, mark, query = target.partition(b"?")
        self.query = mark + query
        path = self._path = normalise(raw)
        if path.startswith("/-/"):
            gateway.answer_own(self, path)
            return
        table = gateway.table
        if table is None:
            raise Refused(Problem(503, "no_configuration", "No configuration has reached this gateway yet.", 1))
        routes = table.routes
        method = self.method.decode("latin-1")
        found = routes.match(host_name(head.host) if routes.by_host else "", method, path)
        if isinstance(found, Miss):
            raise self._missed(found, method)
        self.route = route = found
        if head.upgrade is not None:
            self._refuse_websocket(head)
        if head.via >= MAX_LOOPS:
            raise Refused(Problem(508, "loop", f"The request has passed this gateway {MAX_LOOPS} times already."))
        self._service = table.services[route.service]
        if route.auth:
            try:
                self._identity = self._authenticate(route, head)
            except UnknownKey as unknown:
                if not gateway.jwks.want(unknown.issuer, self):
                    raise no_key(unknown.issuer) from None
                self.deadline = self.started + route.timeout
                return  # ``keys_arrived`` goes on with a fresh key set
        self._enter(route, head)

    def keys_arrived(self) -> None:
        """A fresh key set is there: authenticate again, and for good."""
        route, table = self.route, self.gateway.table
        if self._finished or route is None or table is None:
            return
        try:
            try:
                self._identity = self._authenticate(route, self.head)
            except UnknownKey as unknown:
                raise no_key(unknown.issuer) from None
            self._enter(route, self.head)
        except Refused as refused:
            self._turn_down(refused)

    def _enter(self, route: Route, head: RequestHead) -> None:
        """Past authentication: size, limit, and on the way."""
        service = self._service
        assert service is not None  # noqa: S101 - set with the route
        self._check_length(route, head)
        self._chunked_in = head.coding is not None
        identity = self._identity
        limit = (identity.rate_limit if identity is not None else None) or route.rate_limit
        if limit is not None:
            subject = identity.consumer if identity is not None else self.client.address
            lease = self.gateway.limiter.lease(limit, subject)
            allowed = lease.take(self.started, self)
            if allowed is None:
                self.deadline = self.started + route.timeout
                return  # ``limited`` goes on once Redis has answered
            self._apply_limit(lease, allowed)
        self._set_out(service, route)

    def _absolute(self, target: bytes, head: RequestHead) -> bytes:
        """Take the absolute form apart: its authority is the host, whatever Host says (RFC 9112 section 3.2.2)."""
        if self.method == b"CONNECT":
            raise Refused(Problem(501, "connect_unsupported", "This gateway does not tunnel."))
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in {b"http", b"https"}:
            raise Refused(Problem(400, "path_invalid", "The request target must be a path that starts with '/'."))
        slash = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        head.host = rest[:slash]
        path = rest[slash:]
        return path if path.startswith(b"/") else b"/" + path

    def _missed(self, miss: Miss, method: str) -> Refused:
        if miss.allow:
            self._extra += f"Allow: {', '.join(miss.allow)}\r\n".encode()
            return Refused(Problem(405, "method_not_allowed", f"{method} is not allowed here."))
        return Refused(Problem(404, "no_route", "No route leads there."))

    def _refuse_websocket(self, head: RequestHead) -> None:
        """Protocol switching has its place here; until it comes, a WebSocket is told so."""
        if head.upgrade is not None and head.upgrade.strip().lower() == b"websocket":
            self.keep = False
            raise Refused(Problem(501, "upgrade_unsupported", "This gateway does not carry WebSockets yet."))

    def _authenticate(self, route: Route, head: RequestHead) -> Identity:
        table = self.gateway.table
        assert table is not None  # noqa: S101 - _admit asked
        now = self.started_ns / 1e9
        if head.key is not None and "key" in route.auth:
            return table.keyring.identify(head.key, now)
        credentials = head.authorization
        if credentials is None or credentials[:7].lower() != b"bearer ":
            raise missing(route.auth)
        token = credentials[7:].strip()
        if token.startswith(b"mc_") and "key" in route.auth:
            head.authorization = None
            return table.keyring.identify(token, now)
        if "jwt" not in route.auth:
            raise missing(route.auth)
        identity = table.tokens.identify(token, now)
        head.authorization = None  # proven here; the token goes no further (X-Consumer says who)
        return identity

    def _check_length(self, route: Route, head: RequestHead) -> None:
        if head.expect is not None and head.expect.lower() != b"100-continue":
            raise Refused(Problem(417, "expectation_failed", "Only 100-continue can be expected."))
        if self.body_size > route.max_body or (head.length is not None and int(head.length) > route.max_body):
            raise Refused(Problem(413, "body_too_large", f"The body is over {route.max_body} bytes."))

    def limited(self, lease: Lease, allowed: bool) -> None:
        """The limiter's late answer."""
        if self._finished:
            return
        try:
            self._apply_limit(lease, allowed)
        except Refused as refused:
            self._refuse(refused.problem)
            return
        assert self._service is not None and self.route is not None  # noqa: S101
        self._set_out(self._service, self.route)

    def _apply_limit(self, lease: Lease, allowed: bool) -> None:
        self._extra += lease.fields()
        if not allowed:
            wait = max(1, int(lease.retry_after + 0.999))
            raise Refused(Problem(429, "rate_limited", f"{lease.limit.name}: try again in {wait} s.", wait))

    def _set_out(self, service: Service, route: Route) -> None:
        if not self.body_done and self.head.expect is not None and not self.old and not self.body:
            self.client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        now = self.started
        self.deadline = now + (route.timeout if self.body_done else route.idle_timeout)
        self._attempt(service, now)

    # -- upstream -----------------------------------------------------------------------------------

    def _attempt(self, service: Service, now: float) -> None:
        """Ask the next instance."""
        breaker = service.breaker
        permit = breaker.acquire(now)
        if not permit:
            wait = max(1, int(breaker.retry_at - now + 0.999)) if breaker.state == "open" else 1
            self._refuse(
                Problem(503, "breaker_open", f"The breaker of {service.name} is open; try again in {wait} s.", wait)
            )
            return
        self._permit = permit
        self._attempt_at = now
        self._attempts += 1
        instance = service.rotation.choose(self._tried)
        if instance is None:
            breaker.record(permit, True, 0.0, now)
            self._permit = 0
            self._refuse(Problem(503, "no_healthy_upstream", f"No instance of {service.name} is healthy.", 1))
            return
        self._instance = instance
        self._tried.append(instance)
        self._connecting = instance.acquire(self)

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """There is a connection: send the request, or what there is of it."""
        self._connecting = None
        self._upstream = connection
        self._sent = True
        data = self._compose()
        body = self.body
        if body:
            if self._replay is not None:
                self._replay += body
                if self.body_size > REPLAY_BYTES:
                    self._replay = None
            data += self._frame(body)
            self.body = []
        if self._chunked_in and self.body_done:
            data += b"0\r\n\r\n"
        connection.send(self, self.method == b"HEAD", data)
        if not self.body_done:
            self.client.resume()

    def _frame(self, body: list[bytes]) -> bytes:
        data = b"".join(body) if len(body) > 1 else body[0]
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_in else data

    def _compose(self) -> bytes:
        """The request's head as the instance will read it."""
        head, route, instance, identity = self.head, self.route, self._instance, self._identity
        assert route is not None and instance is not None  # noqa: S101
        client = self.client
        path = forward_path(route, self._path)
        parts = [
            self.method,
            b" ",
            path.encode("ascii"),
            self.query,
            b" HTTP/1.1\r\n",
            instance.head,
            *head.lines,
            VIA_LINE,
            b"traceparent: 00-%b-%b-0%d\r\n" % (self.trace_id, hexlify(self.span_id), self.sampled),
        ]
        if client.trusted and head.forwarded is not None:
            parts.append(b"X-Forwarded-For: %b, %b\r\n" % (head.forwarded, client.address.encode()))
            parts.append(client.scheme)
        else:
            parts.append(client.forwarded)
        parts.append(b"X-Forwarded-Host: %b\r\n" % head.host)
        if identity is not None:
            parts.append(identity.line)
        elif head.key is not None:
            parts.append(b"X-API-Key: %b\r\n" % head.key)
        if head.authorization is not None:
            parts.append(b"Authorization: %b\r\n" % head.authorization)
        if head.length is not None:
            parts.append(b"Content-Length: %b\r\n" % head.length)
        elif self._chunked_in:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def upstream_received(self, connection: UpstreamConnection) -> None:
        """The answer has begun, gone on or ended."""
        if not self._answered:
            head = sort_response(connection.fields)
            status = connection.status
            if not self._judge(connection, status, head):
                return
            self._answer_head(connection, status, head)
        elif connection.chunks:
            self._pass_on(connection)
        if connection.done:
            if self._chunked_out:
                self.client.transport.write(b"0\r\n\r\n")
            self._upstream = None
            connection.release(self.body_done)
            self._finish(connection.status)
        else:
            route = self.route
            self.deadline = monotonic() + (route.idle_timeout if route is not None else 30.0)

    def _judge(self, connection: UpstreamConnection, status: int, head: ResponseHead) -> bool:
        """Tell the breaker how it went; False when another instance is asked instead."""
        service, route = self._service, self.route
        assert service is not None and route is not None  # noqa: S101
        now = monotonic()
        dependency = head.failed_dependency if service.fleet else None
        self.failed_dependency = dependency
        failed = status >= 500 and dependency is None
        service.breaker.record(self._permit, failed, now - self._attempt_at, now)
        self._permit = 0
        if status not in RETRY_STATUS or not worth_another(status, dependency is not None):
            return True
        if len(service.rotation.targets) < 2 or not self._may_retry(route):
            return True
        self._upstream = None
        connection.release(self.body_done)
        self._again(service, now)
        return False

    def _may_retry(self, route: Route) -> bool:
        return may_retry(
            self.method.decode("latin-1"),
            attempts=self._attempts,
            retries=route.retries,
            sent=self._sent,
            answered=self._answered,
            replayable=self._replay is not None,
        )

    def _again(self, service: Service, now: float) -> None:
        """Another attempt: what was sent goes first again."""
        replay, self._replay = self._replay, []
        self.body = (replay or []) + self.body
        self._sent = False
        self._attempt(service, now)

    def _answer_head(self, connection: UpstreamConnection, status: int, head: ResponseHead) -> None:
        """Write the head, and the body as far as it is there: in one write when the answer is complete."""
        self._answered = True
        chunks = connection.chunks
        connection.chunks = []
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        parts = [line, *head.lines]
        if not head.date:
            parts.append(self.gateway.date_line())
        parts += (b"X-Trace-Id: ", self.trace_id, b"\r\n", self._extra)
        self._chunked_out = False
        if connection.head_only or status == 304:
            if head.length is not None:
                parts += (b"Content-Length: ", head.length, b"\r\n")
        elif status in BODILESS:
            pass
        elif head.length is not None:
            parts += (b"Content-Length: ", head.length, b"\r\n")
        elif connection.done:
            parts.append(b"Content-Length: %d\r\n" % sum(map(len, chunks)))
        elif self.old:
            self.keep = False
        else:
            self._chunked_out = True
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if not self.body_done or self.gateway.draining:
            self.keep = False
        if not self.keep:
            parts.append(b"Connection: close\r\n")
        elif self.old:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        if chunks:
            if self._chunked_out:
                data = b"".join(chunks)
                parts.append(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                parts += chunks
        self.client.transport.write(b"".join(parts))

    def _pass_on(self, connection: UpstreamConnection) -> None:
        data = b"".join(connection.chunks)
        connection.chunks = []
        self.client.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_out else data)

    def upstream_interim(self, status: int, fields: Fields) -> None:
        """A 1xx answer other than 100 and 101 goes through as it is (RFC 9110 section 15.2)."""
        if not self.old and not self._answered:
            line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            self.client.transport.write(b"".join((line, *sort_response(fields).lines, b"\r\n")))

    def upstream_failed(self, failure: str, detail: str) -> None:
        """The attempt came to nothing, or the answer broke off."""
        self._connecting = None
        self._upstream = None
        service, route = self._service, self.route
        assert service is not None and route is not None  # noqa: S101
        now = monotonic()
        if self._answered:
            # Half an answer can't be taken back: cut it short so that the client sees it is not whole.
            service.breaker.record(service.breaker.acquire(now), True, now - self._attempt_at, now)
            self.failure = failure
            self._finish(502, cut=True)
            return
        if failure == "upstream_overloaded":
            service.breaker.release(self._permit)  # our own bound, not the service's fault
        else:
            service.breaker.record(self._permit, True, now - self._attempt_at, now)
        self._permit = 0
        if now < self.deadline and self._may_retry(route):
            self._again(service, now)
        else:
            status = FAILURE_STATUS[failure]
            self._refuse(Problem(status, failure, detail, 1 if status == 503 else None))

    def upstream_drained(self) -> None:
        """The upstream takes more of the request."""
        self.client.resume()

    # -- the client -----------------------------------------------------------------------------------

    def client_received(self) -> None:
        """More of the body, or its end."""
        route = self.route
        if route is None or self._finished:
            return
        now = monotonic()
        self.deadline = now + (route.timeout if self.body_done else route.idle_timeout)
        if self.body_size > route.max_body and not self._answered:
            self._refuse(Problem(413, "body_too_large", f"The body is over {route.max_body} bytes."))
            return
        connection = self._upstream
        if connection is None:
            if not self.body_done and self.body_size > BODY_HIGH:
                self.client.pause()
            return
        body = self.body
        data = b""
        if body:
            if self._replay is not None:
                self._replay += body
                if self.body_size > REPLAY_BYTES:
                    self._replay = None
            data = self._frame(body)
            self.body = []
        if self._chunked_in and self.body_done:
            data += b"0\r\n\r\n"
        if data:
            connection.write(data)
        if connection.blocked and not self.body_done:
            self.client.pause()

    def client_blocked(self) -> None:
        """The client takes no more for now."""
        if self._upstream is not None:
            self._upstream.pause()

    def client_drained(self) -> None:
        """The client takes more."""
        if self._upstream is not None:
            self.deadline = monotonic() + (self.route.idle_timeout if self.route is not None else 30.0)
            self._upstream.resume()

    def client_lost(self) -> None:
        """The client hung up: nobody wants the answer, so the upstream need not finish it."""
        if self.is_started and not self._finished:
            self.failure = "client_closed"
            self._finish(499)

    def client_broke(self, problem: Problem) -> None:
        """The body turned out malformed half-way."""
        self.keep = False
        if self._answered:
            self.failure = problem.failure
            self._finish(problem.status, cut=True)
        else:
            self._refuse(problem)

    def vanish(self) -> None:
        """Never begun, and its client is gone."""
        self._finished = True

    def expire(self, now: float) -> None:
        """The deadline is past."""
        route = self.route
        assert route is not None  # noqa: S101
        if not self.body_done and not self._answered:
            self._refuse(Problem(408, "request_timeout", f"The body stopped for {route.idle_timeout:g} s."))
            return
        service = self._service
        if service is not None and self._permit:
            service.breaker.record(self._permit, True, now - self._attempt_at, now)
            self._permit = 0
        if self._answered:
            self.failure = "upstream_timeout"
            self._finish(504, cut=True)
        else:
            self._refuse(Problem(504, "upstream_timeout", f"No answer within {route.timeout:g} s."))

    # -- the end --------------------------------------------------------------------------------------

    def respond(self, status: int, content_type: str, body: bytes) -> None:
        """Answer from here."""
        self._answered = True
        if not self.body_done:
            self.keep = False
        if not self.trace_id:
            self.trace_id = b"%032x" % self.gateway.ids.getrandbits(128)
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        connection = (
            b""
            if self.keep and not self.old
            else b"Connection: keep-alive\r\n"
            if self.keep
            else b"Connection: close\r\n"
        )
        self.client.transport.write(
            b"".join(
                (
                    line,
                    self.gateway.date_line(),
                    b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type.encode(), len(body)),
                    b"Cache-Control: no-store\r\nX-Trace-Id: %b\r\n" % self.trace_id,
                    self._extra,
                    connection,
                    b"\r\n",
                    b"" if self.method == b"HEAD" else body,
                )
            )
        )

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem document."""
        if not self.trace_id:
            self.trace_id = b"%032x" % self.gateway.ids.getrandbits(128)
        self.failure = problem.failure
        if problem.retry_after is not None:
            self._extra += b"Retry-After: %d\r\n" % problem.retry_after
        if self.gateway.draining:
            self.keep = False
        self.respond(problem.status, CONTENT_TYPE, problem.encode(self.trace_id.decode()))
        self._finish(problem.status)

    def done(self, status: int) -> None:
        """An answer of the gateway's own is written."""
        self._finish(status, own=True)

    def _finish(self, status: int, *, cut: bool = False, own: bool = False) -> None:
        """The one end of every exchange: give back what is held, record, hand the connection back."""
        if self._finished:
            return
        self._finished = True
        gateway = self.gateway
        gateway.inflight.discard(self)
        if gateway.draining and not gateway.inflight:
            gateway.idle.set()
        if self._permit and self._service is not None:
            self._service.breaker.release(self._permit)
            self._permit = 0
        connection, self._upstream = self._upstream, None
        if connection is not None:
            connection.release(False)
        if self._connecting is not None:
            self._connecting.user = None
            self._connecting = None
        if not own:
            gateway.report.record(self, status, monotonic() - self.started)
        if cut:
            self.client.transport.abort()
        else:
            self.client.finished(self, self.keep)

    # -- for the record -------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The normalised path, or nothing when the target could not be read."""
        return self._path

    @property
    def identity(self) -> Identity | None:
        return self._identity

    @property
    def instance(self) -> Instance | None:
        return self._instance

    @property
    def attempts(self) -> int:
        return self._attempts
