"""A group's place on Kafka: before a broker that knows less than it was told, and after one that lost something."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition

from services.kit.events.transport.kafka_group import Log, broken, described


class Late:
    """An administrator's client of a broker that hears of a new topic after it has been made, and then in parts."""

    def __init__(self) -> None:
        self.asked = 0

    async def list_topics(self) -> list[str]:
        self.asked += 1
        return ["mc.events.other", "theirs"] if self.asked == 1 else ["mc.events.other", "theirs", "mc.events.shop"]

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"topic": name, "partitions": [{"partition": 0}] if self.asked > 2 else []} for name in names]


async def test_a_group_does_not_begin_before_the_broker_knows_the_topic_that_it_made() -> None:
    """Nothing would be committed, and what is published before the group first reads would be no lag of it."""
    found = await described(Late(), {"mc.events.shop"})  # type: ignore[arg-type]
    assert found == [{"topic": "mc.events.shop", "partitions": [{"partition": 0}]}]


HERE, THERE = TopicPartition("mc.events.shop", 0), TopicPartition("mc.events.shop", 1)
BEFORE = {HERE: Log(0, 5, 9), THERE: Log(0, 0, 0)}


@pytest.mark.parametrize(
    ("now", "lost"),
    [
        ({HERE: Log(0, 9, 12), THERE: Log(0, 0, 0)}, False),
        ({HERE: Log(4, 5, 9), THERE: Log(0, 0, 0)}, False),
        ({HERE: Log(6, 5, 9), THERE: Log(0, 0, 0)}, True),
        ({HERE: Log(0, 5, 8), THERE: Log(0, 0, 0)}, True),
        ({HERE: Log(0, 5, 3), THERE: Log(0, 0, 0)}, True),
        ({THERE: Log(0, 0, 0)}, True),
    ],
    ids=["it went on", "what was read left", "what was unread left", "the end fell", "begun anew", "place forgotten"],
)
def test_what_kafka_lost_between_two_looks_is_seen(now: dict[TopicPartition, Log], lost: bool) -> None:
    assert broken(BEFORE, now) is lost
    assert not broken(now, now), "it is said once"
