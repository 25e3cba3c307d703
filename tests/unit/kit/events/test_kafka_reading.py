"""Where a group begins on Kafka, before a broker that knows less than it was just told."""

from __future__ import annotations

from typing import Any

from services.kit.events.transport.base import Wanted
from services.kit.events.transport.kafka_reading import Reading
from services.kit.events.transport.kafka_wire import Place


class Late:
    """An administrator's client of a broker that hears of a new topic after it has been made, and then in parts."""

    def __init__(self) -> None:
        self.asked = 0

    async def list_topics(self) -> list[str]:
        self.asked += 1
        return ["mc.events.other", "theirs"] if self.asked == 1 else ["mc.events.other", "theirs", "mc.events.shop"]

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"topic": name, "partitions": [{"partition": 0}] if self.asked > 2 else []} for name in names]


async def _nothing(*_: Any) -> None:
    pass


async def test_a_group_does_not_begin_before_the_broker_knows_the_topic_that_it_made() -> None:
    """Nothing would be committed, and what is published before the group first reads would be no lag of it."""
    place = Place.of("kafka://127.0.0.1:1")
    reading = Reading(place, lambda _: None, _nothing, Wanted(["shop.#"], ()), "g", "m", "latest", 5.0)
    try:
        assert await reading._described(Late()) == [{"topic": "mc.events.shop", "partitions": [{"partition": 0}]}]
    finally:
        await reading.close()
