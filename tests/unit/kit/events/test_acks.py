"""Acknowledgements that go together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.kit.events.acks import Together
from services.kit.events.transport.base import Delivery, TransportAway


def deliveries(*names: str) -> list[Delivery]:
    return [Delivery("t", 0, name, 1, b"", None) for name in names]


class Slow:
    """A subscription that answers when it is told to."""

    def __init__(self) -> None:
        self.came: list[list[str]] = []
        self.dead: list[str] = []
        self.away = False
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.came.append([one.position for one in deliveries])
        self.began.set()
        await self.go.wait()
        if self.away:
            raise TransportAway("unplugged")

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        self.dead.append(f"{delivery.position}: {reason}")


async def test_what_is_settled_in_one_turn_goes_as_one_and_what_comes_meanwhile_with_the_next() -> None:
    slow = Slow()
    together = Together(slow)
    first = [asyncio.create_task(together.ack(deliveries(name))) for name in "abc"]
    await slow.began.wait()
    second = [asyncio.create_task(together.ack(deliveries(name, name * 2))) for name in "de"]
    for _ in range(5):
        await asyncio.sleep(0)
    assert slow.came == [["a", "b", "c"]] and not any(task.done() for task in first + second)
    slow.go.set()
    await asyncio.gather(*first, *second)
    assert slow.came == [["a", "b", "c"], ["d", "dd", "e", "ee"]]


async def test_a_bus_that_is_away_is_said_to_all_and_each_may_ask_again() -> None:
    slow = Slow()
    together, slow.away = Together(slow), True
    slow.go.set()
    ends = await asyncio.gather(*(together.ack(deliveries(name)) for name in "ab"), return_exceptions=True)
    assert [str(end) for end in ends] == ["unplugged"] * 2 and all(isinstance(end, TransportAway) for end in ends)
    slow.away = False
    await asyncio.gather(*(together.ack(deliveries(name)) for name in "ab"))
    assert slow.came == [["a", "b"]] * 2


async def test_whoever_is_cut_off_while_it_sends_has_acknowledged_nothing_for_the_others() -> None:
    slow = Slow()
    together = Together(slow)
    sender, other = (asyncio.create_task(together.ack(deliveries(name))) for name in "ab")
    await slow.began.wait()
    sender.cancel()
    with pytest.raises(TransportAway, match="cut off"):
        await other
    slow.go.set()
    await together.ack(deliveries("b"))
    assert slow.came == [["a", "b"], ["b"]]


async def test_what_is_put_aside_goes_by_itself() -> None:
    slow = Slow()
    await Together(slow).dead_letter(deliveries("a")[0], "odd")
    assert slow.dead == ["a: odd"] and slow.came == []
