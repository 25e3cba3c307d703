"""Fan-out: everybody gets the same bytes, the slow get a snapshot, nobody gets a queue."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.dashboard.frames import Ack, Delta, FrameError, Snapshot, merge
from apps.dashboard.hub import WINDOW, Hub, Subscriber


class Browser:
    """Keeps what it was sent, and applies it as js/live.js does."""

    def __init__(self, hub: Hub) -> None:
        self.frames: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.state: Any = None
        self.seq = 0
        self.subscriber = Subscriber(self.take, hub)
        hub.subscribers.add(self.subscriber)

    async def take(self, text: str) -> None:
        frame = json.loads(text)
        if frame["type"] == "delta":
            assert frame["seq"] == self.seq + 1, "a delta that does not follow"
            self.state = merge(self.state, frame["patch"])
        else:
            self.state = frame["state"]
        self.seq = frame["seq"]
        self.frames.append(frame)
        self.texts.append(text)

    async def ack(self, seq: int | None = None) -> None:
        await self.subscriber.ack(Ack(self.seq if seq is None else seq))

    @property
    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames]


async def started(keep: int = 50) -> Hub:
    hub = Hub(keep=keep)
    await hub.restart(Snapshot("1", 1, 0.0, {"verdict": 1}))
    return hub


async def tick(hub: Hub, times: int = 1) -> None:
    for _ in range(times):
        now = hub.history.snapshot
        assert now is not None
        assert await hub.add(Delta(now.epoch, now.seq + 1, 0.0, {"verdict": now.seq + 1}))


async def test_a_new_browser_gets_a_snapshot_and_then_deltas() -> None:
    hub = await started()
    browser = Browser(hub)
    await browser.subscriber.begin("", None)
    await tick(hub, 3)
    assert browser.kinds == ["snapshot", "delta", "delta", "delta"]
    assert browser.state == {"verdict": 4}


async def test_two_browsers_get_the_same_text() -> None:
    hub = await started()
    one, two = Browser(hub), Browser(hub)
    for browser in (one, two):
        await browser.subscriber.begin("", None)
    await tick(hub)
    assert one.texts[-1] is two.texts[-1]


async def test_a_returning_browser_gets_what_it_missed() -> None:
    hub = await started()
    await tick(hub, 5)
    browser = Browser(hub)
    browser.state, browser.seq = {"verdict": 3}, 3
    await browser.subscriber.begin("1", 3)
    await tick(hub)
    assert [frame["seq"] for frame in browser.frames] == [4, 5, 6, 7]
    assert set(browser.kinds) == {"delta"}
    assert browser.state == {"verdict": 7}
    assert hub.counts["resumed"] == 1


@pytest.mark.parametrize(("epoch", "seq"), [("0", 5), ("1", 99), ("1", 1), ("", 5)])
async def test_who_comes_back_too_late_or_from_elsewhere_gets_a_snapshot(epoch: str, seq: int) -> None:
    hub = await started(keep=3)
    await tick(hub, 5)
    browser = Browser(hub)
    await browser.subscriber.begin(epoch, seq)
    assert browser.kinds == ["snapshot"]
    assert browser.state == {"verdict": 6}


async def test_a_slow_browser_gets_no_more_and_then_a_snapshot() -> None:
    hub = await started()
    slow, quick = Browser(hub), Browser(hub)
    for browser in (slow, quick):
        await browser.subscriber.begin("", None)
    for _ in range(30):
        await tick(hub)
        await quick.ack()
    assert len(slow.frames) == WINDOW, "one snapshot and deltas, then silence"
    assert hub.counts["withheld"] == 30 - (WINDOW - 1)
    assert quick.state == {"verdict": 31}
    await slow.ack()
    assert slow.kinds[-1] == "snapshot"
    assert slow.state == {"verdict": 31}
    await tick(hub)
    assert slow.kinds[-1] == "delta"


async def test_asking_for_snapshots_does_not_get_round_the_window() -> None:
    hub = await started()
    greedy = Browser(hub)
    await greedy.subscriber.begin("", None)
    for _ in range(100):
        await greedy.subscriber.subscribe(frozenset({"verdict"}))
    assert len(greedy.frames) == WINDOW


async def test_a_new_epoch_begins_with_a_snapshot_for_everybody() -> None:
    hub = await started()
    browser = Browser(hub)
    await browser.subscriber.begin("", None)
    await tick(hub, 2)
    await hub.restart(Snapshot("2", 1, 0.0, {"verdict": "new"}))
    await browser.ack(3)
    await tick(hub)
    assert browser.kinds == ["snapshot", "delta", "delta", "snapshot", "delta"]
    assert browser.frames[-1]["epoch"] == "2"


async def test_an_ack_of_what_was_never_sent_is_refused() -> None:
    hub = await started()
    browser = Browser(hub)
    await browser.subscriber.begin("", None)
    with pytest.raises(FrameError):
        await browser.ack(2)


async def test_topics_filter_what_a_browser_gets() -> None:
    hub = Hub()
    await hub.restart(Snapshot("1", 1, 0.0, {"verdict": 1, "services": {"a": 1}, "sources": {"health": 1}}))
    browser = Browser(hub)
    await browser.subscriber.begin("", None)
    await browser.subscriber.subscribe(frozenset({"services"}))
    assert browser.state == {"services": {"a": 1}, "sources": {"health": 1}}


async def test_a_fresh_frame_is_waited_for_no_longer_than_said() -> None:
    hub = Hub()
    assert not await hub.fresh(within=1.0, patience=0.02)
    await hub.restart(Snapshot("1", 1, 0.0, {}), live=False)
    assert not await hub.fresh(within=1.0, patience=0.02), "what the stream held from before is not fresh"
    await tick(hub)
    assert await hub.fresh(within=1.0, patience=0.02)
