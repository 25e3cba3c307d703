from __future__ import annotations

import re
from pathlib import Path

from apps.gateway.core import states
from apps.gateway.core.states import CLIENT, EXCHANGE, Event, IllegalTransition, Reading, State, Turn

DOCS = Path(__file__).resolve().parents[4] / "docs" / "exchange.md"


def reachable(table: object, first: object) -> set[object]:
    seen, queue = {first}, [first]
    while queue:
        for after in table[queue.pop()].values():  # type: ignore[index]
            if after not in seen:
                seen.add(after)
                queue.append(after)
    return seen


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    assert reachable(EXCHANGE, State.ADMITTING) == set(State) == set(EXCHANGE) == set(states.WAITS_FOR)
    assert reachable(CLIENT, Reading.IDLE) == set(Reading) == set(CLIENT) == set(states.READS)
    assert all(State.DONE in reachable(EXCHANGE, state) for state in State)
    assert all(Reading.CLOSED in reachable(CLIENT, reading) for reading in Reading)


def test_every_event_is_used_and_the_end_is_the_end() -> None:
    assert {event for ways in EXCHANGE.values() for event in ways} == set(Event)
    assert {turn for ways in CLIENT.values() for turn in ways} == set(Turn)
    assert not EXCHANGE[State.DONE] and not CLIENT[Reading.CLOSED]


def test_a_client_may_vanish_in_any_state() -> None:
    assert all(ways[Event.LOSE] is State.DONE for state, ways in EXCHANGE.items() if state is not State.DONE)
    assert all(ways[Turn.LOSE] is Reading.CLOSED for state, ways in CLIENT.items() if state is not Reading.CLOSED)


def test_nothing_is_refused_once_an_answer_has_begun_and_nothing_is_cut_before() -> None:
    assert Event.REFUSE not in EXCHANGE[State.ANSWERING]
    assert [state for state, ways in EXCHANGE.items() if Event.CUT in ways] == [State.ANSWERING]


def test_a_step_that_is_not_in_the_table_says_so() -> None:
    error = IllegalTransition(State.DONE, Event.ANSWER)
    assert str(error) == "ANSWER has no place in DONE"


def test_the_diagrams_in_the_docs_are_the_tables() -> None:
    drawn = re.findall(r"```mermaid\n(.*?)\n```", DOCS.read_text(), re.S)
    assert drawn == [states.diagram(EXCHANGE, State.ADMITTING), states.diagram(CLIENT, Reading.IDLE)]
    for words in (states.WAITS_FOR, states.READS):
        for state, meaning in words.items():
            assert f"| `{state.name}` | {meaning} |" in DOCS.read_text()
