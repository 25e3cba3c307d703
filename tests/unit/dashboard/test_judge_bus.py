"""Whether events reach whom they are for, judged from values alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.dashboard import state
from apps.dashboard.judge import bus
from apps.dashboard.judge.readings import Bus, Changes, Group, Projected, Reading, Receiver, Reports, Waiting
from tests.unit.dashboard.evidence import NOW, readings, running


def receiver(**more: Any) -> Receiver:
    return Receiver(**{"name": "orders", "kind": "webhook", "state": "active"} | more)


def verdict(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = state.build(readings(bus=Bus(head=100, **more)), {}, NOW)["verdict"]
    return found


def test_dead_letters_are_told_with_whose_and_how_many_wait_behind() -> None:
    broken = receiver(name="bills", open={"failed": 2, "parked": 9})
    found = verdict(receivers=(receiver(open={"failed": 1}), broken), keys=2, failed_at=NOW - 50)
    assert found["state"] == "degraded"
    assert found["title"] == "Degraded: 3 dead letters of bills and orders, 2 keys waiting behind"
    assert found["since"] == NOW - 50


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"holes": 1}, "1 event of publishers missing in the log"),
        ({"forged": 4}, "4 forged entries refused in the last hour"),
        ({"forged": 1}, "1 forged entry refused in the last hour"),
        ({"receivers": (receiver(opened_until=NOW + 9, failing_since=NOW - 60),)}, "orders fails to take events"),
        ({"receivers": (receiver(lag=10, behind_since=NOW - 90),)}, "orders is 10 events, 2 min behind"),
        (
            {"receivers": (receiver(state="disabled", failing_since=NOW - 9, reason="410"),)},
            "orders fails to take events",
        ),
        ({"receivers": (receiver(open={"retrying": bus.MANY}),)}, "10,000 events waiting to be tried again"),
    ],
)
def test_what_somebody_must_do_something_about_is_told(more: dict[str, Any], said: str) -> None:
    assert verdict(**more)["title"] == f"Degraded: {said}"


BILLS = {"name": "bills"}
LETTERS = ("Dead letters", "/events/dead-letters/?subscription=orders")
ORDERS = ("orders", "/events/subscriptions/orders/")
ODD = "KeyError: 'n'"


@pytest.mark.parametrize(
    ("more", "links"),
    [
        ({"holes": 1}, [("Missing events", "/system/#missing")]),
        ({"forged": 1}, [("Entries put aside", "/system/#aside")]),
        (
            {"receivers": (receiver(open={"failed": 1}),)},
            [LETTERS],
        ),
        (
            {"receivers": (receiver(open={"failed": 1}), receiver(**BILLS, open={"failed": 1}))},
            [("Dead letters", "/events/dead-letters/")],
        ),
        (
            {"receivers": (receiver(open={"failed": 1}, opened_until=NOW + 9),)},
            [
                LETTERS,
                ORDERS,
            ],
        ),
        (
            {"receivers": (receiver(opened_until=NOW + 9), receiver(**BILLS, opened_until=NOW + 9))},
            [("Subscriptions", "/events/subscriptions/")],
        ),
        ({"receivers": (receiver(lag=10, behind_since=NOW - 90),)}, [ORDERS]),
        (
            {"receivers": (receiver(open={"retrying": bus.MANY}),)},
            [("What waits", "/events/dead-letters/?state=retrying")],
        ),
        ({"projections": (Projected("totals", 9, None, ODD),)}, [("Projections", "/system/#projections")]),
    ],
)
def test_what_is_told_leads_to_where_it_is_mended(more: dict[str, Any], links: list[tuple[str, str]]) -> None:
    assert [(one["title"], one["url"]) for one in verdict(**more)["mend"]] == links


def test_a_broker_that_is_away_leads_to_the_outboxes_and_a_relay_that_is_down_to_the_processes() -> None:
    away = Reports(waiting=(Waiting("covenant", "kafka", 12, 90.0, True),))
    made = readings(bus=Bus(head=100), reports=away, processes=running(relay="FATAL"))
    found = state.build(made, {}, NOW)["verdict"]
    assert [one["url"] for one in found["mend"]] == ["/system/", "/system/#waiting"]
    assert not verdict()["mend"], "nothing is wrong"


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            Projected("totals", 9, None, ODD),
            f"projection totals stands still, 9 events behind: {ODD}",
        ),
        (Projected("totals", 1200, NOW - 90), "projection totals is 1,200 events behind, 2 min"),
        (Projected("totals", 1200, NOW - 9), ""),
        (Projected("totals", 9, NOW - 900), ""),
    ],
)
def test_a_projection_that_stands_still_or_is_behind_is_told(build: Projected, said: str) -> None:
    assert verdict(projections=(build,))["title"] == (f"Degraded: {said}" if said else "Everything is healthy")


@pytest.mark.parametrize(
    "quiet",
    [
        receiver(state="paused", lag=9_000, behind_since=NOW - 9_000),
        receiver(state="disabled"),
        receiver(open={"retrying": 5, "parked": 3}),
        receiver(lag=9, behind_since=NOW - 9_000),
        receiver(lag=500, behind_since=NOW - 59),
        receiver(opened_until=NOW - 1, failing_since=NOW - 60),
    ],
)
def test_what_mends_itself_or_was_wanted_is_not_told(quiet: Receiver) -> None:
    assert verdict(receivers=(quiet,))["state"] == "healthy"


def test_a_failing_service_is_told_before_the_bus_and_the_bus_with_it() -> None:
    made = readings(bus=Bus(receivers=(receiver(open={"failed": 1}),)), processes=running(relay="FATAL"))
    found = state.build(made, {}, NOW)["verdict"]
    assert found["title"].startswith("Degraded: the relay") and "1 dead letter of orders" in found["detail"]


WAITS = "12 events of covenant waiting, the oldest for 2 min"
MINT = Receiver("mint", "consumer", "active", lag=None)


@pytest.mark.parametrize(
    ("said", "title"),
    [
        (Group(NOW - 5, lag=9, behind_since=NOW - 900), ""),
        (Group(NOW - 5, lag=400, behind_since=NOW - 30), ""),
        (Group(NOW - 5, lag=400, behind_since=NOW - 90), "mint is 400 events, 2 min behind"),
        (Group(NOW - 5, missing=3), "3 events never came to mint"),
        (
            Group(NOW - 120, lag=400, behind_since=NOW - 900, missing=3),
            "mint has been silent for 2 min: whether events are taken is not known",
        ),
    ],
)
def test_what_a_services_consumer_says_of_itself_is_judged_until_it_is_silent(said: Group, title: str) -> None:
    made = readings(
        bus=Bus(head=100, receivers=(MINT,)), reports=Reports({"mint": said, "other": Group(NOW, lag=10**6)})
    )
    document = state.build(made, {}, NOW)
    assert document["verdict"]["title"] == (f"Degraded: {title}" if title else "Everything is healthy")
    shown = document["events"]["subscriptions"]["mint"]
    silent = "silent" in title
    assert (shown["word"], shown.get("lag")) == (
        "silent" if silent else "behind" if "behind" in title else "active",
        None if silent else said.lag,
    )
    assert document["events"].get("silent") == (["mint"] if silent else None)


@pytest.mark.parametrize(
    "reports",
    [Reports(), Reading(Reports({"mint": Group(NOW, lag=7)}), NOW - 31), Reading(Reports(), 0.0, "it does not answer")],
)
def test_a_consumer_that_nobody_heard_is_grey_without_a_number(reports: Any) -> None:
    shown = state.build(readings(bus=Bus(receivers=(MINT,)), reports=reports), {}, NOW)["events"]["subscriptions"][
        "mint"
    ]
    assert shown["state"] == "unknown" and "lag" not in shown
    assert shown["word"] == ("silent" if isinstance(reports, Reports) else "not known")


@pytest.mark.parametrize(
    ("waiting", "title"),
    [
        (
            Waiting("covenant", "kafka", 12, 90.0, True),
            "kafka takes no events: 12 events of covenant waiting, the oldest for 2 min",
        ),
        (Waiting("covenant", "kafka", 0, 0.0, True), "kafka takes no events of covenant"),
        (
            Waiting("covenant", "redis", 12, 90.0, False),
            f"redis is slow: {WAITS}",
        ),
        (Waiting("covenant", "redis", 12, 9.0, False), ""),
    ],
)
def test_a_broker_that_is_away_and_an_outbox_that_grows_old_are_told(waiting: Waiting, title: str) -> None:
    made = readings(bus=Bus(head=100), reports=Reports(waiting=(waiting,)))
    document = state.build(made, {}, NOW)
    assert document["verdict"]["title"] == (f"Degraded: {title}" if title else "Everything is healthy")
    assert document["events"].get("away") == (["kafka"] if waiting.away else None)


def test_our_own_outbox_that_grows_old_is_told_with_its_depth() -> None:
    changes = Changes(revision=7, published_at=NOW - 600, waiting=1200, oldest_at=NOW - 90)
    document = state.build(readings(bus=Bus(head=100), changes=changes), {}, NOW)
    assert document["verdict"]["title"] == "Degraded: the relay is behind: 1,200 events waiting, the oldest for 2 min"
    assert document["events"]["waiting"] == 1200
    said = Reports(waiting=(Waiting("relay", "kafka", 1200, 90.0, True), Waiting("covenant", "kafka", 5, 9.0, True)))
    document = state.build(readings(bus=Bus(head=100), changes=changes, reports=said), {}, NOW)
    assert document["events"]["waiting"] == 1205, "ours once, and those of services"


@given(
    st.one_of(st.just(0.0), st.floats(-1e9, 1e9).map(lambda age: NOW - age)),
    st.sampled_from(["", "it does not answer"]),
)
def test_a_bus_that_can_not_be_read_is_grey_and_says_no_number(at: float, error: str) -> None:
    made = readings(bus=Reading(Bus(head=7, receivers=(receiver(open={"failed": 1}),)), at, error))
    document = state.build(made, {}, NOW)
    if "stale" in document["sources"]["bus"]:
        assert document["events"] == {}
        assert document["verdict"]["state"] == "unknown" and "dead letter" not in str(document["verdict"])
    else:
        assert document["events"]["failed"] == 1


def test_each_subscription_has_a_state_and_a_word() -> None:
    made = (
        receiver(name="a"),
        receiver(name="b", state="paused"),
        receiver(name="c", opened_until=NOW + 1),
        receiver(name="d", open={"failed": 1}),
        receiver(name="e", state="disabled"),
    )
    found = state.build(readings(bus=Bus(receivers=made)), {}, NOW)["events"]["subscriptions"]
    assert {name: one["state"] for name, one in found.items()} == {
        "a": "healthy",
        "b": "maintenance",
        "c": "failing",
        "d": "degraded",
        "e": "maintenance",
    }
    assert found["c"]["word"] == "breaker open" and found["d"]["failed"] == 1
