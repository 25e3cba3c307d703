"""The states of an exchange and of a client's connection, and every way from one to another.

The two tables are the whole truth: what is not in them can't happen, and whoever tries is stopped by
``IllegalTransition``. docs/exchange.md is drawn from them. As in h11 the two sides are kept apart: how much
of a request has come is the connection's state, what becomes of it the exchange's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar


class State(IntEnum):
    """An exchange: one request and its answer. Where it stands is also what it waits for."""

    ADMITTING = 0
    SUSPENDED = 1
    GATHERING = 2
    CONNECTING = 3
    REQUESTING = 4
    WAITING = 5
    ANSWERING = 6
    DONE = 7


class Event(IntEnum):
    """What moves an exchange on."""

    SUSPEND = 0
    GATHER = 1
    DIAL = 2
    SEND = 3
    SEND_ALL = 4
    ANSWER = 5
    COMPLETE = 6
    REFUSE = 7
    CUT = 8
    LOSE = 9


class Reading(IntEnum):
    """A client's connection: how much of a request is there."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    HELD = 3
    SPOILT = 4
    FLUSHING = 5
    LINGERING = 6
    CLOSING = 7
    CLOSED = 8


class Turn(IntEnum):
    """What moves a client's connection on."""

    BEGIN = 0
    HEAD_WHOLE = 1
    WHOLE = 2
    SPOIL = 3
    KEEP = 4
    STALL = 5
    DRAIN = 6
    LINGER = 7
    CLOSE = 8
    LOSE = 9


WAITS_FOR: Mapping[State, str] = {
    State.ADMITTING: "nothing: it is being decided",
    State.SUSPENDED: "what one of its policies asked for, such as an issuer's key set or the shared limit's word",
    State.GATHERING: "the request's body, or enough of it to be worth a connection",
    State.CONNECTING: "a connection to an instance",
    State.REQUESTING: "the rest of the request's body, which goes up as it comes",
    State.WAITING: "the answer's head",
    State.ANSWERING: "the rest of the answer, or the client to take it",
    State.DONE: "nothing: it is over",
}

READS: Mapping[Reading, str] = {
    Reading.IDLE: "nothing of a request is there",
    Reading.HEAD: "part of a head is there",
    Reading.BODY: "the head is whole, the body is coming",
    Reading.HELD: "the request is whole; what comes behind it is not looked at until it is answered",
    Reading.SPOILT: "what comes can't be read as a request; it is thrown away",
    Reading.FLUSHING: "answered, and the client has not taken the answer",
    Reading.LINGERING: "the last answer is out; what still comes is thrown away",
    Reading.CLOSING: "closes when the last answer has been taken",
    Reading.CLOSED: "gone",
}

_TRY = {Event.DIAL: State.CONNECTING, Event.SEND: State.REQUESTING, Event.SEND_ALL: State.WAITING}
"""An attempt: a new connection is asked for, or the request goes out, in part or whole."""

_UNANSWERED = {Event.REFUSE: State.DONE, Event.LOSE: State.DONE}

EXCHANGE: Mapping[State, Mapping[Event, State]] = {
    State.ADMITTING: {Event.SUSPEND: State.SUSPENDED, Event.GATHER: State.GATHERING, **_TRY, **_UNANSWERED},
    State.SUSPENDED: {Event.SUSPEND: State.SUSPENDED, Event.GATHER: State.GATHERING, **_TRY, **_UNANSWERED},
    State.GATHERING: {**_TRY, **_UNANSWERED},
    State.CONNECTING: {**_TRY, **_UNANSWERED},
    State.REQUESTING: {Event.ANSWER: State.ANSWERING, **_TRY, **_UNANSWERED},
    State.WAITING: {Event.ANSWER: State.ANSWERING, **_TRY, **_UNANSWERED},
    State.ANSWERING: {Event.COMPLETE: State.DONE, Event.CUT: State.DONE, Event.LOSE: State.DONE},
    State.DONE: {},
}

_END = {Turn.LINGER: Reading.LINGERING, Turn.CLOSE: Reading.CLOSING, Turn.LOSE: Reading.CLOSED}
_SPOIL = {Turn.SPOIL: Reading.SPOILT}

CLIENT: Mapping[Reading, Mapping[Turn, Reading]] = {
    Reading.IDLE: {
        Turn.BEGIN: Reading.HEAD,
        Turn.HEAD_WHOLE: Reading.BODY,
        Turn.WHOLE: Reading.HELD,
        **_SPOIL,
        Turn.CLOSE: Reading.CLOSING,
        Turn.LOSE: Reading.CLOSED,
    },
    Reading.HEAD: {
        Turn.HEAD_WHOLE: Reading.BODY,
        Turn.WHOLE: Reading.HELD,
        **_SPOIL,
        Turn.CLOSE: Reading.CLOSING,
        Turn.LOSE: Reading.CLOSED,
    },
    Reading.BODY: {Turn.WHOLE: Reading.HELD, **_SPOIL, **_END},
    Reading.HELD: {Turn.KEEP: Reading.IDLE, Turn.STALL: Reading.FLUSHING, **_END},
    Reading.SPOILT: {**_END},
    Reading.FLUSHING: {Turn.DRAIN: Reading.IDLE, **_END},
    Reading.LINGERING: {Turn.CLOSE: Reading.CLOSING, Turn.LOSE: Reading.CLOSED},
    Reading.CLOSING: {Turn.CLOSE: Reading.CLOSING, Turn.LOSE: Reading.CLOSED},
    Reading.CLOSED: {},
}


class IllegalTransition(Exception):
    """Something happened that has no place in this state: a fault in this program, never the client's doing."""

    def __init__(self, state: IntEnum, event: IntEnum) -> None:
        super().__init__(f"{event.name} has no place in {state.name}")


S = TypeVar("S", bound=IntEnum)
E = TypeVar("E", bound=IntEnum)


def diagram(table: Mapping[S, Mapping[E, S]], first: S) -> str:
    """The table as a Mermaid state diagram; events that lead the same way share an arrow."""
    lines = ["stateDiagram-v2", f"  [*] --> {first.name}"]
    for state, ways in table.items():
        by_target: dict[S, list[str]] = {}
        for event, after in ways.items():
            by_target.setdefault(after, []).append(event.name)
        lines += [f"  {state.name} --> {after.name}: {', '.join(names)}" for after, names in by_target.items()]
        if not ways:
            lines.append(f"  {state.name} --> [*]")
    return "\n".join(lines)
