"""A part that fails is begun anew with growing pauses; the others, and the stop, never notice."""

from __future__ import annotations

import asyncio
import logging

import pytest

from apps.lib import parts


async def test_a_part_that_fails_or_ends_is_begun_anew_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parts, "FIRST_PAUSE", 0.001)
    runs, failed, settled = [], [], asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise KeyError("at")
        if len(runs) == 2:
            return
        settled.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(parts.keep("listener", work, failed.append))
    async with asyncio.timeout(5):
        await settled.wait()
    assert failed == ["listener", "listener"]
    assert "Part listener failed" in caplog.text and "KeyError: 'at'" in caplog.text
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(runs) == 3, "a stop is no failure"


async def test_pauses_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(parts, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(parts, "LONGEST_PAUSE", 0.004)
    caplog.set_level(logging.CRITICAL)
    enough = asyncio.Event()
    failed: list[str] = []

    def count(name: str) -> None:
        failed.append(name)
        if len(failed) == 6:
            enough.set()

    async def work() -> None:
        raise ZeroDivisionError

    task = asyncio.create_task(parts.keep("x", work, count))
    async with asyncio.timeout(5):
        await enough.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert caplog.text.count("0.0 s") == 6


async def test_a_stop_ends_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(parts.keep("x", work, lambda name: None))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ended.is_set()
