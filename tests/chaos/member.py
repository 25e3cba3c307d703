"""A consumer with a store, in a process of its own, to be killed. Its effect of an event is a row, in the transaction
that notes the event as handled.

``python -m tests.chaos.member STORE FOLDER NAME LEASE_S``: events with ``poison`` fail for good as long as
``FOLDER/cause`` is there. ``FOLDER/deliveries`` gets a line per batch: how many were handled, duplicates, failed, and
parked behind another.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.lanes import Outcome
from services.kit.events.retry import Permanent
from services.kit.events.transport.base import Delivery
from services.kit.inbox import SqlInbox
from services.kit.store import Store
from tests.chaos.stores import GROUP, INCOMING, KEYS, bus


class Counting(SqlInbox):
    """Says what became of deliveries, after the commit."""

    def __init__(self, store: Store, folder: Path, system: str) -> None:
        self._cause = folder / "cause"
        self._deliveries = os.open(folder / "deliveries", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        super().__init__(store, GROUP, self._effect, system=system, gapless=True)

    def _effect(self, connection: Connection, event: CloudEvent) -> None:
        if event.data["poison"] and self._cause.exists():
            raise Permanent("the cause is there")
        connection.execute(
            text("INSERT INTO seen (source, key, n) VALUES (:source, :key, :n)"),
            {"source": event.source, "key": event.partition_key, "n": event.data["n"]},
        )

    async def handle(self, batch: Sequence[Delivery], *, careful: bool) -> list[Outcome]:
        outcomes = await super().handle(batch, careful=careful)
        told = Counter(outcome.what for outcome in outcomes)
        os.write(self._deliveries, " ".join(f"{what}={count}" for what, count in told.items()).encode() + b"\n")
        return outcomes


async def main(store_url: str, folder: str, name: str, lease_s: float) -> None:
    """Consume until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    store = Store(store_url, *INCOMING)
    transport, rules = await bus(Path(folder), name)
    while not stopped.is_set():
        try:
            await store.start()
            break
        except SQLAlchemyError as error:
            print(f"the store can't be opened: {error!r}", flush=True)
            await asyncio.sleep(0.2)
    inbox = Counting(store, Path(folder), transport.name)
    consumer = Consumer(
        transport, inbox, ["chaos.#"], keys=KEYS, group=GROUP, member=name, rows=inbox.rows, lease_s=lease_s
    )
    await consumer.start()
    await stopped.wait()
    await consumer.stop()
    await rules.stop()
    await transport.close()
    await store.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], float(sys.argv[4])))  # type: ignore[call-arg]
