"""A request's way through: admission, attempts, the answer passed on.

Owns the order in which things are asked (path, route, credentials, limit, breaker, instance), the
retries, the deadlines and the back-pressure between client and upstream. The decisions are the core's.
Driven by callbacks from both sides; each way ends in ``_finish``, once.
"""

from __future__ import annotations

from time import monotonic

from apps.gateway.core.access import withhold
from apps.gateway.core.auth import Identity, UnknownKey, missing, no_key
from apps.gateway.core.config import Route
from apps.gateway.core.forward import (
    LAST_CHUNK,
    answer_head,
    chunk,
    framing,
    request_head,
    split_target,
    status_line,
)
from apps.gateway.core.headers import (
    MAX_LOOPS,
    Fields,
    RequestHead,
    ResponseHead,
    host_name,
    sort_request,
    sort_response,
)
from apps.gateway.core.paths import normalise
from apps.gateway.core.retry import REPLAY_BYTES, RETRY_STATUS, may_retry, worth_another
from apps.gateway.core.routing import Miss
from apps.gateway.core.trace import parse_traceparent
from apps.gateway.plane.exchange import Exchange
from apps.gateway.plane.limiter import Lease
from apps.gateway.plane.upstream import UpstreamConnection
from apps.lib.problem import Problem, Refused

BODY_HIGH = 131_072
"""Bytes of a request's body kept while they can't go on; at this much the client is no longer read."""

FAILURE_STATUS = {
    "upstream_connect_failed": 502,
    "upstream_connect_timeout": 504,
    "upstream_reset": 502,
    "upstream_protocol_error": 502,
    "upstream_overloaded": 503,
}


