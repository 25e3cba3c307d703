"""What a subscription holds, by ``now`` alone."""

from __future__ import annotations

from services.kit.events.transport.base import Delivery, Place
from services.kit.events.transport.hands import Hands

ONE, OTHER = ("t", 1), ("t", 2)


def deliveries(place: Place, *positions: int) -> list[Delivery]:
    return [Delivery(*place, str(position), 1, b"", None) for position in positions]


def stocked(*positions: int) -> Hands:
    hands = Hands()
    for place in (ONE, OTHER):
        hands.hold(place)
        hands.stock(deliveries(place, *positions))
    return hands


def places(some: list[Delivery]) -> list[tuple[int, str]]:
    return [(one.partition, one.position) for one in some]


def test_partitions_take_turns_and_no_more_is_given_out_than_fits() -> None:
    hands = stocked(1, 2, 3)
    assert places(hands.take(2, 0.0)) == [(1, "1"), (1, "2")]
    assert places(hands.take(4, 0.0)) == [(2, "1"), (2, "2")]
    assert hands.take(4, 0.0) == []
    hands.settle(ONE, deliveries(ONE, 1))
    assert places(hands.take(4, 0.0)) == [(1, "3")]
    assert hands.in_hand == 4


def test_what_is_given_back_takes_what_follows_along_and_waits_for_its_time() -> None:
    hands = stocked(1, 2, 3)
    hands.take(6, 0.0)
    hands.settle(ONE, deliveries(ONE, 1))
    hands.give_back(ONE, deliveries(ONE, 2), not_before=5.0)
    assert hands.due() == 5.0
    assert hands.take(6, 4.9) == []
    again = hands.take(6, 5.0)
    assert [(one.position, one.attempt) for one in again] == [("2", 2), ("3", 2)]


def test_the_oldest_that_is_not_settled_is_known_whatever_order_they_are_settled_in() -> None:
    hands = stocked(1, 2, 3)
    hands.take(4, 0.0)
    hands.settle(ONE, deliveries(ONE, 2))
    assert hands.first(ONE) == "1"
    hands.settle(ONE, deliveries(ONE, 1))
    assert hands.first(ONE) == "3"
    hands.settle(ONE, deliveries(ONE, 3))
    assert hands.first(ONE) is None
    assert hands.idle(ONE)


def test_a_loss_is_told_once_and_bars_the_way_back_until_then() -> None:
    hands = stocked(1, 2)
    held = hands.take(2, 0.0)
    hands.lose(ONE)
    hands.lose(OTHER)
    assert hands.may_return(OTHER), "nothing of it was in hand"
    assert not hands.may_return(ONE)
    assert hands.mine(held) == {}
    assert hands.may_return(ONE), "all of it is settled, if too late"
    assert hands.told() == set()
    hands.hold(ONE)
    hands.stock(deliveries(ONE, 1))
    hands.take(1, 0.0)
    hands.lose(ONE)
    assert hands.told() == {ONE}
    assert hands.told() == set()
    assert hands.may_return(ONE)
