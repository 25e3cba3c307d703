"""A request's way through, from its head to the record it leaves: its route's policies, attempts, the answer passed on.

One state machine (apps.gateway.core.states) that is driven from outside: by the client's connection, by attempts on
instances, by whoever a policy waits for, and by the sweep of deadlines. Owns the retries, the deadlines, and the
back-pressure between client and upstream. Knows no protocol and no policy: the seams are apps.gateway.plane.client,
apps.gateway.plane.upstream and apps.gateway.core.chain. The decisions are the core's.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from apps.gateway.core import patience
from apps.gateway.core.chain import Later, RequestHook
from apps.gateway.core.headers import ResponseHead
from apps.gateway.core.paths import normalise
from apps.gateway.core.retry import IDEMPOTENT, REPLAY_BYTES, worth_another
from apps.gateway.core.routing import Way
from apps.gateway.core.size import over
from apps.gateway.core.states import Event, IllegalTransition, State
from apps.gateway.core.trace import parse_traceparent
from apps.gateway.plane import admission
from apps.gateway.plane.request import Request, entry
from apps.gateway.plane.tries import FAILURE_STATUS, NOT_ITS_FAULT, Tries
from apps.gateway.plane.upstream import Attempt, Instance
from services.kit.problem import Problem, Refused

BODY_HIGH = 131_072
"""Bytes of a request's body kept while they can't go on; at this much the client is no longer read."""

GATHER_BYTES = REPLAY_BYTES
"""A body is gathered up to this size, or its end, before it takes a connection: a slow client holds only itself."""

# Members of an enumeration are looked up at a cost that shows here: a name of this module's is free.
ADMITTING, SUSPENDED, GATHERING, CONNECTING, REQUESTING, WAITING, ANSWERING, DONE = State
SUSPEND, GATHER, DIAL, SEND, SEND_ALL, ANSWER, COMPLETE, REFUSE, CUT, LOSE = Event


class Exchange(Request):
    """A request and its answer."""

    __slots__ = ("_hooks",)

    _hooks: Iterator[RequestHook]
    """What is left of its route's chain, while it is suspended."""

    # -- admission ------------------------------------------------------------------------------------

    def start(self, refusal: Problem | None = None) -> None:
        """Decide what becomes of the request; called once. ``refusal``: it can't even be read."""
        try:
            if refusal is not None:
                raise Refused(refusal)
            self._admit()
        except Refused as refused:
            self._turn_down(refused)
        except IllegalTransition as error:
            self.collapse(error)

    def _admit(self) -> None:
        worker, head = self.worker, self.head
        if head.traceparent is not None and (context := parse_traceparent(head.traceparent)) is not None:
            self.trace_id, self.parent_id, self.sampled = context
            if head.state is not None:
                head.lines.append(b"tracestate: " + head.state)
        else:
            self.trace_id = b"%032x" % worker.ids.getrandbits(128)
        if head.path == b"*":
            self._tell_methods()
            return
        path = self.path = normalise(head.path)
        if path.startswith("/-/"):
            self._answer_own(path)
            return
        table = worker.table
        if table is None:
            raise Refused(Problem(503, "no_configuration", "No configuration has reached this gateway yet.", 1))
        way = admission.find_way(table, self.method, head, path)
        route = self.route = way.route
        self.tries = Tries(table.services[route.service], route)
        self._way = way
        if head.upgrade is not None:
            admission.refuse_websocket(head)
        if head.via:
            admission.refuse_loops(head)
        self._proceed(way, iter(way.asks))

    def _suspend(self, later: Later) -> None:
        self._move(SUSPEND)
        self.later = later
        self._wait(self.started + self.route.timeout)

    @entry
    def resume(self, word: bool = True) -> None:
        """What a policy had it wait for has come about; see apps.gateway.core.chain.Call."""
        if self.state is not SUSPENDED:
            return
        self.now = monotonic()
        try:
            later = self.later.then(self, word)
            if later is not None:
                self._suspend(later)
            elif self._way is not None:
                self._proceed(self._way, self._hooks)
        except Refused as refused:
            self._turn_down(refused)

    def _proceed(self, way: Way, hooks: Iterator[RequestHook]) -> None:
        """Ask what is left of the chain, until one has to wait; past the last it is admitted, and on the way as soon as
        there is enough to send."""
        for hook in hooks:
            later = hook(self)
            if later is not None:
                self._hooks = hooks
                self._suspend(later)
                return
        head, client, now = self.head, self.client, self.now
        if head.hops is not None and self.method == b"OPTIONS" and admission.last_hop(head):
            self._tell_methods()
            return
        self.target = way.forward(self.path).encode("ascii") + head.query
        self.origin = client.origin(head)
        if self.identity is not None:
            self.credentials += self.identity.line
        if self.body_done:
            self.deadline = self._until = now + self.route.timeout
        else:
            self._wait(self._body_deadline(now))
            if head.expect is not None and not self.body_size:
                client.go_on()
            if self.body_size < GATHER_BYTES:
                self._move(GATHER)
                client.resume()
                return
        self._try(now)

    def _body_deadline(self, now: float) -> float:
        return patience.body_deadline(now, self.started, self.body_size, self.route.idle_timeout)

    # -- attempts -----------------------------------------------------------------------------------

    def _try(self, now: float, again: Instance | None = None) -> None:
        """Ask the next instance. ``again``: this one, by a new connection, which is no further attempt."""
        while True:
            attempt = self.tries.begin(self, now, again)
            if isinstance(attempt, Problem):
                self._refuse(attempt)
                return
            if attempt.connection is not None:
                self._send(attempt)
                return
            if not attempt.failure:
                self._move(DIAL)
                self.deadline = min(self._until, self.tries.due(now))
                return
            again = None
            if not self._failed(attempt, now):
                return

    @entry
    def upstream_ready(self, attempt: Attempt) -> None:
        """There is a connection: send the request, or what there is of it."""
        if attempt is not self.tries.current:
            attempt.close()
            return
        self._send(attempt)

    def _send(self, attempt: Attempt) -> None:
        connection = attempt.connection
        assert connection is not None  # noqa: S101 - that is what it was made for
        self.tries.sent = True
        connection.request(attempt, self, self._body_so_far() if self.body else [], self.body_done)
        if self.body_done:
            self._await_answer(monotonic())
        else:
            self._move(SEND)
            if not connection.blocked:
                self.client.resume()

    def _await_answer(self, now: float) -> None:
        self._move(SEND_ALL)
        self.deadline = min(self._until, self.tries.whole(now))

    @entry
    def upstream_failed(self, attempt: Attempt) -> None:
        """The attempt came to nothing, or the answer broke off."""
        if attempt is not self.tries.current:
            return
        now = monotonic()
        if self.state is ANSWERING:
            self.tries.broke_off(now)
            self._cut(502, attempt.failure)
        elif attempt.reused and not attempt.heard and attempt.failure == "upstream_reset":
            self._lost_kept(attempt, now)
        elif self._failed(attempt, now):
            self._try(now)

    def _lost_kept(self, attempt: Attempt, now: float) -> None:
        """A kept connection ended before it could answer: a server may close one when it likes (RFC 9112 section 9.3),
        so that says nothing about the instance. Asked again unless the request may have been acted on."""
        self.tries.lost()
        unharmed = attempt.unsent or self.method.decode("latin-1") in IDEMPOTENT
        if unharmed and self._replay is not None and now < self._until:
            self._rewind()
            self._try(now, attempt.instance)
        else:
            self._refuse(Problem(502, attempt.failure, attempt.detail))

    def _failed(self, attempt: Attempt, now: float) -> bool:
        """Count a failed attempt; True when another is due, else the client has been told."""
        tries, its_fault = self.tries, attempt.failure not in NOT_ITS_FAULT
        tries.lost()
        if its_fault:
            tries.failed(now)
        if now < self._until and self._may_retry():
            self._rewind()
            return True
        status = FAILURE_STATUS[attempt.failure]
        if its_fault:
            tries.record(True, now, late=status == 504)
        self._refuse(Problem(status, attempt.failure, attempt.detail))
        return False

    def _may_retry(self) -> bool:
        return self.tries.may_retry(self.method, answered=self.state is ANSWERING, replayable=self._replay is not None)

    def _rewind(self) -> None:
        """What was sent goes first again."""
        self.deadline = self._until
        replay, self._replay = self._replay, []
        self.body = (replay or []) + self.body
        self.tries.sent = False

    # -- the answer ---------------------------------------------------------------------------------

    def upstream_received(self, attempt: Attempt) -> None:
        """The answer has begun, gone on or ended."""
        # An entry like the others, without the wrapper: every request comes through here. One that is done has no
        # attempt any more.
        if attempt is not self.tries.current:
            return
        try:
            self._pass_on(attempt)
        except IllegalTransition as error:
            self.collapse(error)

    def _pass_on(self, attempt: Attempt) -> None:
        client, connection = self.client, attempt.connection
        assert connection is not None  # noqa: S101 - it is what was received by
        if self.state is not ANSWERING:
            head, status = connection.head, connection.status
            assert head is not None  # noqa: S101 - the connection calls when its head is there
            if not self._judge(status, head):
                attempt.close(reusable=self.body_done)
                self._rewind()
                self._try(monotonic())
                return
            for hook in self._way.tells if self._way is not None else ():
                hook(self, head)
            self._move(ANSWER)
            client.begin(self, status, head, connection.take(), connection.done)
        else:
            body = connection.take()
            if body:
                client.more(body)
                # At once: only what was written tells whether it is taken, and the loop goes on reading until then.
                self.worker.writes.flush()
            if connection.done:
                client.end()
        if connection.done:
            status = connection.status
            self.tries.passed()
            attempt.close(reusable=self.body_done)
            self._finish(COMPLETE, status)
        else:
            self._wait(self._answer_deadline(monotonic()))
            if client.blocked:
                connection.pause()

    def _judge(self, status: int, head: ResponseHead) -> bool:
        """Tell the judges how it went; False when another instance should be asked instead."""
        now, tries = monotonic(), self.tries
        if tries.service.fleet:
            self.failed_dependency = head.failed_dependency
        foreign = self.failed_dependency is not None
        failed = status >= 500 and not foreign
        if failed:
            tries.failed(now)
            again = worth_another(status, foreign) and tries.elsewhere()
            if again and self._may_retry() and now < self._until:
                return False
        tries.record(failed, now)
        return True

    def _answer_deadline(self, now: float) -> float:
        """While answering: the upstream must not fall silent, nor the client stop taking."""
        idle = self.route.idle_timeout
        return self.client.drain_by(idle) if self.client.blocked else now + idle

    @entry
    def upstream_interim(self, attempt: Attempt, status: int, head: ResponseHead) -> None:
        """A 1xx answer other than 100 and 101 goes through as it is (RFC 9110 section 15.2)."""
        if attempt is self.tries.current and self.state is not ANSWERING:
            self.client.interim(status, head)

    @entry
    def upstream_filled(self, attempt: Attempt) -> None:
        """The upstream takes no more of the request for now."""
        if attempt is self.tries.current and not self.body_done:
            self.client.pause()

    @entry
    def upstream_drained(self, attempt: Attempt) -> None:
        """The upstream takes more of the request."""
        if attempt is self.tries.current:
            self.client.resume()

    # -- the client -----------------------------------------------------------------------------------

    @entry
    def client_received(self) -> None:
        """More of the body, or its end."""
        state = self.state
        if self._way is None or state is ADMITTING:
            return
        if self.body_size > self.route.max_body:
            self.client_broke(over(self.route.max_body))
            return
        if state is ANSWERING:
            self._pass_body()
            return
        now = monotonic()
        if state is SUSPENDED:
            if self.body_size > BODY_HIGH and not self.body_done:
                self.client.pause()
            return
        self._wait(now + self.route.timeout if self.body_done else self._body_deadline(now))
        if state is GATHERING:
            if self.body_done or self.body_size >= GATHER_BYTES:
                self._try(now)
        elif state is REQUESTING:
            self._pass_body()
            if self.body_done:
                self._await_answer(now)
        elif self.body_size > BODY_HIGH and not self.body_done:
            self.client.pause()

    def _pass_body(self) -> None:
        connection = self.tries.connection
        if connection is not None:
            connection.more(self._body_so_far(), self.body_done)
            self.worker.writes.flush()  # as with the answer: whether it is taken shows now

    @entry
    def client_blocked(self) -> None:
        """The client takes no more for now."""
        connection = self.tries.connection
        if self.state is ANSWERING and connection is not None:
            connection.pause()
            self._wait(self._answer_deadline(monotonic()))

    @entry
    def client_drained(self) -> None:
        """The client takes more."""
        connection = self.tries.connection
        if self.state is ANSWERING and connection is not None:
            self._wait(self._answer_deadline(monotonic()))
            connection.resume()

    @entry
    def client_lost(self) -> None:
        """The client hung up: nobody wants the answer, so the upstream need not finish it."""
        self.failure = "client_closed"
        self._finish(LOSE, 499)

    @entry
    def client_broke(self, problem: Problem) -> None:
        """The body turned out malformed or too large half-way."""
        if self.state is ANSWERING:
            self._cut(problem.status, problem.failure)
        else:
            self._refuse(problem)

    # -- deadlines ------------------------------------------------------------------------------------

    @entry
    def expire(self, now: float) -> None:
        """The deadline is past."""
        state = self.state
        if state is ANSWERING:
            self._stop_answering(now)
        elif state >= GATHERING and not self.body_done:
            self._stop_receiving(now)
        elif now < self._until:
            self._give_up_try(now)
        else:
            if state >= CONNECTING:
                self.tries.failed(now)
                self.tries.record(True, now, late=True)
            limit = self.route.timeout if self._way is not None else patience.DECIDE_SECONDS
            self._refuse(Problem(504, "upstream_timeout", f"No answer within {limit:g} s."))

    def _give_up_try(self, now: float) -> None:
        """One attempt may not take all the time there is, while another instance could be asked instead."""
        if self._may_retry() and self.tries.elsewhere():
            if self._failed(self.tries.time_out(), now):
                self._try(now)
        else:
            self.deadline = self._until

    def _stop_receiving(self, now: float) -> None:
        """The body has stopped: its client is slow, unless it is the instance that takes no more of it."""
        if self._owes_body():
            self._refuse(Problem(408, "request_timeout", "The request's body came too slowly."))
            return
        self.tries.failed(now)
        self.tries.record(True, now, late=True)
        self._refuse(Problem(504, "upstream_timeout", "The service stopped taking the request."))

    def _owes_body(self) -> bool:
        """Whether it is the client that is waited for."""
        connection = self.tries.connection
        return not self.body_done and (connection is None or not connection.blocked)

    def _stop_answering(self, now: float) -> None:
        if not self.client.blocked:
            if self._owes_body():
                self._cut(408, "request_timeout")  # the answer may wait for it: that is not the instance's doing
            else:
                self.tries.broke_off(now)
                self._cut(504, "upstream_timeout")
            return
        until = self.client.drain_by(self.route.idle_timeout)
        if until > now:
            self._wait(until)  # it has taken some since it was last asked
        else:
            self._cut(499, "client_timeout")
