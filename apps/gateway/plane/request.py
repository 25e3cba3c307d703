"""What every request is to the worker that has it: where it stands, until when, and how it ends.

Owns the steps from one state to another (apps.gateway.core.states), the answers that are the gateway's own, and the
one end of every exchange. What becomes of a request between its head and its end is apps.gateway.plane.exchange's.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic, time_ns
from typing import Concatenate, ParamSpec, TypeVar

from apps.gateway.core import patience
from apps.gateway.core.auth import Identity
from apps.gateway.core.chain import Later
from apps.gateway.core.config import Route
from apps.gateway.core.headers import RequestHead
from apps.gateway.core.retry import REPLAY_BYTES
from apps.gateway.core.routing import Way
from apps.gateway.core.states import EXCHANGE, WAITS_FOR, Event, IllegalTransition, State
from apps.gateway.plane import admission, own
from apps.gateway.plane.client import Client
from apps.gateway.plane.tries import Tries
from services.kit.problem import CONTENT_TYPE, Problem, Refused

ADMITTING, ANSWERING, DONE = State.ADMITTING, State.ANSWERING, State.DONE
REFUSE, CUT = Event.REFUSE, Event.CUT

Record = Callable[["Request", int, float], None]
"""Hears of a finished exchange: its status and how many seconds it took."""

R = TypeVar("R", bound="Request")
P = ParamSpec("P")


def entry(method: Callable[Concatenate[R, P], None]) -> Callable[Concatenate[R, P], None]:
    """A way into an exchange from outside. Whoever comes late finds it done, and nothing happens; a step that the
    table does not have ends the exchange and not whoever called."""

    def enter(self: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.state is DONE:
            return
        try:
            method(self, *args, **kwargs)
        except IllegalTransition as error:
            self.collapse(error)

    functools.update_wrapper(enter, method)
    return enter


class Request(ABC):
    """A request under way, until it is answered or lost."""

    __slots__ = (
        "_record",
        "_replay",
        "_until",
        "_way",
        "body",
        "body_done",
        "body_size",
        "client",
        "credentials",
        "deadline",
        "extra",
        "failed_dependency",
        "failure",
        "head",
        "identity",
        "later",
        "method",
        "now",
        "origin",
        "parent_id",
        "path",
        "route",
        "sampled",
        "span_id",
        "started",
        "started_ns",
        "state",
        "target",
        "trace_id",
        "tries",
        "worker",
    )

    route: Route
    """Set once the request has one; ``routed`` tells."""
    tries: Tries
    later: Later
    """What it is suspended for, while it is."""
    target: bytes
    origin: bytes
    """Set once it is admitted: what instances see of it (apps.gateway.core.forward.Outgoing)."""

    def __init__(self, client: Client, record: Record, method: bytes, head: RequestHead, body_done: bool) -> None:
        worker = client.worker
        self.client = client
        self.worker = worker
        self._record = record
        self.method = method
        self.head = head
        self.state = ADMITTING
        self.body: list[bytes] = []
        """What has come of the body and has not gone on."""
        self.body_size = 0
        """All that has come of it."""
        self.body_done = body_done
        self.started = self.now = now = monotonic()
        self.started_ns = time_ns()
        self.deadline = self._until = now + patience.DECIDE_SECONDS
        """When the sweep looks again, and when this state ends at the latest."""
        self.span_id = worker.ids.getrandbits(64).to_bytes(8, "big")
        self.trace_id = self.parent_id = b""
        self.sampled = True
        self.path = ""
        self.identity: Identity | None = None
        self.failure = ""
        self.failed_dependency: bytes | None = None
        self.extra = self.credentials = b""
        """Fields that the gateway adds to whatever is answered, and to what the service is sent."""
        self._way: Way | None = None
        self._replay: list[bytes] | None = []
        """What of the body was sent, while it is little enough to be sent again."""
        worker.inflight.add(self)

    def __repr__(self) -> str:
        what = f"{self.method.decode('latin-1')} {self.path or '?'}"
        return f"<{type(self).__name__} {what}: {self.waits}, waits for {WAITS_FOR[self.state]}>"

    @property
    def waits(self) -> str:
        """Its state, or what it is suspended for, as reports name it."""
        return self.later.waits if self.state is State.SUSPENDED else self.state.name.lower()

    @property
    def routed(self) -> Route | None:
        """The route, when the request found one."""
        return self.route if self._way is not None else None

    def _move(self, event: Event) -> None:
        try:
            self.state = EXCHANGE[self.state][event]
        except KeyError:
            raise IllegalTransition(self.state, event) from None

    @abstractmethod
    def expire(self, now: float) -> None:
        """The deadline is past."""

    def _wait(self, until: float) -> None:
        """This state lasts until then at the most."""
        self.deadline = self._until = until

    def _body_so_far(self) -> list[bytes]:
        """What can go on of the body; kept for another attempt while it is small."""
        body = self.body
        if body:
            self.body = []
            if self._replay is not None:
                self._replay += body
                if self.body_size > REPLAY_BYTES:
                    self._replay = None
        return body

    def collapse(self, error: IllegalTransition) -> None:
        """A fault of ours: count it and end this exchange alone; tests want to see it."""
        self.worker.fault("exchange", error)
        if self.state is DONE:
            return
        if self.state is ANSWERING:
            self._cut(500, "internal")
        else:
            self._refuse(Problem(500, "internal", "The gateway lost its way with this request."))

    # -- the end --------------------------------------------------------------------------------------

    def _turn_down(self, refused: Refused) -> None:
        self.extra += admission.fields_of(refused)
        self._refuse(refused.problem)

    def _refuse(self, problem: Problem, *, own: bool = False) -> None:
        """Answer with a problem document."""
        if not own:
            self.failure = problem.failure
        if not self.trace_id:
            self.trace_id = b"%032x" % self.worker.ids.getrandbits(128)
        for name, value in problem.fields().items():
            self.extra += f"{name}: {value}\r\n".encode()
        self.client.own(self, problem.status, CONTENT_TYPE, problem.encode(self.trace_id.decode()))
        self._finish(REFUSE, problem.status, own=own)

    def _answer_own(self, path: str) -> None:
        status, body = own.answer(self.worker, path, self.started)
        if isinstance(body, Problem):
            self._refuse(body, own=True)
            return
        self.client.own(self, status, "application/json", body)
        self._finish(REFUSE, status, own=True)

    def _tell_methods(self) -> None:
        """OPTIONS that ends here: for the server as a whole, or with no hop left (RFC 9110 section 9.3.7)."""
        methods = ", ".join(self.route.methods) if self._way is not None else ""
        self.extra += f"Allow: {methods or admission.SERVER_METHODS}\r\n".encode()
        self.client.own(self, 204, "", b"")
        self._finish(REFUSE, 204, own=self._way is None)

    def _cut(self, status: int, failure: str) -> None:
        self.failure = failure
        self._finish(CUT, status)

    def _finish(self, event: Event, status: int, *, own: bool = False) -> None:
        """The one end of every exchange: give back what is held, record, hand the connection back."""
        self._move(event)
        worker, client = self.worker, self.client
        worker.inflight.discard(self)
        if self._way is not None:
            self.tries.close()
        if not own:
            self._record(self, status, monotonic() - self.started)
        if worker.draining and not worker.inflight:
            worker.idle.set()
        if event is CUT:
            client.cut()
        client.finished()
