"""Reports of a service in any order, repeated, lost: the letter ends as the newest of those that came says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.events.letters import mirror, reports
from apps.events.letters.models import DeadLetter
from apps.events.letters.reports import Change, Known, Stamp
from apps.events.models import Event, Subscription
from services.kit.events.reporting import PARKED, RESOLVED, STARTED

AT = 1_800_000_000.0


@dataclass(frozen=True)
class Said:
    """One report: an end has no number of tries."""

    stamp: Stamp
    state: str
    tries: int = 0
    died: bool = False

    @property
    def is_end(self) -> bool:
        return self.state in {"resolved", "discarded"}


@st.composite
def histories(draw: st.DrawFn) -> list[Said]:
    """What a service says of one event: a row that fails some times and is dealt with, and perhaps another one later,
    even in a store that was begun anew."""
    said: list[Said] = []
    row, began = draw(st.integers(5, 9)), AT
    for life in range(draw(st.integers(1, 3))):
        if life:
            row, began = draw(st.sampled_from([1, row, row + 3])), began + draw(st.floats(1, 1e6))
        state, tries, changed = draw(st.sampled_from(["parked", "failed"])), draw(st.integers(0, 5)), 1
        said.append(Said(Stamp(began, row, changed), state, tries))
        for died in draw(st.lists(st.booleans(), max_size=3)):
            changed, tries = changed + draw(st.integers(1, 2)), tries + (not died)
            said.append(Said(Stamp(began, row, changed), "failed", tries, died))
        if draw(st.booleans()):
            said.append(Said(Stamp(began, row, changed + 1), draw(st.sampled_from(["resolved", "discarded"]))))
        else:
            break
    return said


def deliveries(history: list[Said]) -> st.SearchStrategy[list[Said]]:
    """Some of them, some of those twice, in any order."""
    return st.lists(st.sampled_from(history), min_size=1, max_size=2 * len(history))


any_deliveries = histories().flatmap(deliveries)


def heard(known: Known | None, said: Said) -> tuple[Known | None, Change | None]:
    """As the mirror keeps it."""
    if said.is_end:
        change = reports.ended(known, said.stamp, said.state)
    else:
        change = reports.parked(known, said.stamp, said.state, said.tries, died=said.died)
    if change is None:
        return known, None
    stamp = said.stamp if change.newest or known is None else known.stamp
    tries = said.tries if change.facts else known.attempts if known else 0
    return Known(change.state, tries, stamp, bare=not change.facts and (known is None or known.bare)), change


@given(any_deliveries)
def test_the_newest_has_the_last_word(given: list[Said]) -> None:
    known: Known | None = None
    for said in given:
        known, _ = heard(known, said)
    newest = max(given, key=lambda one: one.stamp)
    assert known is not None and (known.state, known.stamp) == (newest.state, newest.stamp)
    if not newest.is_end:
        assert known.attempts == newest.tries
    assert known.bare == all(one.is_end for one in given)


@given(any_deliveries, any_deliveries)
def test_what_was_heard_before_changes_nothing(first: list[Said], second: list[Said]) -> None:
    known: Known | None = None
    for said in (*first, *second):
        known, _ = heard(known, said)
    assert known is not None
    for said in (*first, *second):
        again, change = heard(known, said)
        assert again == known and change is None


@given(any_deliveries, st.integers(0, 9), st.booleans())
def test_a_word_that_was_given_stands_until_a_newer_report_tells_of_a_try(
    given: list[Said], tries: int, died: bool
) -> None:
    stamp = Stamp(AT, 7, 3)
    known: Known | None = Known("redriving", 4, stamp)
    said = Said(Stamp(AT, 7, 4), "failed", tries, died)
    after, change = heard(known, said)
    assert after is not None and change is not None
    assert (after.state == "failed") == change.in_vain == (tries > 4 or died)
    for older in given:
        if older.stamp <= stamp:
            assert heard(known, older) == (known, None)


# -- the same through the rows ------------------------------------------------------------------------


def report(kind: str, at: float, data: dict[str, Any]) -> None:
    mirror.handle(Event(type=kind, source="mint", data={"group": "mint"} | data, time=mirror._moment(at), position=1))


def tell(event_id: str, said: Said) -> None:
    at = said.stamp.began + said.stamp.changed
    counts = {"row": said.stamp.row, "changed": said.stamp.changed, "first_at": said.stamp.began}
    who = {"source": "covenant", "event_id": event_id}
    if said.is_end:
        report(RESOLVED, at, who | counts | {"how": "discarded" if said.state == "discarded" else "handled", "at": at})
        return
    kind = "ProcessDied" if said.died else "ValueError"
    facts = {"type": "t.t.t", "key": "a", "topic": "t", "partition": 0, "position": "1", "kind": kind, "stack": ""}
    report(
        PARKED,
        at,
        who | counts | facts | {"reason": str(said.stamp), "state": said.state, "tries": said.tries, "last_at": at},
    )


@pytest.fixture
def _mint(db: None) -> None:
    Subscription.objects.create(name="mint", kind="consumer")


@pytest.mark.usefixtures("_mint")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_deliveries)
def test_rows_end_as_the_newest_report_says(given: list[Said]) -> None:
    event_id = str(uuid4())
    for said in given:
        tell(event_id, said)
    newest = max(given, key=lambda one: one.stamp)
    letter = DeadLetter.objects.get(event_id=event_id)
    assert letter.state == newest.state
    assert letter.is_open == (letter.closed_at is None) == (not newest.is_end)
    if not newest.is_end:
        assert (letter.attempts, letter.error.endswith(str(newest.stamp))) == (newest.tries, True)


@pytest.mark.usefixtures("_mint")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(5)))
def test_a_subscription_reads_what_the_newest_start_said(order: list[int]) -> None:
    Subscription.objects.filter(name="mint").update(seen_at=None)
    for number in order:
        report(STARTED, AT + number, {"patterns": [f"test.n{number}.#"]})
    assert Subscription.objects.get(name="mint").patterns == ["test.n4.#"]


def test_a_row_of_an_older_kit_stands_in_the_order_of_the_log() -> None:
    first, again = Stamp(AT), Stamp(AT)
    assert reports.parked(Known("failed", 1, first), again, "failed", 2, died=False) == Change("failed", facts=True)
    assert reports.parked(Known("resolved", 2, Stamp(AT + 9)), again, "failed", 2, died=False) is None


@pytest.mark.usefixtures("_mint")
def test_groups_without_end_are_bounded_counted_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Subscription.objects.create(name="letters", kind="internal")
    monkeypatch.setattr(mirror, "MOST_GROUPS", 3)
    for number in range(5):
        data = {"group": f"g{number}", "patterns": ["#"]}
        mirror.handle(Event(type=STARTED, source=f"g{number}", data=data, time=mirror._moment(AT), position=1))
    assert Subscription.objects.filter(kind="consumer").count() == 3
    ours = Subscription.objects.get(name="letters")
    assert ours.failed == 3 and "no room for 'g4'" in ours.last_error
