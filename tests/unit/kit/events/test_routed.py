"""Several brokers as one Transport, in memory: what a batch becomes, and whom an absence costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.routing import Document, Rule
from services.kit.events.transport import moves, routed
from services.kit.events.transport.base import Outgoing, Rejected, Transport, Waits
from services.kit.events.transport.routed import Routed
from tests.unit.kit.events.memory import Memory


class Broker(Memory):
    """Remembers in which order it was given what."""

    def __init__(self, log: list[tuple[str, str]], kind: str) -> None:
        super().__init__()
        self.name, self._log = kind, log
        self.left = 0

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        self.check()
        self._log += [(self.name, out.event.id) for out in batch]
        return [None] * len(batch)

    async def lag(self, group: str) -> dict[str, int]:
        self.check()
        return {"business/0": self.left}


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.brokers: dict[str, Broker] = {}

        def make(url: str, *, keep: int = 0) -> Transport:
            made = self.brokers[url] = Broker(self.log, url)
            return made

        monkeypatch.setattr(routed, "connect", make)
        monkeypatch.setattr(moves, "SETTLE_S", 0.01)
        monkeypatch.setattr(moves, "LOOK_S", 0.01)
        self.bus = Routed({kind: kind for kind in ("redis", "kafka")}, "redis")
        for kind in ("redis", "kafka"):
            self.bus.broker(kind)

    async def send(self, *ids: str, kind: str = "business.order.placed") -> list[str]:
        """What becomes of events, whose key is their first letter."""
        events = [CloudEvent(one, kind, "/s", time.time(), {}, partition_key=one[0]) for one in ids]
        answers = await self.bus.publish([Outgoing(event) for event in events])
        return ["sent" if answer is None else type(answer).__name__ for answer in answers]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_one_broker_away_puts_off_its_own_events_alone(world: World) -> None:
    world.bus.adopt(Document(1, (Rule("business.#", "kafka"),)))
    world.brokers["kafka"].away = True
    assert await world.send("a1", "b1") == ["Waits", "Waits"]
    assert await world.send("a1", kind="system.thing.done") == ["sent"]
    await world.bus.close()


@pytest.mark.parametrize("then", [(), (Rule("system.#", "redis"),)], ids=["no rules", "others"])
async def test_a_broker_that_no_rule_needs_any_more_is_not_told_of_as_away(
    world: World, monkeypatch: pytest.MonkeyPatch, then: tuple[Rule, ...]
) -> None:
    told: dict[str, int] = {}

    class Gauge:
        def set(self, value: int, attributes: dict[str, str]) -> None:
            told[attributes["broker"]] = value

    monkeypatch.setattr(routed, "away", Gauge())
    world.bus.adopt(Document(1, (Rule("business.#", "kafka"),)))
    world.brokers["kafka"].away = True
    await world.send("a1")
    assert told == {"kafka": 1}
    world.bus.adopt(Document(2, then))
    assert told == {"kafka": 0}
    world.bus.adopt(Document(3, (Rule("business.#", "kafka"),)))
    await world.send("a1")
    assert told == {"kafka": 1}, "and told of once more when it is"
    await world.bus.close()


async def test_an_event_for_two_brokers_is_sent_again_only_to_the_one_that_lacks_it(world: World) -> None:
    world.bus.adopt(Document(1, (Rule("business.#", "kafka"), Rule("business.#", "redis", topic="copy"))))
    world.brokers["kafka"].away = True
    assert await world.send("a1") == ["Waits"]
    world.brokers["kafka"].away = False
    async with asyncio.timeout(10):
        while await world.send("a1") != ["sent"]:  # noqa: ASYNC110 - asks as a pump does
            await asyncio.sleep(0.05)
    assert world.log == [("redis", "a1"), ("kafka", "a1")]
    await world.bus.close()


async def test_a_key_whose_types_go_different_ways_goes_them_one_after_the_other(world: World) -> None:
    world.bus.adopt(Document(1, (Rule("business.order.*", "kafka"),)))
    both = [
        CloudEvent(one, kind, "/s", 0.0, {}, partition_key="a")
        for one, kind in (("1", "business.order.placed"), ("2", "business.stock.counted"), ("3", "business.order.paid"))
    ]
    assert list(await world.bus.publish([Outgoing(event) for event in both])) == [None, None, None]
    assert world.log == [("kafka", "1"), ("redis", "2"), ("kafka", "3")]
    world.brokers["kafka"].away = True
    world.log.clear()
    answers = await world.bus.publish([Outgoing(event) for event in both])
    assert all(isinstance(answer, Waits) for answer in answers) and world.log == [], "the first holds back its key"
    await world.bus.close()


async def test_a_type_that_moves_waits_until_the_old_place_is_empty(world: World) -> None:
    world.bus.adopt(Document(1, (Rule("business.#", "redis"),)))
    assert await world.send("a1") == ["sent"]
    world.brokers["redis"].left = 1
    world.bus.adopt(Document(2, (Rule("business.#", "kafka"),)))
    for _ in range(20):
        assert await world.send("a2") == ["Waits"]
        await asyncio.sleep(0.01)
    world.bus.adopt(Document(3, (Rule("business.#", "redis"),)))
    assert await world.send("a2") == ["sent"], "back before it went"
    world.bus.adopt(Document(4, (Rule("business.#", "kafka"),)))
    assert await world.send("a3") == ["Waits"]
    world.brokers["redis"].left = 0
    async with asyncio.timeout(10):
        while await world.send("a3") != ["sent"]:  # noqa: ASYNC110 - asks as a pump does
            await asyncio.sleep(0.05)
    assert world.log == [("redis", "a1"), ("redis", "a2"), ("kafka", "a3")]
    await world.bus.close()


async def test_a_process_that_starts_after_a_move_waits_too(world: World) -> None:
    world.brokers["redis"].left = 1
    world.bus.adopt(Document(2, (Rule("business.#", "kafka"),), former=(Rule("#", "default"),)))
    assert await world.send("a1") == ["Waits"]
    world.brokers["redis"].left = 0
    async with asyncio.timeout(10):
        while await world.send("a1") != ["sent"]:  # noqa: ASYNC110 - asks as a pump does
            await asyncio.sleep(0.05)
    await world.bus.close()


async def test_an_old_broker_that_nobody_knows_or_reads_is_not_waited_for_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(moves, "AWAY_S", 0.1)
    monkeypatch.setattr(moves, "STALLED_S", 0.1)
    world.brokers["redis"].left = 7
    former = (Rule("business.#", "rabbitmq"), Rule("business.#", "redis"))
    world.bus.adopt(Document(2, (Rule("business.#", "kafka"),), former))
    async with asyncio.timeout(10):
        while await world.send("a1") != ["sent"]:  # noqa: ASYNC110 - asks as a pump does
            await asyncio.sleep(0.05)
    assert "not told where rabbitmq is" in caplog.text
    assert "though group have not read 7 there" in caplog.text
    await world.bus.close()


async def test_a_broker_that_answers_and_takes_nothing_is_told_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.bus.adopt(Document(1, (Rule("business.#", "kafka"),)))
    broker = world.brokers["kafka"]

    async def all_well() -> set[str]:
        return set()

    broker.groups = all_well  # type: ignore[method-assign]
    broker.away = True
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert await world.send("a1") == ["Waits"]
        await asyncio.sleep(0.05)
    assert caplog.text.count("is away") == 1 and "is back" not in caplog.text
    await world.bus.close()
