"""Group commit: answered when stored, grouped under load, bounded, and honest when ClickHouse is away."""

from __future__ import annotations

import asyncio

import pytest

from apps.telemetry.collector import buffer as buffering
from apps.telemetry.collector.buffer import Away, Buffer, Full, Rejected
from apps.telemetry.collector.decode import Block


class Target:
    """Stands where ClickHouse stands: notes every insert, and fails as told."""

    def __init__(self) -> None:
        self.inserts: list[tuple[str, bytes]] = []
        self.fail: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def insert(self, table: str, data: bytes) -> None:
        await self.gate.wait()
        if self.fail:
            raise self.fail.pop(0)
        if b"poison" in data:
            raise Rejected("poison")
        self.inserts.append((table, data))


def block(data: bytes = b"x", rows: int = 1, table: str = "t") -> Block:
    return Block(table, rows, data)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "LINGER", 0.02)


async def test_add_returns_when_the_rows_are_stored() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    adding = asyncio.create_task(buffer.add([block()]))
    await asyncio.sleep(0.1)
    assert not adding.done()
    target.gate.set()
    await adding
    assert target.inserts == [("t", b"x")]
    assert buffer.held == 0
    await buffer.close()


async def test_what_comes_during_an_insert_goes_with_the_next() -> None:
    target = Target()
    buffer = Buffer(target.insert)
    target.gate.clear()
    first = asyncio.create_task(buffer.add([block(b"a")]))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(buffer.add([block(b"b")])) for _ in range(20)]
    await asyncio.sleep(0.05)
    target.gate.set()
    await asyncio.gather(first, *rest)
    assert target.inserts == [("t", b"a"), ("t", b"b" * 20)]
    await buffer.close()


async def test_enough_rows_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "LINGER", 30.0)
    buffer = Buffer(Target().insert)
    async with asyncio.timeout(2):
        await buffer.add([block(rows=buffering.ENOUGH_ROWS)])
    await buffer.close()


async def test_a_full_buffer_takes_nothing_and_says_so() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert, capacity=10)
    waiting = asyncio.create_task(buffer.add([block(b"12345678")]))
    await asyncio.sleep(0)
    with pytest.raises(Full):
        await buffer.add([block(b"12345", rows=7)])
    assert buffer.tally.refused_full == 7
    target.gate.set()
    await waiting
    await buffer.add([block(b"12345")])
    assert buffer.held == 0
    await buffer.close()


async def test_away_is_tried_again_until_patience_ends() -> None:
    target = Target()
    target.fail = [Away("gone")] * 2
    buffer = Buffer(target.insert, patience=5)
    await buffer.add([block()])
    assert buffer.tally.failed_inserts == 2
    target.fail = [Away("gone")] * 100
    impatient = Buffer(target.insert, patience=0.2)
    with pytest.raises(Away):
        await impatient.add([block(rows=3)])
    assert impatient.tally.refused_away == 3
    assert impatient.held == 0
    target.fail = []
    await impatient.add([block()])
    await buffer.close()
    await impatient.close()


async def test_one_bad_block_does_not_take_its_batch_along() -> None:
    target = Target()
    buffer = Buffer(target.insert)
    outcomes = await asyncio.gather(
        *(buffer.add([block(data)]) for data in (b"good", b"poison", b"fine")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None)]
    assert sorted(data for _, data in target.inserts) == [b"fine", b"good"]
    assert buffer.tally.refused_rejected == 1
    await buffer.close()


async def test_closing_stores_what_waits_and_takes_no_more() -> None:
    target = Target()
    buffer = Buffer(target.insert)
    adding = [asyncio.create_task(buffer.add([block(table=name)])) for name in ("t", "u")]
    await asyncio.sleep(0)
    await buffer.close()
    await asyncio.gather(*adding)
    assert {table for table, _ in target.inserts} == {"t", "u"}
    with pytest.raises(Full):
        await buffer.add([block()])


async def test_a_client_that_leaves_does_not_stop_the_batch() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    gone = asyncio.create_task(buffer.add([block(b"gone")]))
    stays = asyncio.create_task(buffer.add([block(b"stays")]))
    await asyncio.sleep(0.05)
    gone.cancel()
    target.gate.set()
    await stays
    assert target.inserts == [("t", b"gonestays")]
    assert buffer.held == 0
    await buffer.close()
