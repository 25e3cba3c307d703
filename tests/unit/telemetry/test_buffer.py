"""Group commit: answered when stored, grouped under load, bounded, and each row stored once whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from apps.telemetry.collector import buffer as buffering
from apps.telemetry.collector.buffer import Buffer, Doubtful, Full, Refused, Rejected, Unsent
from apps.telemetry.collector.decode import Block


class Target:
    """Stands where ClickHouse stands: stores a token once, and fails as told before or after storing."""

    def __init__(self) -> None:
        self.inserts: list[tuple[str, bytes]] = []
        """What is stored."""
        self.tokens: list[str] = []
        """As often as they came."""
        self.fail: list[Exception] = []
        """Before anything is stored."""
        self.lose: list[Exception] = []
        """After all is stored: only the answer is lost."""
        self.gate = asyncio.Event()
        self.gate.set()

    async def insert(self, table: str, data: bytes, token: str) -> None:
        await self.gate.wait()
        known = token in self.tokens
        self.tokens.append(token)
        if self.fail:
            self.tokens.remove(token)
            raise self.fail.pop(0)
        if b"poison" in data:
            raise Rejected("poison")
        if not known:
            self.inserts.append((table, data))
        if self.lose:
            raise self.lose.pop(0)


def block(data: bytes = b"x", rows: int = 1, table: str = "t") -> Block:
    return Block(table, rows, data)


keys = iter(range(1_000_000))


def submit(buffer: Buffer, *blocks: Block, key: bytes = b"") -> asyncio.Future[None]:
    """All outcomes of one export as one."""
    outcomes = buffer.submit(blocks or [block()], key or b"%d" % next(keys))
    return asyncio.gather(*outcomes.values())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "LINGER", 0.02)


async def test_the_outcome_comes_when_the_rows_are_stored() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    adding = submit(buffer)
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
    first = submit(buffer, block(b"a"))
    await asyncio.sleep(0.05)
    rest = [submit(buffer, block(b"b")) for _ in range(20)]
    await asyncio.sleep(0.05)
    target.gate.set()
    await asyncio.gather(first, *rest)
    assert target.inserts == [("t", b"a"), ("t", b"b" * 20)]
    await buffer.close()


async def test_enough_rows_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "LINGER", 30.0)
    buffer = Buffer(Target().insert)
    async with asyncio.timeout(2):
        await submit(buffer, block(rows=buffering.ENOUGH_ROWS))
    await buffer.close()


async def test_a_full_buffer_takes_nothing_and_says_so() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert, capacity=10)
    waiting = submit(buffer, block(b"12345678"))
    with pytest.raises(Full):
        buffer.submit([block(b"12345", rows=7)], b"k")
    assert buffer.tally.refused_full == 7
    target.gate.set()
    await waiting
    await submit(buffer, block(b"12345"))
    assert buffer.held == 0
    await buffer.close()


async def test_what_never_left_is_tried_again_until_patience_ends() -> None:
    target = Target()
    target.fail = [Unsent("gone")] * 2
    buffer = Buffer(target.insert, patience=5)
    await submit(buffer)
    assert buffer.tally.failed_inserts == 2
    target.fail = [Unsent("gone")] * 100
    impatient = Buffer(target.insert, patience=0.2)
    with pytest.raises(Unsent):
        await submit(impatient, block(rows=3))
    assert impatient.tally.refused_away == 3
    assert impatient.held == 0
    assert "gone" in impatient.trouble()
    target.fail = []
    await submit(impatient)
    assert not impatient.trouble()
    await buffer.close()
    await impatient.close()


async def test_a_batch_whose_answer_was_lost_comes_again_as_it_was_and_is_stored_once() -> None:
    target = Target()
    target.lose = [Doubtful("no answer")] * 2
    buffer = Buffer(target.insert, patience=0.05)
    both = [submit(buffer, block(b"a")), submit(buffer, block(b"b"))]
    await asyncio.sleep(0.1)
    late = submit(buffer, block(b"c"))
    await asyncio.gather(*both, late)
    assert target.inserts == [("t", b"ab"), ("t", b"c")]
    assert len(target.tokens) == 4 and len(set(target.tokens)) == 2
    assert buffer.tally.doubtful_inserts == 2
    await buffer.close()


async def test_the_token_follows_from_what_is_in_the_batch() -> None:
    tokens = []
    for key in (b"same", b"same", b"other"):
        target = Target()
        buffer = Buffer(target.insert)
        await submit(buffer, key=key)
        await buffer.close()
        tokens += target.tokens
    assert tokens[0] == tokens[1] != tokens[2]


async def test_a_token_that_may_be_known_without_its_rows_is_not_used_again() -> None:
    target = Target()
    target.lose = [Doubtful("rename failed", answered=True, renew=True)]
    buffer = Buffer(target.insert)
    await submit(buffer)
    assert len(set(target.tokens)) == 2
    await buffer.close()


async def test_what_is_withdrawn_before_it_was_sent_is_not_stored_and_what_was_sent_is() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    sent = buffer.submit([block(b"sent")], b"1")["t"]
    await asyncio.sleep(0.1)
    queued = buffer.submit([block(b"queued")], b"2")["t"]
    buffer.withdraw([sent, queued])
    assert isinstance(queued.exception(), Unsent) and not sent.done()
    assert buffer.held == len(b"sent")
    target.gate.set()
    await sent
    await submit(buffer, block(b"next"))
    assert target.inserts == [("t", b"sent"), ("t", b"next")]
    await buffer.close()


async def test_a_batch_that_clickhouse_never_ends_refusing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "DOUBT_SECONDS", 0.3)
    target = Target()
    target.fail = [Doubtful("memory", answered=True)] * 1000
    buffer = Buffer(target.insert)
    with pytest.raises(Doubtful):
        await submit(buffer)
    target.fail = []
    await submit(buffer)
    await buffer.close()


async def test_one_bad_block_does_not_take_its_batch_along() -> None:
    target = Target()
    buffer = Buffer(target.insert)
    outcomes = await asyncio.gather(
        *(submit(buffer, block(data)) for data in (b"good", b"poison", b"fine")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [list, Rejected, list]
    assert sorted(data for _, data in target.inserts) == [b"fine", b"good"]
    assert buffer.tally.refused_rejected == 1
    await buffer.close()


async def test_a_drain_that_dies_is_started_again_with_what_it_had_in_hand() -> None:
    target = Target()
    target.fail = [RuntimeError("a fault of ours")]
    buffer = Buffer(target.insert)
    await submit(buffer, block(b"kept"))
    await submit(buffer, block(b"next"))
    assert target.inserts == [("t", b"kept"), ("t", b"next")]
    assert buffer.tally.restarts == 1
    await buffer.close()


async def test_a_batch_over_which_the_drain_dies_each_time_is_given_up_and_counted() -> None:
    target = Target()
    target.fail = [RuntimeError("its bytes") for _ in range(buffering.MOST_FAULTS)]
    buffer = Buffer(target.insert)
    with pytest.raises(Refused, match="its bytes"):
        await submit(buffer, block(rows=9))
    assert buffer.tally.refused_fault == 9
    await submit(buffer, block(b"next"))
    assert target.inserts == [("t", b"next")]
    await buffer.close()


async def test_closing_stores_what_waits_and_takes_no_more() -> None:
    target = Target()
    buffer = Buffer(target.insert)
    adding = [submit(buffer, block(table=name)) for name in ("t", "u")]
    await asyncio.sleep(0)
    await buffer.close()
    await asyncio.gather(*adding)
    assert {table for table, _ in target.inserts} == {"t", "u"}
    with pytest.raises(Full):
        buffer.submit([block()], b"k")


async def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffering, "CLOSE_SECONDS", 0.2)
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    adding = submit(buffer)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(2):
        await buffer.close()
    with pytest.raises(Doubtful):
        await adding
    assert buffer.held == 0


async def test_a_client_that_leaves_does_not_stop_the_batch() -> None:
    target = Target()
    target.gate.clear()
    buffer = Buffer(target.insert)
    gone = submit(buffer, block(b"gone"))
    stays = submit(buffer, block(b"stays"))
    await asyncio.sleep(0.05)
    gone.cancel()
    target.gate.set()
    await stays
    assert target.inserts == [("t", b"gonestays")]
    assert buffer.held == 0
    await buffer.close()
