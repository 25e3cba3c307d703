"""What every exchange has, whoever answers: its state, its one end, and the answers of the gateway's own.

Knows nothing of routes, policies or upstreams beyond giving back what is held; apps.gateway.plane.proxy
decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from time import monotonic, time_ns
from typing import Any, Protocol

from apps.gateway.core.auth import Denied, Identity
from apps.gateway.core.config import Route
from apps.gateway.core.forward import own_answer
from apps.gateway.core.headers import Fields, RequestHead
from apps.gateway.core.routing import Way
from apps.gateway.plane.table import Service
from apps.gateway.plane.upstream import Connecting, Instance, UpstreamConnection
from apps.gateway.plane.worker import Worker
from apps.lib.problem import CONTENT_TYPE, Problem, Refused


class Client(Protocol):
    """Who asked: the connection that takes the answer."""

    worker: Worker
    record: Record
    transport: Any
    address: str
    address_attribute: bytes
    scheme: bytes
    forwarded: bytes
    trusted: bool
    blocked: bool

    def write(self, data: bytes) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def finished(self, exchange: Exchange, keep: bool) -> None: ...


class Exchange:
    """A request and its answer, from the first byte to the record it leaves."""

    __slots__ = (
        "_answered",
        "_attempt_at",
        "_chunked_out",
        "_connecting",
        "_extra",
        "_finished",
        "_permit",
        "_replay",
        "_sent",
        "_service",
        "_tried",
        "_upstream",
        "_way",
        "attempts",
        "body",
        "body_done",
        "body_size",
        "client",
        "deadline",
        "failed_dependency",
        "failure",
        "fields",
        "head",
        "identity",
        "instance",
        "is_started",
        "keep",
        "method",
        "old",
        "parent_id",
        "path",
        "query",
        "refusal",
        "route",
        "sampled",
        "span_id",
        "started",
        "started_ns",
        "target",
        "trace_id",
        "worker",
    )

    head: RequestHead
    route: Route
    """Set once the request has one; ``_way`` tells."""
    _service: Service

    def __init__(self, client: Client, method: bytes, target: bytes, fields: Fields, keep: bool, old: bool) -> None:
        """``keep``: the client would use the connection again. ``old``: it speaks HTTP/1.0."""
        self.client = client
        self.worker = client.worker
        self.method = method
        self.target = target
        self.fields = fields
        self.keep = keep
        self.old = old
        self.body: list[bytes] = []
        """What has come of the body and has not gone on."""
        self.body_size = 0
        self.body_done = False
        self.refusal: Problem | None = None
        """Known before the start: the head itself can't be served."""
        self.is_started = False
        self._finished = False

    def start(self) -> None:
        """Decide what becomes of the request; called once its head is there."""
        if self._finished:
            return
        worker = self.worker
        self.is_started = True
        self.started = monotonic()
        self.started_ns = time_ns()
        self.span_id = worker.ids.getrandbits(64).to_bytes(8, "big")
        self.trace_id = self.parent_id = b""
        self.sampled = True
        self.deadline = 0.0
        self.path = ""
        self.identity: Identity | None = None
        self.instance: Instance | None = None
        self.attempts = 0
        self.failure = ""
        self.failed_dependency: bytes | None = None
        self._way: Way | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: Connecting | None = None
        self._permit = 0
        self._tried: list[Instance] = []
        self._replay: list[bytes] | None = []
        self._answered = self._sent = self._chunked_out = False
        self._extra = b""
        worker.inflight.add(self)
        try:
            self._admit()
        except Refused as refused:
            self._turn_down(refused)

    def _admit(self) -> None:
        """Set the request on its way, or raise Refused."""
        raise NotImplementedError

    def expire(self, now: float) -> None:
        """The deadline is past."""
        raise NotImplementedError

    # -- the end --------------------------------------------------------------------------------------

    def _turn_down(self, refused: Refused) -> None:
        if isinstance(refused, Denied) and refused.challenge:
            self._extra += f"WWW-Authenticate: {refused.challenge}\r\n".encode()
        self._refuse(refused.problem)

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem document."""
        self.failure = problem.failure
        self._own(problem)
        self._finish(problem.status)

    def _own(self, problem: Problem) -> None:
        if not self.trace_id:
            self.trace_id = b"%032x" % self.worker.ids.getrandbits(128)
        if problem.retry_after is not None:
            self._extra += b"Retry-After: %d\r\n" % problem.retry_after
        self._write(problem.status, CONTENT_TYPE, problem.encode(self.trace_id.decode()))

    def _write(self, status: int, content_type: str, body: bytes) -> None:
        self._answered = True
        if not self.body_done or self.worker.draining:
            self.keep = False
        head = own_answer(
            status,
            content_type,
            body,
            self.worker.date_line(),
            self.trace_id,
            self._extra,
            keep=self.keep,
            old=self.old,
        )
        self.client.write(head if self.method == b"HEAD" else head + body)

    def _answer_own(self, path: str) -> None:
        """The gateway's own addresses, all under ``/-/`` so that they can't shadow a route."""
        worker, table = self.worker, self.worker.table
        if path == "/-/health":
            uptime = round(self.started - worker.started_at, 1)
            version = worker.settings.version
            self._respond({"status": "ok", "service": "gateway", "version": version, "uptime_s": uptime})
        elif path != "/-/ready":
            self._refuse_own(Problem(404, "not_found", "There is nothing at this address."))
        elif worker.draining:
            self._refuse_own(Problem(503, "not_ready", "It is draining.", 1))
        elif table is None:
            self._refuse_own(Problem(503, "not_ready", "No configuration has reached this gateway yet.", 1))
        else:
            self._respond({"status": "ready", "revision": table.document.revision})

    def _respond(self, body: dict[str, Any]) -> None:
        self._write(200, "application/json", json.dumps(body).encode())
        self._finish(200, own=True)

    def _refuse_own(self, problem: Problem) -> None:
        self._own(problem)
        self._finish(problem.status, own=True)

    def _finish(self, status: int, *, cut: bool = False, own: bool = False) -> None:
        """The one end of every exchange: give back what is held, record, hand the connection back."""
        if self._finished:
            return
        self._finished = True
        worker = self.worker
        worker.inflight.discard(self)
        if self._permit:
            self._service.breaker.release(self._permit)
            self._permit = 0
        connection, self._upstream = self._upstream, None
        if connection is not None:
            connection.release(False)
        if self._connecting is not None:
            self._connecting.user = None
            self._connecting = None
        if not own:
            self.client.record(self, status, monotonic() - self.started)
        if worker.draining and not worker.inflight:
            worker.idle.set()
        if cut:
            worker.writes.flush()  # what came of the answer before it broke off
            self.client.transport.abort()
        else:
            self.client.finished(self, self.keep)

    @property
    def routed(self) -> Route | None:
        """The route, when the request found one."""
        return self.route if self.is_started and self._way is not None else None


Record = Callable[[Exchange, int, float], None]
"""Hears of a finished exchange: its status and how many seconds it took."""
