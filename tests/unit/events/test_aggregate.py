"""Aggregates: whatever the commands, the log tells the state that a plain model has."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.events import sequencer, tasks
from apps.events.actions import VersionConflict, publish
from apps.events.aggregate import Aggregate, Fact, HistoryGone, aexecute, execute, load
from apps.events.models import Event, OutboxMessage, Snapshot

pytestmark = pytest.mark.django_db


@dataclass(frozen=True)
class Account:
    cents: int = 0
    closed: bool = False


@dataclass(frozen=True)
class Move:
    cents: int


@dataclass(frozen=True)
class Close:
    pass


class Refused(Exception):
    pass


def decide(account: Account, command: Move | Close) -> Sequence[Fact]:
    if account.closed:
        raise Refused("closed")
    if isinstance(command, Close):
        rest = [Fact("test.account.moved", {"cents": -account.cents})] if account.cents else []
        return [*rest, Fact("test.account.closed")]
    if command.cents == 0:
        return []
    if account.cents + command.cents < 0:
        raise Refused("overdrawn")
    return [Fact("test.account.moved", {"cents": command.cents}, tags=("money",))]


def evolve(account: Account, fact: Fact) -> Account:
    if fact.type == "test.account.closed":
        return replace(account, closed=True)
    return replace(account, cents=account.cents + fact.data["cents"])


ACCOUNTS = Aggregate("account", Account(), decide, evolve, snapshot_every=3)
BARE = replace(ACCOUNTS, snapshot_every=0)

COMMANDS = st.lists(st.one_of(st.integers(-50, 50).map(Move), st.just(Close())), max_size=12)


def test_the_log_tells_what_a_plain_model_has_at_every_version() -> None:
    names = itertools.count()

    @settings(max_examples=40, deadline=None)
    @given(COMMANDS)
    def holds(commands: list[Move | Close]) -> None:
        key, model = f"a{next(names)}", [Account()]
        for command in commands:
            try:
                facts = decide(model[-1], command)
            except Refused:
                with pytest.raises(Refused):
                    execute(ACCOUNTS, key, command)
                continue
            for fact in facts:
                model.append(evolve(model[-1], fact))
            done = execute(ACCOUNTS, key, command)
            assert (done.state, done.version, len(done.events)) == (model[-1], len(model) - 1, len(facts))
        for version, state in enumerate(model):
            assert load(ACCOUNTS, key, until=version).state == load(BARE, key, until=version).state == state
        assert load(ACCOUNTS, key) == load(BARE, key)

    holds()
    assert Snapshot.objects.exists()


def test_a_snapshot_of_another_shape_or_a_deleted_one_costs_time_and_nothing_else() -> None:
    for _ in range(7):
        execute(ACCOUNTS, "a", Move(1))
    assert Snapshot.objects.get().version == 6
    Snapshot.objects.update(state={"cents": 1000, "closed": False})
    assert load(ACCOUNTS, "a").state == Account(1001), "it is used"
    assert load(replace(ACCOUNTS, shape=2), "a").state == Account(7)
    Snapshot.objects.all().delete()
    assert load(ACCOUNTS, "a").state == Account(7)


def test_a_refused_command_in_the_callers_transaction_leaves_it_fit_for_use() -> None:
    with transaction.atomic():
        execute(ACCOUNTS, "a", Move(5))
        with pytest.raises(Refused):
            execute(ACCOUNTS, "a", Move(-6))
        execute(ACCOUNTS, "a", Move(-5))
    assert load(ACCOUNTS, "a").version == 2


def test_a_command_is_given_back_when_somebody_is_always_faster() -> None:
    def hurried(state: Account, command: Move | Close) -> Sequence[Fact]:
        publish("test.account.moved", {"cents": 1}, stream="account/a")
        return decide(state, command)

    with pytest.raises(VersionConflict):
        execute(replace(ACCOUNTS, decide=hurried), "a", Move(1))
    assert load(ACCOUNTS, "a").state == Account(5)


def test_retention_leaves_an_aggregates_memory_alone() -> None:
    execute(ACCOUNTS, "a", Move(5))
    publish("test.thing.done", {}, stream="message")
    sequencer.number()
    long_ago = datetime.now(UTC) - timedelta(days=4000)
    Event._base_manager.update(time=long_ago)
    OutboxMessage.objects.update(sent_at=long_ago)
    tasks.prune()
    assert [event.stream for event in Event.objects.all()] == ["account/a"]
    assert load(ACCOUNTS, "a").state == Account(5)


def test_a_state_is_not_told_from_half_a_history() -> None:
    for _ in range(2):
        execute(BARE, "a", Move(5))
    sequencer.number()
    Event.objects.filter(version=1).prune()
    with pytest.raises(HistoryGone):
        load(BARE, "a")


@pytest.mark.django_db(transaction=True)
def test_four_who_command_at_once_are_all_obeyed_and_never_overdraw() -> None:
    execute(ACCOUNTS, "a", Move(30))
    gate = threading.Barrier(4)

    def spend(n: int) -> int:
        spent = 0
        gate.wait(20)
        try:
            while spent < 10:
                try:
                    execute(ACCOUNTS, "a", Move(-random.randint(1, 2)))
                except Refused:
                    return spent
                except VersionConflict:
                    continue
                spent += 1
            return spent
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        moves = sum(pool.map(spend, range(4)))
    state = load(BARE, "a")
    assert state.version == moves + 1
    assert state.state.cents >= 0
    assert load(ACCOUNTS, "a") == state


@pytest.mark.django_db(transaction=True)
async def test_asynchronous_code_commands_too() -> None:
    assert (await aexecute(ACCOUNTS, "a", Move(5))).state == Account(5)
