"""Dead letters of what services report, and operators' words on their way back."""

from __future__ import annotations

from typing import Any

import pytest

from apps.events.actions import publish
from apps.events.letters import actions, editing, mirror, queries
from apps.events.letters.models import DeadLetter
from apps.events.models import Event, Subscription
from apps.events.subscriptions import handlers, store
from services.kit.events.cloudevent import decode
from services.kit.events.reporting import DISCARD, PARKED, REDRIVE, REPLACE, RESOLVED, STARTED
from services.kit.problem import Refused
from tests.unit.events.letters.delivery import numbered, published, work

pytestmark = pytest.mark.django_db

State = DeadLetter.State
AT = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _quiet(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"


def report(kind: str, data: dict[str, Any]) -> None:
    """One of the group mint that came from the bus."""
    event = publish(kind, {"group": "mint"} | data, source="mint")
    numbered()
    event.refresh_from_db()
    mirror.handle(event)


def parked(event: Event, **changes: Any) -> None:
    report(PARKED, facts(event) | changes)


def facts(event: Event) -> dict[str, Any]:
    return {
        "source": event.source,
        "event_id": event.event_id,
        "type": event.type,
        "key": event.stream,
        "topic": "test",
        "partition": 3,
        "position": "17-0",
        "kind": "BadTransaction",
        "reason": "account 17 would pass the limit",
        "stack": "Traceback …",
        "tries": 5,
        "first_at": AT,
        "last_at": AT + 20,
        "due": AT + 60,
        "state": "failed",
        "body": "",
    }


def said(type: str) -> list[dict[str, Any]]:
    return [event.data for event in Event.objects.filter(type=type, source="mission-control").order_by("pk")]


def test_a_service_that_starts_is_a_subscription() -> None:
    report(STARTED, {"patterns": ["business.#"], "member": "mint-1", "service": "mint"})
    found = Subscription.objects.get(name="mint")
    assert (found.kind, found.patterns) == ("consumer", ["business.#"]) and found.seen_at is not None


def test_what_it_parks_is_a_dead_letter_with_all_that_is_known() -> None:
    event = published("ledger")
    parked(event)
    letter = DeadLetter.objects.get()
    assert (letter.state, letter.reason, letter.attempts) == (State.FAILED, "handler", 5)
    assert letter.error == "BadTransaction: account 17 would pass the limit" and letter.stack == "Traceback …"
    assert (letter.topic, letter.partition, letter.offset, letter.wire_key) == ("test", 3, "17-0", "ledger")
    assert letter.stored == event and letter.first_failed_at is not None and letter.first_failed_at.timestamp() == AT
    parked(published("other"), reason="account 4711 would pass the limit")
    [group] = queries.groups()
    assert (group.count, group.failed, group.subscription) == (2, 2, "mint")


def test_it_ends_when_the_service_says_so() -> None:
    event, other = published("a"), published("b")
    parked(event)
    parked(other)
    ends(event, "handled")
    ends(other, "discarded")
    assert [one.state for one in DeadLetter.objects.order_by("pk")] == [State.RESOLVED, State.DISCARDED]


def ends(event: Event, how: str) -> None:
    report(RESOLVED, {"source": event.source, "event_id": event.event_id, "how": how, "at": AT + 99})


def test_odd_entries_and_what_ended_the_process_are_letters_too() -> None:
    event = published("a")
    parked(event, kind="ProcessDied", reason="it ended the process 3 times", due=None)
    parked(event, source="", event_id="t/0/9-1", type="", key="", kind="odd", reason="not JSON", body="{{{", due=None)
    died, odd = DeadLetter.objects.order_by("pk")
    assert (died.reason, died.next_at) == ("process_died", None)
    assert (odd.reason, odd.body, odd.stored) == ("odd", "{{{", None)


@pytest.mark.parametrize(
    ("source", "data"),
    [
        ("covenant", {"group": "mint"}),
        ("mint", {"group": "../etc"}),
        ("mint", {"group": 7}),
        ("mint", {"group": "mint", "state": "failed"}),
        ("mint", {"group": "mint", "state": "failed", "event_id": "1", "partition": "x", "tries": 1}),
        ("mint", {"group": "mint", "event_id": "1", "partition": 1, "tries": 1, "state": "failed", "first_at": 1e300}),
    ],
)
def test_a_report_that_nobody_could_mean_is_counted_and_shown_and_makes_no_letter(
    source: str, data: dict[str, Any]
) -> None:
    ours = Subscription.objects.create(name="letters", kind="internal")
    event = publish(PARKED, data, source=source)
    mirror.handle(event)
    ours.refresh_from_db()
    assert not DeadLetter.objects.exists()
    assert ours.failed == 1 and ours.last_error.startswith(event.event_id)


@pytest.mark.django_db(transaction=True)
def test_a_report_that_nobody_could_mean_holds_up_none_that_follows_it() -> None:
    handlers.ensure()
    parked_one = published("a")
    publish(PARKED, {"group": "mint", "state": "failed"}, source="mint", stream="mint")
    data = {"group": "mint", **facts(parked_one)}
    publish(PARKED, data, source="mint", stream="mint")
    numbered()
    row = Subscription.objects.get(name="letters")
    Subscription.objects.filter(pk=row.pk).update(holder="test")
    step = handlers.step(row, "test", mirror.HANDLER, store.Tail(), row.position)
    assert step.failed == 0
    [letter] = DeadLetter.objects.all()
    assert (letter.subscription.name, letter.event_id) == ("mint", parked_one.event_id)


def test_a_service_can_not_take_the_name_of_a_webhook() -> None:
    ours = Subscription.objects.create(name="letters", kind="internal")
    hook = Subscription.objects.create(name="mint", kind="webhook")
    report(STARTED, {"patterns": ["#"]})
    ours.refresh_from_db()
    hook.refresh_from_db()
    assert "no service's" in ours.last_error and (hook.kind, hook.patterns) == ("webhook", [])


@pytest.mark.parametrize(("how", "state", "succeeded"), [("handled", "resolved", 1), ("unknown", "discarded", 0)])
def test_a_letter_whose_end_was_lost_ends_when_the_service_says_that_it_has_it_not(
    how: str, state: str, succeeded: int
) -> None:
    event = published("a")
    parked(event, row=7, changed=2)
    job = actions.redrive(Subscription.objects.get(name="mint"), {}, actor="ann")
    work()
    said = {"source": event.source, "event_id": event.event_id, "row": 0, "changed": 0}
    report(RESOLVED, said | {"how": how, "at": AT + 99, "first_at": AT + 99})
    letter = DeadLetter.objects.get()
    assert letter.state == state and ("no such row" in letter.note) == (how == "unknown")
    work()
    job.refresh_from_db()
    assert (job.state, job.succeeded) == ("done", succeeded)
    # Said of one that is closed it changes nothing: somebody may have asked twice.
    report(RESOLVED, said | {"how": "unknown", "at": AT + 120, "first_at": AT + 120})
    assert DeadLetter.objects.get().state == state


def test_a_redrive_is_a_word_to_the_service_and_ends_with_its_report() -> None:
    event = published("a")
    parked(event)
    one = Subscription.objects.get(name="mint")
    job = actions.redrive(one, {}, actor="ann")
    work()
    assert said(REDRIVE) == [{"group": "mint", "events": [{"source": event.source, "event_id": event.event_id}]}]
    assert DeadLetter.objects.get().state == State.REDRIVING
    parked(event, reason="no, again", tries=5)
    assert DeadLetter.objects.get().state == State.REDRIVING, "it is what was known before"
    parked(event, reason="no, again", tries=6)
    job.refresh_from_db()
    assert DeadLetter.objects.get().state == State.FAILED and job.failed == 1
    work()
    job.refresh_from_db()
    assert job.state == "done"
    job = actions.redrive(one, {}, actor="ann")
    work()
    ends(event, "handled")
    work()
    job.refresh_from_db()
    assert (job.state, job.succeeded) == ("done", 1)


def test_a_discarded_one_is_told_to_the_service() -> None:
    event = published("a")
    parked(event)
    assert actions.discard(DeadLetter.objects.all(), actor="ann", note="old") == 1
    assert said(DISCARD)[0]["events"] == [{"source": event.source, "event_id": event.event_id}]
    with pytest.raises(Refused):
        actions.resolve(DeadLetter.objects.get(), actor="ann", note="")


def test_an_edited_one_is_sent_to_the_service_in_the_place_of_its_original() -> None:
    event = published("a", {"amount": 1})
    parked(event)
    letter = DeadLetter.objects.get()
    edited = editing.edit(letter, {"amount": 2}, actor="ann", note="typo")
    [word] = said(REPLACE)
    inner = decode(word["body"])
    assert (inner.id, inner.source, inner.type, inner.data) == (
        edited.event_id,
        event.source,
        event.type,
        {"amount": 2},
    )
    assert (inner.partition_key, inner.causation_id) == ("a", event.event_id)
    letter.refresh_from_db()
    assert letter.state == State.RESOLVED and letter.replaced_by == edited.stored
    ends(edited.stored, "handled")
    assert not DeadLetter.objects.filter(state__in=DeadLetter.OPEN).exists()


def test_a_report_may_be_in_the_log_before_its_event_is() -> None:
    class Later:
        source, event_id, type, stream = "covenant", "e1", "test.thing.done", "ledger"

    parked(Later())  # type: ignore[arg-type]
    letter = DeadLetter.objects.get()
    assert letter.event is None
    event = published("ledger")
    DeadLetter.objects.update(source=event.source, event_id=event.event_id)
    assert DeadLetter.objects.get().event == event and DeadLetter.objects.get().stored == event
