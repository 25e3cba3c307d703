"""What every exchange has, whoever answers: its state, its one end, and the answers of the gateway's own.

Knows nothing of routes, policies or upstreams beyond giving back what is held; apps.gateway.plane.proxy
decides.
"""

from __future__ import annotations

from time import monotonic, time_ns
from typing import TYPE_CHECKING

from apps.gateway.core.auth import Denied, Identity
from apps.gateway.core.config import Route
from apps.gateway.core.forward import own_answer
from apps.gateway.core.headers import Fields, RequestHead
from apps.gateway.core.routing import Way
from apps.lib.problem import CONTENT_TYPE, Problem, Refused

if TYPE_CHECKING:
    from apps.gateway.plane.gateway import Gateway
    from apps.gateway.plane.server import ClientConnection
    from apps.gateway.plane.table import Service
    from apps.gateway.plane.upstream import Connecting, Instance, UpstreamConnection


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
        "gateway",
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
    )

    head: RequestHead
    route: Route
    """Set once the request has one; ``_way`` tells."""
    _service: Service

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
        gateway = self.gateway
        self.is_started = True
        self.started = monotonic()
        self.started_ns = time_ns()
        self.span_id = gateway.ids.getrandbits(64).to_bytes(8, "big")
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
        gateway.inflight.add(self)
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
        if isinstance(refused, Denied) and refused.problem.status == 401:
            self._extra += f"WWW-Authenticate: {refused.challenge}\r\n".encode()
        self._refuse(refused.problem)

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem document."""
        self.failure = problem.failure
        self._own(problem)
        self._finish(problem.status)

    def _own(self, problem: Problem) -> None:
        if not self.trace_id:
            self.trace_id = b"%032x" % self.gateway.ids.getrandbits(128)
        if problem.retry_after is not None:
            self._extra += b"Retry-After: %d\r\n" % problem.retry_after
        self._write(problem.status, CONTENT_TYPE, problem.encode(self.trace_id.decode()))

    def _write(self, status: int, content_type: str, body: bytes) -> None:
        self._answered = True
        if not self.body_done or self.gateway.draining:
            self.keep = False
        head = own_answer(
            status,
            content_type,
            body,
            self.gateway.date_line(),
            self.trace_id,
            self._extra,
            keep=self.keep,
            old=self.old,
        )
        self.client.write(head if self.method == b"HEAD" else head + body)

    def respond(self, status: int, body: bytes) -> None:
        """Answer one of the gateway's own addresses with JSON."""
        self._write(status, "application/json", body)
        self._finish(status, own=True)

    def refuse_own(self, problem: Problem) -> None:
        """Answer one of the gateway's own addresses with a problem."""
        self._own(problem)
        self._finish(problem.status, own=True)

    def _finish(self, status: int, *, cut: bool = False, own: bool = False) -> None:
        """The one end of every exchange: give back what is held, record, hand the connection back."""
        if self._finished:
            return
        self._finished = True
        gateway = self.gateway
        gateway.inflight.discard(self)
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
            gateway.report.record(self, status, monotonic() - self.started)
        if gateway.draining and not gateway.inflight:
            gateway.idle.set()
        if cut:
            gateway.writes.flush()  # what came of the answer before it broke off
            self.client.transport.abort()
        else:
            self.client.finished(self, self.keep)

    @property
    def routed(self) -> Route | None:
        """The route, when the request found one."""
        return self.route if self.is_started and self._way is not None else None
