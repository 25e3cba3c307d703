"""A group's place on Kafka: where it begins, committed once for all its members; and whether the log lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    UnknownMemberIdError,
)

from .base import Start, TransportAway
from .kafka_wire import ANSWER_MS, TOPIC_PREFIX, Address, ask, make_topics


class Log(NamedTuple):
    """A partition and its group's place in it, as offsets."""

    first: int
    """Of the oldest that is there."""
    committed: int
    end: int
    """Of what comes next."""

    @property
    def odd(self) -> bool:
        """Whether the place is outside: what the group had still to read is gone, or what it had read."""
        return not self.first <= self.committed <= self.end


def broken(before: Mapping[TopicPartition, Log], now: Mapping[TopicPartition, Log]) -> bool:
    """Whether Kafka lost something between two looks: a log that fell or left its group behind, or a place of the
    group that is not known any more. Pure."""
    return any(one not in now or now[one].end < was.end for one, was in before.items()) or any(
        is_now.odd and not (one in before and before[one].odd) for one, is_now in now.items()
    )


async def note_start(
    address: Address, group: str, topics: Collection[str] | None, start: Start, new_consumer: Callable[..., Any]
) -> None:
    """Make the ``topics`` that are missing, and commit where the group begins, for all partitions of which it knows
    nothing yet. None for ``topics`` are all that there are."""
    made = None if topics is None else {TOPIC_PREFIX + topic for topic in topics}
    admin = AIOKafkaAdminClient(request_timeout_ms=ANSWER_MS, **address.options)
    try:
        await address.start(admin)
        await make_topics(admin, made or ())
        known = await _group_offsets(admin, group)
        there = await described(admin, made)
    finally:
        await admin.close()
    partitions = [TopicPartition(topic["topic"], one["partition"]) for topic in there for one in topic["partitions"]]
    new = [partition for partition in partitions if partition not in known]
    if not new:
        return
    consumer = new_consumer(request_timeout_ms=ANSWER_MS)
    try:
        await address.start(consumer)
        consumer.assign(new)
        await consumer.commit(await offsets_at(consumer, new, "earliest" if known else start))
    except (UnknownMemberIdError, CommitFailedError):
        pass  # Others of the group are there: then the beginning it is.
    finally:
        await end(consumer)


async def described(admin: AIOKafkaAdminClient, made: Collection[str] | None) -> list[dict[str, Any]]:
    """The topics to read. Those that were just made a broker knows a moment later: it is waited for."""
    while True:
        topics = [
            name
            for name in await admin.list_topics()
            if (name.startswith(TOPIC_PREFIX) if made is None else name in made)
        ]
        found = await admin.describe_topics(topics) if topics else []
        whole = [topic for topic in found if topic["partitions"]]
        if {*(made or ())} <= {topic["topic"] for topic in whole}:
            return whole
        await asyncio.sleep(0.1)


async def _group_offsets(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, Any]:
    """What the group has committed. A cluster's first group has to wait until there is a place for it."""
    while True:
        try:
            return dict(await admin.list_consumer_group_offsets(group))
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
            await asyncio.sleep(0.1)


async def offsets_at(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], start: Start
) -> dict[TopicPartition, int]:
    """Where ``start`` is in each."""
    if start == "earliest":
        return dict(await consumer.beginning_offsets(partitions))
    ends: dict[TopicPartition, int] = dict(await consumer.end_offsets(partitions))
    if not isinstance(start, str):
        times = await consumer.offsets_for_times(dict.fromkeys(partitions, int(start * 1000)))
        ends |= {partition: found.offset for partition, found in times.items() if found is not None}
    return ends


async def end(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and close what is open, whatever of it still answers."""
    try:
        await ask(consumer.stop(), 1.0)
    except (TransportAway, asyncio.CancelledError):
        # It waits for the group, which may wait for long: then its connections go, and the group misses it soon.
        await consumer._client.close()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
