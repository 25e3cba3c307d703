"""A Redis that lives and does not do its work: full, failing to save, a replica, loading, with other rights.

Each time nothing crashes or spins, events wait in the outbox, and afterwards come in order.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from services.kit.checks import Unwell
from services.kit.env import ENGINE_USER
from services.kit.events.transport.base import Outgoing, TransportAway
from tests.brokers import Redis
from tests.contract.bus import Lane
from tests.contract.shop import Shop
from tests.waiting import free_port, patient, until

Do = Callable[[redis.Redis, Redis], object]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    server = Redis(tmp_path / "redis")
    server.start()
    made = Shop(server, tmp_path)
    made.open.set()
    await made.start()
    yield made
    await made.stop()
    server.end()


def full(admin: redis.Redis, server: Redis) -> None:
    admin.config_set("maxmemory", 1)


def roomy(admin: redis.Redis, server: Redis) -> None:
    admin.config_set("maxmemory", "512mb")


def fails_to_save(admin: redis.Redis, server: Redis) -> None:
    """Its snapshot can't be written: a folder has the name."""
    (server.folder / "dump.rdb").mkdir()
    admin.config_set("save", "1 1")
    admin.set("changed", 1)
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", 30, what="a failed save")


def saves(admin: redis.Redis, server: Redis) -> None:
    (server.folder / "dump.rdb").rmdir()
    admin.bgsave()
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "ok", 30, what="a save")
    admin.config_set("save", "")


def follows(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("REPLICAOF", "127.0.0.1", free_port())


def follows_and_is_silent(admin: redis.Redis, server: Redis) -> None:
    admin.config_set("replica-serve-stale-data", "no")
    follows(admin, server)


def leads(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("REPLICAOF", "NO", "ONE")


def other_password(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("ACL", "SETUSER", ENGINE_USER, "resetpass", ">another-password")
    admin.client_kill_filter(user=ENGINE_USER)


def same_password(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("ACL", "SETUSER", ENGINE_USER, f">{server.password}")


def may_not_write(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("ACL", "SETUSER", ENGINE_USER, "-xadd")


def may_write(admin: redis.Redis, server: Redis) -> None:
    admin.execute_command("ACL", "SETUSER", ENGINE_USER, "+xadd")


FAULTS: dict[str, tuple[Do, Do, str]] = {
    "full": (full, roomy, "maxmemory"),
    "fails to save": (fails_to_save, saves, "MISCONF|stop-writes|snapshot"),
    "a replica": (follows, leads, "read only|READONLY"),
    "a replica that lost its master": (follows_and_is_silent, leads, "MASTER|read only"),
    "another password": (other_password, same_password, "WRONGPASS|invalid username|does not take this user"),
    "no right to write": (may_not_write, may_write, "no permissions|NOPERM"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_redis_that_does_not_work_is_away_and_what_waits_comes_in_order(
    shop: Shop, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin, end, words = FAULTS[fault]
    caplog.set_level(logging.WARNING)
    server: Any = shop.broker
    with redis.Redis.from_url(server.admin_url) as admin:
        await shop.publish(64)
        await shop.until(shop.all_seen, "what is published comes")
        shop.open.clear()
        await shop.publish(64)
        await shop.until(partial(has_some, shop), "it has some in hand")
        await shop.until(shop.all_sent, "the others are there")
        await asyncio.to_thread(begin, admin, server)
        # What is in hand now is handled, and can't be acknowledged.
        shop.open.set()
        caplog.clear()
        began = time.process_time()
        await shop.until(partial(is_told, shop, words), "it is told why")
        await shop.publish(64)
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            # Calls of every kind; none crashes, and those that can't be answered say so.
            for asked in (shop.reads.lag(shop.group), shop.reads.groups()):
                await said(asked)
            await asyncio.sleep(0.2)
        assert time.process_time() - began < 2.0, "nothing spins"
        assert len(caplog.records) < 40, [record.getMessage() for record in caplog.records]
        assert await shop.waiting() == 64, "everything waits in the outbox"
        assert shop.consumer._task is not None and not shop.consumer._task.done()
        await asyncio.to_thread(end, admin, server)
    await shop.until(shop.all_seen, "what waited comes")
    await shop.in_order_once()
    await shop.until(lambda: well(shop), "it says that it is well")


async def has_some(shop: Shop) -> bool:
    return shop.consumer.in_hand > 0


async def is_told(shop: Shop, words: str) -> bool:
    """Whether a publisher hears this; what is under way when it begins may end by a broken connection."""
    with pytest.raises(TransportAway) as told:
        await shop.sends.publish([Outgoing(Lane(shop.broker).event())])
    return bool(re.search(words, str(told.value), re.IGNORECASE))


async def said(asked: Awaitable[object]) -> None:
    try:
        await asked
    except TransportAway:
        pass


async def well(shop: Shop) -> bool:
    try:
        await shop.consumer.probe()
    except Unwell:
        return False
    return True


async def test_a_redis_that_loads_its_data_is_away_until_it_has_them(shop: Shop) -> None:
    server: Any = shop.broker
    await shop.publish(64)
    await shop.until(shop.all_seen, "what is published comes")
    with redis.Redis.from_url(server.admin_url) as admin:
        admin.mset({f"filler{n}": "x" * 5000 for n in range(300)})
        admin.bgrewriteaof()
        until(lambda: not admin.info("persistence")["aof_rewrite_in_progress"], 20, what="the file is rewritten")
    server.kill()
    with server.config.open("a") as config:
        # A slow disk: a hundredth of a second for a key.
        config.write("key-load-delay 10000\nloading-process-events-interval-bytes 1024\n")
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    heard: list[str] = []

    async def loading() -> bool:
        try:
            await shop.sends.publish([Outgoing(Lane(server).event())])
        except TransportAway as error:
            heard.append(str(error))
        return "loading" in " ".join(heard).lower() or starting.done()

    await shop.publish(64)
    await shop.until(loading, "it loads")
    assert not starting.done() and await shop.waiting() == 64
    await asyncio.wait_for(starting, patient(60))
    await shop.until(shop.all_seen, "what waited comes")
    await shop.in_order_once()