class ProxyExchange(Exchange):
    """An exchange that a route may answer."""

    __slots__ = ()

    # -- admission ------------------------------------------------------------------------------------

    def _admit(self) -> None:
        worker = self.worker
        if self.refusal is not None:
            raise Refused(self.refusal)
        head = self.head = sort_request(self.fields)
        if head.traceparent is not None and (context := parse_traceparent(head.traceparent)) is not None:
            self.trace_id, self.parent_id, self.sampled = context
            if head.state is not None:
                head.lines += (b"tracestate", b": ", head.state, b"\r\n")
        else:
            self.trace_id = b"%032x" % worker.ids.getrandbits(128)
        raw, self.query = split_target(self.method, self.target, head, old=self.old)
        path = self.path = normalise(raw)
        if path.startswith("/-/"):
            self._answer_own(path)
            return
        table = worker.table
        if table is None:
            raise Refused(Problem(503, "no_configuration", "No configuration has reached this gateway yet.", 1))
        routes = table.routes
        method = self.method.decode("latin-1")
        way = routes.match(host_name(head.host) if routes.by_host else "", method, path)
        if isinstance(way, Miss):
            raise self._missed(way, method)
        self._way = way
        route = self.route = way.route
        if head.upgrade is not None:
            self._refuse_websocket(head.upgrade)
        if head.via >= MAX_LOOPS:
            raise Refused(Problem(508, "loop", f"The request has passed this gateway {MAX_LOOPS} times already."))
        self._service = table.services[route.service]
        if route.auth:
            try:
                self.identity = self._authenticate(route, head)
            except UnknownKey as unknown:
                if not worker.jwks.want(unknown.issuer, self):
                    raise no_key(unknown.issuer) from None
                self.deadline = self.started + route.timeout
                return  # ``keys_arrived`` goes on with a fresh key set
        self._enter(route, head)

    def _missed(self, miss: Miss, method: str) -> Refused:
        if miss.allow:
            self._extra += f"Allow: {', '.join(miss.allow)}\r\n".encode()
            return Refused(Problem(405, "method_not_allowed", f"{method} is not allowed here."))
        return Refused(Problem(404, "no_route", "No route leads there."))

    def _refuse_websocket(self, upgrade: bytes) -> None:
        """Protocol switching has its place here; until it comes, a WebSocket is told so."""
        if upgrade.strip().lower() == b"websocket":
            self.keep = False
            raise Refused(Problem(501, "upgrade_unsupported", "This gateway does not carry WebSockets yet."))

    def _authenticate(self, route: Route, head: RequestHead) -> Identity:
        """Who calls. What proved it goes no further: the instance learns it by X-Consumer."""
        table, way = self.worker.table, self._way
        assert table is not None and way is not None  # noqa: S101 - it had this route
        now = self.started_ns / 1e9
        if head.key is not None and "key" in route.auth:
            return table.keyring.identify(head.key, now)
        credentials = head.authorization
        if credentials is None or credentials[:7].lower() != b"bearer ":
            raise missing(route.auth)
        token = credentials[7:].strip()
        if token.startswith(b"mc_") and "key" in route.auth:
            identity = table.keyring.identify(token, now)
        elif "jwt" in route.auth:
            identity = table.tokens.identify(token, now, way.access.issuers)
        else:
            raise missing(route.auth)
        return identity

    def keys_arrived(self) -> None:
        """A fresh key set is there: authenticate again, and for good."""
        if self._finished:
            return
        try:
            try:
                self.identity = self._authenticate(self.route, self.head)
            except UnknownKey as unknown:
                raise no_key(unknown.issuer) from None
            self._enter(self.route, self.head)
        except Refused as refused:
            self._turn_down(refused)

    def _enter(self, route: Route, head: RequestHead) -> None:
        """Past authentication: access, size, limit, and on the way."""
        if self.identity is not None and self._way is not None:
            self._way.access.admit(self.identity)
        withhold(head, route)
        if head.expect is not None and head.expect.lower() != b"100-continue":
            raise Refused(Problem(417, "expectation_failed", "Only 100-continue can be expected."))
        if self.body_size > route.max_body or (head.length is not None and int(head.length) > route.max_body):
            raise Refused(Problem(413, "body_too_large", f"The body is over {route.max_body} bytes."))
        identity = self.identity
        limit = (identity.rate_limit if identity is not None else None) or route.rate_limit
        if limit is not None:
            subject = identity.consumer if identity is not None else self._client_address(head)
            lease = self.worker.limiter.lease(limit, subject)
            allowed = lease.take(self.started, self)
            if allowed is None:
                self.deadline = self.started + route.timeout
                return  # ``limited`` goes on once Redis has answered
            self._apply_limit(lease, allowed)
        self._set_out(self.started)

    def _client_address(self, head: RequestHead) -> str:
        """Whom a public route's limit counts: the peer, or whom a trusted peer speaks for."""
        if self.client.trusted and head.forwarded is not None:
            return head.forwarded.rpartition(b",")[2].strip()[:64].decode("ascii", "replace")
        return self.client.address

    def limited(self, lease: Lease, allowed: bool) -> None:
        """The limiter's late answer."""
        if self._finished:
            return
        try:
            self._apply_limit(lease, allowed)
        except Refused as refused:
            self._turn_down(refused)
        else:
            self._set_out(monotonic())

    def _apply_limit(self, lease: Lease, allowed: bool) -> None:
        self._extra += lease.fields()
        if not allowed:
            wait = max(1, int(lease.retry_after + 0.999))
            raise Refused(Problem(429, "rate_limited", f"{lease.limit.name}: try again in {wait} s.", wait))

    def _set_out(self, now: float) -> None:
        if self.body_done:
            self.deadline = now + self.route.timeout
        else:
            self.deadline = now + self.route.idle_timeout
            if self.head.expect is not None and not self.old and not self.body:
                self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._attempt(now)

    # -- upstream -----------------------------------------------------------------------------------

    def _attempt(self, now: float) -> None:
        """Ask the next instance."""
        service = self._service
        breaker = service.breaker
        permit = breaker.acquire(now)
        if not permit:
            wait = max(1, int(breaker.retry_at - now + 0.999)) if breaker.state == "open" else 1
            self._refuse(Problem(503, "breaker_open", f"The breaker of {service.name} is open.", wait))
            return
        instance = service.rotation.choose(now, self._tried)
        if instance is None:
            breaker.record(permit, True, 0.0, now)
            self._refuse(Problem(503, "no_healthy_upstream", f"No instance of {service.name} is healthy.", 1))
            return
        self._permit = permit
        self._attempt_at = now
        self.attempts += 1
        self.instance = instance
        self._tried.append(instance)
        self._connecting = instance.acquire(self)

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """There is a connection: send the request, or what there is of it."""
        self._connecting = None
        self._upstream = connection
        self._sent = True
        head, client, identity, way = self.head, self.client, self.identity, self._way
        assert way is not None  # noqa: S101 - attempts are made on a route
        origin = client.forwarded
        if client.trusted and head.forwarded is not None:
            origin = b"X-Forwarded-For: %b, %b\r\n%b" % (head.forwarded, client.address.encode(), client.scheme)
        credentials = identity.line if identity is not None else b""
        if head.key is not None:
            credentials += b"X-API-Key: %b\r\n" % head.key
        data = request_head(
            self.method,
            way.forward(self.path),
            self.query,
            connection.instance.head,
            head,
            origin,
            credentials,
            self.trace_id,
            self.span_id,
            self.sampled,
        )
        if self.body or not self.body_done or head.coding is not None:
            data += self._body_so_far()
        connection.send(self, self.method == b"HEAD", data)
        if not self.body_done:
            client.resume()

    def _body_so_far(self) -> bytes:
        """What can go on of the body, framed; kept for another attempt while it is small."""
        body, self.body = self.body, []
        data = b"".join(body)
        if self._replay is not None:
            self._replay += body
            if self.body_size > REPLAY_BYTES:
                self._replay = None
        if self.head.coding is None:
            return data
        return (chunk(data) if data else b"") + (LAST_CHUNK if self.body_done else b"")

    def upstream_received(self, connection: UpstreamConnection) -> None:
        """The answer has begun, gone on or ended."""
        if not self._answered:
            head = sort_response(connection.fields)
            if self._judge(connection, head):
                self._answer(connection, head)
            else:
                self._again(connection)
                return
        elif connection.chunks:
            data = b"".join(connection.chunks)
            connection.chunks = []
            self.client.write(chunk(data) if self._chunked_out else data)
        if connection.done:
            if self._chunked_out:
                self.client.write(LAST_CHUNK)
            self._upstream = None
            connection.release(self.body_done)
            self._finish(connection.status)
        else:
            self.deadline = monotonic() + self.route.idle_timeout
            if self.client.blocked:
                connection.pause()

    def _judge(self, connection: UpstreamConnection, head: ResponseHead) -> bool:
        """Tell the breaker how it went; False when another instance should be asked instead."""
        service, status = self._service, connection.status
        now = monotonic()
        if service.fleet:
            self.failed_dependency = head.failed_dependency
        failed = status >= 500 and self.failed_dependency is None
        service.breaker.record(self._permit, failed, now - self._attempt_at, now)
        self._permit = 0
        if status not in RETRY_STATUS or not worth_another(status, self.failed_dependency is not None):
            return True
        return len(service.rotation.targets) < 2 or not self._may_retry() or now >= self.deadline

    def _may_retry(self) -> bool:
        return may_retry(
            self.method.decode("latin-1"),
            attempts=self.attempts,
            retries=self.route.retries,
            sent=self._sent,
            answered=self._answered,
            replayable=self._replay is not None,
        )

    def _again(self, connection: UpstreamConnection | None) -> None:
        """Another attempt: what was sent goes first again."""
        if connection is not None:
            self._upstream = None
            connection.release(self.body_done)
        replay, self._replay = self._replay, []
        self.body = (replay or []) + self.body
        self._sent = False
        self._attempt(monotonic())

    def _answer(self, connection: UpstreamConnection, head: ResponseHead) -> None:
        """Write the head, and the body as far as it is there: in one write when the answer is complete."""
        self._answered = True
        status, old = connection.status, self.old
        chunks, connection.chunks = connection.chunks, []
        how = framing(status, head, head_only=connection.head_only, complete=connection.done, old=old)
        self._chunked_out = how == "chunked"
        if how == "close" or not self.body_done or self.worker.draining:
            self.keep = False
        parts = answer_head(
            status,
            head,
            how,
            sum(map(len, chunks)),
            self.worker.date_line() if not head.date else b"",
            self.trace_id,
            self._extra,
            keep=self.keep,
            old=old,
        )
        if chunks and how != "none":
            parts += (chunk(b"".join(chunks)),) if self._chunked_out else chunks
        self.client.write(b"".join(parts))

    def upstream_interim(self, status: int, fields: Fields) -> None:
        """A 1xx answer other than 100 and 101 goes through as it is (RFC 9110 section 15.2)."""
        if not self.old and not self._answered:
            self.client.write(b"".join((status_line(status), *sort_response(fields).lines, b"\r\n")))

    def upstream_failed(self, failure: str, detail: str) -> None:
        """The attempt came to nothing, or the answer broke off."""
        self._connecting = None
        self._upstream = None
        breaker = self._service.breaker
        now = monotonic()
        if self._answered:
            # Half an answer can't be taken back: cut it short, so that the client sees it is not whole.
            breaker.record(breaker.acquire(now), True, now - self._attempt_at, now)
            self.failure = failure
            self._finish(502, cut=True)
            return
        if failure == "upstream_overloaded":
            breaker.release(self._permit)  # our own bound, not the service's fault
        else:
            breaker.record(self._permit, True, now - self._attempt_at, now)
        self._permit = 0
        if now < self.deadline and self._may_retry():
            self._again(None)
        else:
            status = FAILURE_STATUS[failure]
            self._refuse(Problem(status, failure, detail, 1 if status == 503 else None))

    def upstream_drained(self) -> None:
        """The upstream takes more of the request."""
        self.client.resume()

    # -- the client -----------------------------------------------------------------------------------

    def client_received(self) -> None:
        """More of the body, or its end."""
        if self._way is None or self._finished:
            return
        route = self.route
        self.deadline = monotonic() + (route.timeout if self.body_done else route.idle_timeout)
        if self.body_size > route.max_body and not self._answered:
            self._refuse(Problem(413, "body_too_large", f"The body is over {route.max_body} bytes."))
            return
        connection = self._upstream
        if connection is None:
            if not self.body_done and self.body_size > BODY_HIGH:
                self.client.pause()
            return
        data = self._body_so_far()
        if data:
            connection.write(data)
        if connection.blocked and not self.body_done:
            self.client.pause()

    def client_blocked(self) -> None:
        """The client takes no more for now."""
        if self.is_started and self._upstream is not None:
            self._upstream.pause()

    def client_drained(self) -> None:
        """The client takes more."""
        if self.is_started and self._upstream is not None:
            self.deadline = monotonic() + self.route.idle_timeout
            self._upstream.resume()

    def client_lost(self) -> None:
        """The client hung up: nobody wants the answer, so the upstream need not finish it."""
        if self.is_started and not self._finished:
            self.failure = "client_closed"
            self._finish(499)
        self._finished = True

    def client_broke(self, problem: Problem) -> None:
        """The body turned out malformed half-way."""
        if self._finished:
            return
        self.keep = False
        if self._answered:
            self.failure = problem.failure
            self._finish(problem.status, cut=True)
        else:
            self._refuse(problem)

    def expire(self, now: float) -> None:
        """The deadline is past."""
        route = self.route
        if not self.body_done and not self._answered:
            self._refuse(Problem(408, "request_timeout", f"The body stopped for {route.idle_timeout:g} s."))
            return
        if self._permit:
            self._service.breaker.record(self._permit, True, now - self._attempt_at, now)
            self._permit = 0
        if self._answered:
            self.failure = "upstream_timeout"
            self._finish(504, cut=True)
        else:
            self._refuse(Problem(504, "upstream_timeout", f"No answer within {route.timeout:g} s."))
