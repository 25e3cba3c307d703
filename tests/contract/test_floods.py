"""A stranger who writes thousands of odd and forged entries beside good events: the good are handled, memory stays."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services.kit.events.cloudevent import CloudEvent, encode
from services.kit.events.signing import Ring
from tests.brokers import Broker, Entry
from tests.contract.shop import Shop

EACH = 500
ROUNDS = 4
LARGE = 20
"""Entries of 1.9 MB, of which Redis takes no more than fit into its memory."""
GROWTH_MB = 250
STRANGER = Ring.of([("tests", "x" * 48)])
STRUCTURED = {"content-type": "application/cloudevents+json"}


@pytest.fixture
async def shop(broker: Broker, tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(broker, tmp_path)
    await made.start()
    yield made
    await made.stop()


def forged(domain: str, n: int) -> bytes:
    """As one of the publisher's own, by somebody without its key."""
    event = CloudEvent(f"f{n}", f"{domain}.thing.done", "tests", time.time(), {"key": "k0", "n": n}, partition_key="k0")
    return encode(STRANGER.sign(event, "tests"))


def flood(domain: str, turn: int) -> list[Entry]:
    entries = []
    for n in range(turn * EACH, (turn + 1) * EACH):
        entries += [
            Entry(b"not JSON %d" % n, STRUCTURED),
            Entry(bytes([n % 256, 0, 255]) * 20, {}),
            Entry(b"[" * 3000 + b"]" * 3000, STRUCTURED),
            Entry(forged(domain, n), STRUCTURED),
        ]
    entries += [Entry(b"x" * 1_900_000, STRUCTURED)] * LARGE
    entries += [Entry(b"{}", {"ce-huge": "y" * 60_000})] * LARGE
    return entries


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Peak:
    """Of what is resident, while it is watched."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mb = max(self.mb, resident_mb())


async def settled(shop: Shop) -> bool:
    return not any((await shop.reads.lag(shop.group)).values())


async def test_a_flood_of_odd_and_forged_entries_costs_no_good_event_and_little_memory(shop: Shop) -> None:
    await shop.publish(16)
    await shop.until(shop.all_sent, "the first are there")
    before = resident_mb()
    with Peak() as peak:
        for turn in range(ROUNDS):
            await asyncio.to_thread(shop.broker.put, shop.domain, flood(shop.domain, turn))
            await shop.publish(64)
            await shop.until(shop.all_sent, "they are between the others")
        shop.open.set()
        await shop.until(shop.all_seen, "every good event is handled", 120)
        await shop.until(partial(settled, shop), "everything has an end", 120)
    assert peak.mb - before < GROWTH_MB, f"{before:.0f} MB, then {peak.mb:.0f} MB"
    await shop.in_order_once()
    kept = await shop.consumer._inbox.kept()
    assert kept.odd + kept.forged >= 1000, "those that may be kept are rows"
