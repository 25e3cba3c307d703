"""Events on Apache Kafka: a topic for each of ours (``mc.events.<topic>``), whose key is the event's partition key.

Published by an idempotent producer and confirmed by all replicas in step. The attributes of an event are headers
(``ce_``), its data the value: CloudEvents' binary mode. ``kafka_wire`` says what a URL may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import InvalidTopicError, KafkaConnectionError, MessageSizeTooLargeError, RecordTooLargeError

from .base import Outgoing, Rejected, Start, Stats, TransportAway, Wanted
from .bindings import CONTENT_TYPE, binary
from .kafka_group import Log, broken
from .kafka_reading import KafkaReading
from .kafka_wire import ANSWER_MS, DEAD_PREFIX, MESSAGE_BYTES, TOPIC_PREFIX, Address, ask, away, make_topics

log = logging.getLogger(__name__)

BATCH_BYTES = 128 * 1024


class Kafka:
    """The Transport on Kafka."""

    name = "kafka"
    whole = ""

    def __init__(self, url: str) -> None:
        self._address = Address.of(url)
        self._producer: AIOKafkaProducer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._looker: AIOKafkaConsumer | None = None
        self._connecting = asyncio.Lock()
        self._topics: set[str] = set()
        self._readings: set[KafkaReading] = set()
        self._seen: dict[str, dict[TopicPartition, Log]] = {}
        """By group: what its partitions were like at the last look."""
        self._stats = Stats()

    def stats(self) -> Stats:
        return replace(self._stats)

    async def close(self) -> None:
        for reading in self._readings:
            await reading.close()
        self._readings.clear()
        await self._drop()

    async def _drop(self) -> None:
        """Close what is open: a producer that failed may not go on, for it would leave a gap in its own numbers."""
        admin, self._admin, self._topics = self._admin, None, set()
        looker, self._looker = self._looker, None
        producer, self._producer = self._producer, None
        for end in (
            producer and _end(producer),
            looker and looker.stop(),
            admin and admin.close(),
        ):
            if end:
                try:
                    await ask(end)
                except TransportAway:
                    pass  # It is gone either way.

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        if not batch:
            return []
        try:
            return await ask(self._publish(batch))
        except TransportAway:
            await self._drop()
            raise

    async def _publish(self, batch: Sequence[Outgoing]) -> list[Rejected | None]:
        producer = await self._ready({TOPIC_PREFIX + out.goes_to for out in batch})
        outcomes: list[Rejected | None] = [None] * len(batch)
        sent: list[tuple[int, asyncio.Future[Any]]] = []
        for at, out in enumerate(batch):
            try:
                named, body = binary(out.event)
                headers = [("content-type", named.pop(CONTENT_TYPE).encode())]
                headers += [(f"ce_{name}", value.encode()) for name, value in named.items()]
                key = out.by.encode() or None
                future = await producer.send(TOPIC_PREFIX + out.goes_to, body, key=key, headers=headers)
                # Whoever asked may be gone when the answer comes.
                future.add_done_callback(lambda done: done.cancelled() or done.exception())
                sent.append((at, future))
            except Rejected as refused:
                outcomes[at] = refused
            except (MessageSizeTooLargeError, InvalidTopicError) as error:
                outcomes[at] = Rejected(str(error))
        answers = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (at, _), answer in zip(sent, answers, strict=True):
            if isinstance(answer, MessageSizeTooLargeError | RecordTooLargeError):
                outcomes[at] = Rejected(str(answer))
            elif isinstance(answer, BaseException):
                raise away(answer)
        return outcomes

    async def _ready(self, topics: set[str]) -> AIOKafkaProducer:
        """The producer, once the topics are there."""
        async with self._connecting:
            if not topics <= self._topics:
                await make_topics(await self._administrator(), topics - self._topics)
                self._topics |= topics
            if self._producer is None:
                self._producer = AIOKafkaProducer(
                    acks="all",
                    enable_idempotence=True,
                    max_request_size=MESSAGE_BYTES,
                    max_batch_size=BATCH_BYTES,
                    request_timeout_ms=ANSWER_MS,
                    **self._address.options,
                )
                await self._address.start(self._producer)
            return self._producer

    async def _administrator(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            self._admin = AIOKafkaAdminClient(request_timeout_ms=ANSWER_MS, **self._address.options)
            await self._address.start(self._admin)
        return self._admin

    async def _put_aside(self, group: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        try:
            await ask(self._produce_dead(DEAD_PREFIX + group, value, headers))
        except TransportAway:
            await self._drop()
            raise

    async def _produce_dead(self, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        producer = await self._ready({topic})
        await producer.send_and_wait(topic, value, headers=headers)

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(
        self,
        patterns: Sequence[str],
        group: str,
        member: str,
        *,
        topics: Collection[str] = (),
        start: Start = "earliest",
        lease_s: float = 30.0,
    ) -> KafkaReading:
        wanted = Wanted(patterns, topics)
        reading = KafkaReading(self._address, self._stats, self._put_aside, wanted, group, member, start, lease_s)
        self._readings = {one for one in self._readings if not one.closed} | {reading}
        await reading.begin()
        return reading

    def carriers(self, event_type: str) -> list[str]:
        return [self.name]

    async def groups(self) -> set[str]:
        try:
            return await ask(self._groups())
        except TransportAway:
            await self._drop()
            raise

    async def _groups(self) -> set[str]:
        async with self._connecting:
            admin = await self._administrator()
        return {name for name, _ in await admin.list_consumer_groups()}

    async def lag(self, group: str) -> dict[str, int]:
        try:
            return await ask(self._lag(group))
        except TransportAway:
            await self._drop()
            raise

    async def _lag(self, group: str) -> dict[str, int]:
        async with self._connecting:
            admin = await self._administrator()
            if self._looker is None:
                self._looker = AIOKafkaConsumer(request_timeout_ms=ANSWER_MS, **self._address.options)
                await self._address.start(self._looker)
        committed = await admin.list_consumer_group_offsets(group)
        # A group of this name may read topics of others as well.
        committed = {one: at for one, at in committed.items() if one.topic.startswith(TOPIC_PREFIX)}
        partitions: list[TopicPartition] = list(committed)
        firsts = await self._looker.beginning_offsets(partitions) if partitions else {}
        ends = await self._looker.end_offsets(partitions) if partitions else {}
        now = {one: Log(firsts[one], at.offset, ends[one]) for one, at in committed.items()}
        before, self._seen[group] = self._seen.get(group, {}), now
        if broken(before, now):
            log.warning("Kafka lost something that group %s may not have read.", group)
            self._stats.breaks += 1
        return {
            f"{partition.topic.removeprefix(TOPIC_PREFIX)}/{partition.partition}": max(ends[partition] - at.offset, 0)
            for partition, at in committed.items()
        }


async def _end(producer: AIOKafkaProducer) -> None:
    """Stop it, without what it would do first: try on with what was said to be unknown, and is published again."""
    await producer._sender.close()
    kept = producer._message_accumulator
    # What was offered once and is to be offered again is looked for among these when it ends, and is not there.
    kept._pending_batches.update(batch for batches in kept._batches.values() for batch in batches)
    kept.fail_all(KafkaConnectionError("The producer ends."))
    for batch in kept._pending_batches:
        batch._drain_waiter.exception()  # Nobody waits for that any more.
    await producer.stop()
