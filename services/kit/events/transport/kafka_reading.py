"""One member's reading of Kafka: a consumer of its group, what it holds, and what it commits.

Committed is the first offset that is not settled, never more. When the group is shared out anew, a member gives up its
partitions once what it has in hand is settled, or its lease ran out; the group waits for it, as it would for any
consumer that is busy with its batch. A member that neither fetches nor extends for the time of its lease leaves.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from .base import ANSWER_S, Delivery, Place, Start, Stats, TransportAway, TransportError, Wanted
from .bindings import unbound
from .kafka_group import end, note_start, offsets_at
from .kafka_wire import TOPIC_PREFIX, Address, ask, away
from .reading import Connected

log = logging.getLogger(__name__)

REBALANCE_S: Final = 300.0
"""The longest that a group waits for a member to settle what it has in hand, as long as that one renews its lease."""
LOOK_MS: Final = 1000
"""How soon a pattern over every domain finds a new topic."""
SLICE_S: Final = 0.25
"""How soon a reading that waits for records sees that something was given back."""
COMMIT_S: Final = 1.0
"""How soon it is committed that something was passed over."""
DAY_MS: Final = 86_400_000

Produce = Callable[[str, bytes, list[tuple[str, bytes]]], Awaitable[None]]
"""To a group's dead topic: group, value and headers."""


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands the two moments on."""

    def __init__(self, revoked: Callable[[], Awaitable[None]], assigned: Callable[[], None]) -> None:
        self._revoked, self._assigned = revoked, assigned

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._assigned()


class KafkaReading(Connected):
    """One member's reading of Kafka."""

    def __init__(
        self,
        address: Address,
        stats: Stats,
        produce: Produce,
        wanted: Wanted,
        group: str,
        member: str,
        start: Start,
        lease_s: float,
    ) -> None:
        super().__init__(stats, wanted, group, member, lease_s)
        self._address, self._produce, self._member, self._start = address, produce, member, start
        self._consumer: Any = None
        self._records: dict[tuple[Place, str], ConsumerRecord] = {}
        self._next: dict[Place, int] = {}
        """The offset after the last that came."""
        self._committed: dict[Place, int] = {}
        self._sharing = 0
        """Counts how often the group was shared out."""
        self._giving_up = False
        self._begun = self._noted = False
        """Whether it was ever noted where the group begins, and whether that is so since Kafka was last away."""
        self._topics: set[str] = set()
        """Those that were there at the last look."""
        self._reached: dict[Place, int] = {}
        """What was committed of each, whoever has it now."""
        self._commit_at = 0.0

    @property
    def _is_joined(self) -> bool:
        return self._consumer is not None

    async def _prepare(self) -> None:
        await self._note_start()
        await self._join()

    async def _start_over(self) -> None:
        self._noted = False
        self._reached.clear()
        await super()._start_over()

    # -- reading ---------------------------------------------------------------------------------

    async def _round(self, most: int, deadline: float) -> list[Delivery]:
        if self._consumer is None and not self._hands.untold:
            if not self._noted:
                await self._note_start()
            await self._join()
        consumer = self._consumer
        now = time.monotonic()
        if consumer is None or self._giving_up:
            await self._sleep_until(min(deadline, now + SLICE_S))
            return []
        await self._hold_new(consumer)
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_S
            self._look_for_topics(consumer)
            await self._commit({})
        if found := self._hands.take(most, now):
            return found
        room = self._hands.room(most)
        due = self._hands.due() if room > 0 else None
        until = min(deadline, now + SLICE_S, due or deadline)
        places = [place for place in self._hands.places if not self._hands.waiting(place)]
        if room <= 0 or not places:
            await self._sleep_until(until)
            return []
        sharing = self._sharing
        partitions = [_partition(place) for place in places]
        try:
            got = await consumer.getmany(*partitions, timeout_ms=max(int((until - now) * 1000), 1), max_records=room)
        except IllegalStateError:
            return []  # The group was shared out meanwhile.
        except KafkaError as error:
            raise away(error) from None
        if sharing != self._sharing:
            # Not ours any more: whoever has the partition now reads them from what is committed.
            return []
        for partition, records in got.items():
            for record in records:
                self._put((partition.topic.removeprefix(TOPIC_PREFIX), partition.partition), record)
        return self._hands.take(most, time.monotonic())

    def _put(self, place: Place, record: ConsumerRecord) -> None:
        """Make a delivery of it, unless this subscription has no use for it."""
        if record.offset < self._next[place]:
            raise TransportAway(f"{record.topic} begins anew: it lost what it had.")
        self._next[place] = record.offset + 1
        headers = [(name, _text(value)) for name, value in record.headers]
        content_type = next((value for name, value in headers if name.lower() == "content-type"), "")
        key = _text(record.key or b"")
        body = record.value or b""
        read = unbound(
            headers,
            "ce_",
            content_type if isinstance(content_type, str) else "",
            body,
            self._wanted,
            key if isinstance(key, str) else "",
        )
        if read is None:
            return
        delivery = Delivery(*place, str(record.offset), 1, body, *read)
        self._records[place, delivery.position] = record
        self._stock(delivery)

    # -- the group -------------------------------------------------------------------------------

    def _new_consumer(self, **options: Any) -> AIOKafkaConsumer:
        lease_ms = max(int(self._lease_s * 1000), 100)
        return AIOKafkaConsumer(
            group_id=self.group,
            client_id=self._member,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
            session_timeout_ms=lease_ms,
            heartbeat_interval_ms=lease_ms // 3,
            rebalance_timeout_ms=int(REBALANCE_S * 1000),
            # We see to it ourselves that a silent member leaves.
            max_poll_interval_ms=DAY_MS,
            metadata_max_age_ms=LOOK_MS if self._wanted.topics is None else 60 * LOOK_MS,
            **(self._address.options | options),
        )

    async def _note_start(self) -> None:
        # What a group that began earlier meets later it reads from its beginning.
        start: Start = "earliest" if self._begun else self._start
        work = note_start(self._address, self.group, self._wanted.topics, start, self._new_consumer)
        await ask(work, 2 * ANSWER_S)
        self._begun = self._noted = True

    def _look_for_topics(self, consumer: AIOKafkaConsumer) -> None:
        """TransportAway when one is gone that was there: then it is made again, and the group's beginning in it. Left
        to itself the driver would look for it once a minute."""
        there = {topic for topic in consumer.subscription() or () if consumer.partitions_for_topic(topic)}
        gone, self._topics = self._topics - there, there
        if gone:
            raise TransportAway(f"{', '.join(sorted(gone))} was deleted, with all that was in it.")

    async def _join(self) -> None:
        # A group waits for its busy members; so does the answer to whoever wants to join it.
        consumer = self._new_consumer(request_timeout_ms=int((REBALANCE_S + ANSWER_S) * 1000))
        try:
            await ask(self._address.start(consumer))
        except BaseException:
            await end(consumer)
            raise
        listener = _Listener(self._revoked, self._assigned)
        if self._wanted.topics is None:
            consumer.subscribe(pattern=f"^{re.escape(TOPIC_PREFIX)}.*", listener=listener)
        else:
            consumer.subscribe([TOPIC_PREFIX + topic for topic in sorted(self._wanted.topics)], listener=listener)
        self._topics = set(consumer.subscription() or ())
        # Until then the driver has heard of them.
        self._commit_at = time.monotonic() + 2 * COMMIT_S
        self._giving_up = False
        self._consumer = consumer
        if self._closed.is_set():
            await self._drop()

    async def _revoked(self) -> None:
        """The group is to be shared out anew: give nothing more out, and let what is in hand be settled."""
        self._giving_up = True
        until = time.monotonic() + REBALANCE_S
        while self._hands.in_hand and not self._closed.is_set() and time.monotonic() < until:
            await self._sleep_until(time.monotonic() + SLICE_S)
            self._changed.clear()
        self._lose_all()

    def _assigned(self) -> None:
        self._giving_up = False
        self._changed.set()

    def _lose_all(self) -> None:
        self._sharing += 1
        for place in self._hands.places:
            self._lose(place)
        self._changed.set()

    def _lose(self, place: Place) -> None:
        self._hands.lose(place)
        self._next.pop(place, None)
        self._committed.pop(place, None)
        for key in [key for key in self._records if key[0] == place]:
            del self._records[key]

    async def _hold_new(self, consumer: AIOKafkaConsumer) -> None:
        """Go on from what is committed of what we were assigned."""
        sharing = self._sharing
        places = {_place(partition): partition for partition in consumer.assignment()}
        new = {
            place: partition
            for place, partition in places.items()
            if not self._hands.holds(place) and self._hands.may_return(place)
        }
        if not new:
            return
        first = await ask(consumer.beginning_offsets(list(new.values())))
        ends = await ask(consumer.end_offsets(list(new.values())))
        told = False
        for place, partition in new.items():
            committed = await ask(consumer.committed(partition))
            if sharing != self._sharing or partition not in consumer.assignment():
                return  # It is, or is about to be, shared out anew.
            offset = first[partition]
            if committed is not None and committed < offset:
                self._stats.lost += offset - committed
                self._stats.breaks += 1
            elif (committed or 0) > ends[partition] or (committed is None and place in self._reached):
                if not told:
                    log.warning("Group %s had read more than there is of %s: it begins anew.", self.group, place[0])
                    self._stats.breaks += 1
                told = True
            else:
                offset = max(committed or 0, offset)
            consumer.seek(partition, offset)
            self._hands.hold(place)
            self._next[place] = self._committed[place] = self._reached[place] = offset

    async def _drop(self) -> None:
        self._lose_all()
        self._giving_up = False
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await end(consumer)

    # -- settling --------------------------------------------------------------------------------

    async def _acknowledge(self, mine: dict[Place, list[Delivery]]) -> None:
        await self._commit({place: {one.position for one in some} for place, some in mine.items()})
        for place, some in mine.items():
            self._hands.settle(place, some)
            for one in some:
                self._records.pop((place, one.position), None)

    async def _commit(self, settled: dict[Place, set[str]]) -> None:
        """Commit up to the first that is not settled, were these; TransportAway."""
        offsets: dict[Place, int] = {}
        for place in self._hands.places:
            first = self._hands.first(place, settled.get(place, ()))
            offset = int(first) if first is not None else self._next[place]
            if offset > self._committed[place]:
                offsets[place] = offset
        if not offsets or self._consumer is None:
            return
        await ask(self._consumer.commit({_partition(place): offset for place, offset in offsets.items()}))
        self._committed |= offsets
        self._reached |= offsets

    async def _put_aside(self, delivery: Delivery, noted: dict[str, str]) -> None:
        # As the broker has it: a binary mode's attributes are in its headers.
        record = self._records[delivery.place, delivery.position]
        headers = [*record.headers, *((f"mc-{name}", value.encode()) for name, value in noted.items())]
        await self._produce(self.group, record.value or b"", headers)
        await self._acknowledge({delivery.place: [delivery]})

    async def _go_to(self, start: Start) -> None:
        """As the seam says, for a group with this one member: Kafka moves nobody's place while he reads."""
        deadline = time.monotonic() + 2 * ANSWER_S
        while self._consumer is None or not self._hands.places:
            if time.monotonic() > deadline:
                raise TransportError("This member has no partitions: seek with the group's only member.")
            await self.fetch(0, SLICE_S)
        consumer = self._consumer
        partitions = list(map(_partition, self._hands.places))
        offsets = await ask(offsets_at(consumer, partitions, start))
        try:
            await ask(consumer.commit(offsets))
        except IllegalStateError as error:
            raise away(error) from None
        self._records.clear()
        for partition, offset in offsets.items():
            consumer.seek(partition, offset)
            self._next[_place(partition)] = self._committed[_place(partition)] = offset


def _partition(place: Place) -> TopicPartition:
    return TopicPartition(TOPIC_PREFIX + place[0], place[1])


def _place(partition: TopicPartition) -> Place:
    return partition.topic.removeprefix(TOPIC_PREFIX), partition.partition


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
