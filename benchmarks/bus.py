"""One run of P6: ``python -m benchmarks.bus BROKER EVENTS ROUNDS`` prints rates as JSON.

This process publishes, for both sides; ``benchmarks.bus_parts`` has the relay and the readers, each its own process,
as they are where Mission Control runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import django

from benchmarks.bus_parts import KEY
from benchmarks.bus_peers import AT_ONCE, PEERS, Bare
from missioncontrol.launch.layout import SECRETS
from services.kit.events.cloudevent import encode
from services.kit.events.signing import CONTROL, Ring
from tests import brokers
from tests.redis_server import RedisServer

KEYS = 64
SINGLES = 500
PATIENCE_S = 300.0
SERVERS: dict[str, Any] = {"redis": brokers.Redis, "rabbitmq": brokers.RabbitMQ, "kafka": brokers.Kafka}


class Part:
    """Another process of this run."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin and process.stdout
        self._process, self._into, self._out = process, process.stdin, process.stdout

    def expect(self, events: int) -> None:
        """So many more are to come; said before the first of them is published."""
        self._into.write(b"%d\n" % events)

    async def says(self) -> str:
        """Its next word."""
        async with asyncio.timeout(PATIENCE_S):
            if line := await self._out.readline():
                return line.decode().strip()
        raise SystemExit(f"a process of the run ended with {await self._process.wait()}")

    async def spent(self) -> float:
        """Its processor time since it was asked before, in seconds."""
        self.expect(0)
        return float(await self.says())

    async def end(self) -> None:
        """Have it end."""
        self._into.close()
        await self._process.wait()


@contextlib.asynccontextmanager
async def part(name: str, broker: str, url: str, redis_url: str) -> AsyncIterator[Part]:
    """The process, once it is ready, until the end of the block."""
    argv = [sys.executable, "-m", "benchmarks.bus_parts", name, broker, url, redis_url]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    try:
        one = Part(process)
        assert await one.says() == "ready"
        yield one
        await one.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def drafts(count: int) -> list[Any]:
    """What is published."""
    from apps.events.storing import Draft

    data = {"amount": "12.50", "currency": "EUR", "to": "ann", "note": "x" * 120}
    return [Draft("bench.thing.done", data | {"n": n}, stream=f"k/{n % KEYS}") for n in range(count)]


async def ours(reader: Part, events: int) -> float:
    """Events a second."""
    from apps.events.actions import apublish_all

    said = drafts(events)
    reader.expect(events)
    begun = time.perf_counter()
    for start in range(0, events, AT_ONCE):
        await apublish_all(said[start : start + AT_ONCE])
    assert await reader.says() == "reached"
    return events / (time.perf_counter() - begun)


async def bare(peer: Bare, reader: Part, bodies: Sequence[bytes]) -> float:
    """Events a second."""
    reader.expect(len(bodies))
    begun = time.perf_counter()
    for start in range(0, len(bodies), AT_ONCE):
        await peer.publish(bodies[start : start + AT_ONCE])
    assert await reader.says() == "reached"
    return len(bodies) / (time.perf_counter() - begun)


async def singles(reader: Part) -> float:
    """The 99th percentile of publishing one event, in milliseconds."""
    from apps.events.actions import publish
    from apps.lib.aio import in_thread

    times = []

    def timed(draft: Any) -> None:
        begun = time.perf_counter()
        publish(draft.type, draft.data, stream=draft.stream)
        times.append(time.perf_counter() - begun)

    reader.expect(SINGLES)
    for draft in drafts(SINGLES):
        await in_thread(timed, draft)
    assert await reader.says() == "reached"
    return sorted(times)[int(SINGLES * 0.99)] * 1e3


async def measure(home: Path, broker: str, redis_url: str, events: int, rounds: int) -> dict[str, Any]:
    """Both sides in turns, after a short round that doesn't count."""
    from apps.events.models import Event

    server = SERVERS[broker](home / "broker")
    server.start()
    found: dict[str, Any] = {"ours": [], "bare": []}
    peer = PEERS[broker](server.url)
    of = (broker, server.url, redis_url)
    try:
        await peer.begin(reads=False)
        async with part("relay", *of) as relay, part("consumer", *of) as consumer, part("bare", *of) as reader:
            await ours(consumer, AT_ONCE)
            first = await asyncio.to_thread(lambda: Event.objects.order_by("id")[0].as_cloudevent())
            # As long as those that our consumer gets.
            signed = Ring.of([(CONTROL, os.environ[KEY])]).sign(first, CONTROL)
            bodies = [encode(signed)] * events
            await bare(peer, reader, bodies[:AT_ONCE])
            spent = dict.fromkeys(("publisher", "relay", "consumer"), 0.0)
            for _ in range(rounds):
                await relay.spent(), await consumer.spent()
                before = time.process_time()
                found["ours"].append(await ours(consumer, events))
                spent["publisher"] += time.process_time() - before
                spent["relay"] += await relay.spent()
                spent["consumer"] += await consumer.spent()
                found["bare"].append(await bare(peer, reader, bodies))
            found["us"] = {name: seconds / (events * rounds) * 1e6 for name, seconds in spent.items()}
            found["p99_ms"] = await singles(consumer)
        await peer.end()
    finally:
        server.end()
    return found


def main(broker: str, events: str, rounds: str) -> None:
    """Run in a home of its own, and print."""
    with tempfile.TemporaryDirectory(prefix="mc-bench-") as folder:
        home = Path(folder)
        (home / "broker").mkdir()
        (home / "redis").mkdir()
        with RedisServer(home / "redis") as nudges:
            os.environ |= {
                "MC_HOME": folder,
                "REDIS_URL": nudges.url,
                "DJANGO_SETTINGS_MODULE": "missioncontrol.settings",
                KEY: secrets.token_hex(32),
            }
            os.environ |= {name.upper(): secrets.token_hex(32) for name in SECRETS}
            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0)
            print(json.dumps(asyncio.run(measure(home, broker, nudges.url, int(events), int(rounds)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
