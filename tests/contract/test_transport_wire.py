"""What stands on the wire of every broker: large and odd entries, and the CloudEvents project's own library."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.bindings import rabbitmq as sdk_rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from msgspec.structs import replace

from services.kit.events.cloudevent import MAX_DATA, MAX_EXTENSIONS
from services.kit.events.transport.base import (
    Delivery,
    Outgoing,
)
from tests.brokers import Broker, Entry
from tests.contract.bus import Lane, nothing_is_left, numbers, send, take
from tests.waiting import patient


async def test_a_large_event_is_carried_and_a_larger_one_refused_alone(lane: Lane) -> None:
    large = lane.event(text="x" * (MAX_DATA - 20))
    first, refused, last = await lane.connect().publish(
        [Outgoing(large), Outgoing(lane.event(text="x" * (MAX_DATA + 65536))), Outgoing(lane.event(n=2))]
    )
    assert first is last is None
    assert "bytes" in str(refused)
    got = await take(await lane.join(), 2)
    assert got[0].event and got[0].event.data == large.data
    assert numbers(got[1:]) == [2]


async def test_as_many_attributes_as_an_event_may_have_are_carried_and_more_stop_nobody(lane: Lane) -> None:
    """RabbitMQ ends the connection of whoever sends more of them than fit into a frame."""
    full = {f"{'a' * 61}{n:03}": "\N{ROCKET}" * 256 for n in range(MAX_EXTENSIONS)}
    most, more = replace(lane.event(n=1), extensions=full), {f"a{n}": "b" * 256 for n in range(1000)}
    too_many = replace(lane.event(n=2), extensions=more)
    bus = lane.connect()
    first, refused, last = await bus.publish([Outgoing(most), Outgoing(too_many), Outgoing(lane.event(n=3))])
    assert first is last is None
    reader = await lane.join(transport=bus)
    if refused is None:
        # Redis has no head that must fit; nobody reads it as an event all the same.
        got = await take(reader, 3)
        assert "1,000 attributes" in got[1].fault
        del got[1]
    else:
        assert "attributes are" in str(refused)
        got = await take(reader, 2)
    assert [one.event and one.event.extensions for one in got] == [full, {}]


@pytest.mark.parametrize("kind", ["application/cloudevents+json", "application/json; v=" + "x" * 236, "text/xml"])
async def test_a_media_type_that_no_message_can_have_stops_nobody(kind: str, lane: Lane) -> None:
    """RabbitMQ has 255 characters for it, and with that of an envelope the data would be read as one."""
    bus = lane.connect()
    odd = replace(lane.event(n=1), datacontenttype=kind)
    first, refused, last = await bus.publish([Outgoing(lane.event(n=0)), Outgoing(odd), Outgoing(lane.event(n=2))])
    assert first is last is None
    got = await take(await lane.join(transport=bus), 2 if refused else 3)
    assert numbers([got[0], got[-1]]) == [0, 2]


STRUCTURED = {"content-type": "application/cloudevents+json"}


async def test_odd_entries_come_as_what_they_are_and_block_nothing(lane: Lane) -> None:
    bus = lane.connect()
    reader = await lane.join(transport=bus)
    good = {"specversion": "1.0", "id": "1", "source": "s", "type": f"{lane.domain}.a.b"}
    whole = json.dumps(good | {"specversion": "0.3", "data": {}}).encode()
    odd = [
        Entry(b"not json", STRUCTURED),
        Entry(b"\xff\xfe\x00\x01", {}),
        Entry(b"", {}),
        Entry(whole, STRUCTURED),
        Entry(b'{"order": 7}', {"content-type": "application/json", "producer": "somebody else"}),
        Entry(b"{}", {f"x{n}": "1" for n in range(5000)}),
        Entry(b"{}", lane.broker.named(good | {"specversion": "0.3"})),
        Entry(b"{}", lane.broker.named(good | {"id": ""})),
        Entry(b"{no json", lane.broker.named(good)),
        Entry(b"[" * 100_000, lane.broker.named(good)),
    ]
    await asyncio.to_thread(lane.broker.put, lane.domain, odd)
    found: list[Delivery] = []
    async with asyncio.timeout(patient(20)):
        while len(found) < len(odd):
            for one in await reader.fetch(3, 0.2):
                assert one.event is None
                assert one.fault
                await reader.dead_letter(one, one.fault)
                found.append(one)
    assert [one.raw for one in found if one.raw.endswith(b"json")] == [b"not json", b"{no json"]
    assert bus.stats().malformed == len(odd)
    assert len(await asyncio.to_thread(lane.broker.dead, lane.group("g"))) == len(odd)
    await send(bus, [lane.event(n=1)])
    assert numbers(await take(reader, 1)) == [1]
    await nothing_is_left(lane, reader)


# -- the bindings, with somebody else's library on the other side --------------------------------------


async def test_others_read_what_we_write(lane: Lane) -> None:
    sent = replace(lane.event(text="é ☃"), extensions={"region": "nörd"})
    await send(lane.connect(), [sent])
    (seen,) = await asyncio.to_thread(lane.broker.seen, lane.domain)
    theirs = by_sdk(lane.broker, seen)
    assert (theirs.get_id(), theirs.get_type(), theirs.get_source()) == (sent.id, sent.type, sent.source)
    assert (theirs.get_data(), theirs.get_subject(), theirs.get_specversion()) == (sent.data, "s", "1.0")
    assert theirs.get_extension("partitionkey") == sent.partition_key
    assert theirs.get_extension("sequence") == str(sent.sequence)
    assert theirs.get_extension("region") == "nörd"
    assert theirs.get_time().timestamp() == pytest.approx(sent.time, abs=1e-5)


def by_sdk(broker: Broker, entry: Entry) -> Any:
    if broker.url.startswith("kafka"):
        headers = {name: value.encode() for name, value in entry.headers.items()}
        return sdk_kafka.from_kafka_event(sdk_kafka.KafkaMessage(headers, entry.key, entry.body))
    if broker.url.startswith("amqp"):
        return sdk_rabbitmq.from_rabbitmq_event(
            sdk_rabbitmq.RabbitMQMessage(dict(entry.headers), entry.headers["content-type"], entry.body)
        )
    return JSONFormat().read(None, entry.body)


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_we_read_what_others_write(lane: Lane, mode: str) -> None:
    attributes = {"type": f"{lane.domain}.a.b", "source": "/theirs", "id": "x", "region": "nörd", "partitionkey": "p"}
    theirs = SdkEvent(attributes=attributes | {"datacontenttype": "application/json"}, data={"n": 1, "t": "é"})
    if lane.broker.url.startswith("kafka"):
        message: Any = getattr(sdk_kafka, f"to_{mode}_event")(theirs)
        headers = {name: value.decode() for name, value in message.headers.items()}
        entry = Entry(message.value, headers, str(message.key))
    elif lane.broker.url.startswith("amqp"):
        message = getattr(sdk_rabbitmq, f"to_{mode}_event")(theirs)
        entry = Entry(message.body, message.headers | {"content-type": message.content_type})
    else:
        entry = Entry(JSONFormat().write(theirs), {"t": theirs.get_type()})
    await asyncio.to_thread(lane.broker.put, lane.domain, [entry])
    (got,) = await take(await lane.join(), 1)
    assert got.event, got.fault
    assert (got.event.id, got.event.source, got.event.partition_key) == ("x", "/theirs", "p")
    assert (got.event.data, got.event.extensions) == ({"n": 1, "t": "é"}, {"region": "nörd"})
