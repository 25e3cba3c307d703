"""A service that publishes by its outbox, in a process of its own, to be killed: its work is counted with its events.

``python -m tests.chaos.service STORE FOLDER KINDS KEYS EVERY``: as long as ``FOLDER/goal`` says more than it has
recorded, it records the next events, 20 in a transaction, each ``EVERY``th one poison. What a kill undoes it records
again, so that it recorded each number once.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from services.kit.events.retry import Away
from services.kit.outbox import Outbox
from services.kit.store import Store
from tests.chaos.stores import KEYS, OUTGOING, bus, goal, type_of

AT_ONCE = 20
LOOK_S = 0.2


async def main(store_url: str, folder: str, kinds: str, keys: int, every: int) -> None:
    """Record and pump until SIGTERM."""
    store = Store(store_url, *OUTGOING)
    transport, rules = await bus(Path(folder), "service")
    outbox = Outbox(store, transport, "tests", keys=KEYS, member="chaos")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    def some(connection: Connection) -> bool:
        """Record the next ones; whether there may be more."""
        lock = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
        last = connection.execute(text(f"SELECT last FROM recorded{lock}")).scalar_one()
        numbers = range(last, min(last + AT_ONCE, goal(Path(folder))))
        for number in numbers:
            data = {"n": number, "poison": number % every == every // 2}
            key = number % keys
            outbox.record(connection, type_of(key, kinds), data, partition_key=f"s{key}")
        connection.execute(text("UPDATE recorded SET last = :last"), {"last": last + len(numbers)})
        return len(numbers) == AT_ONCE

    while not stopped.is_set():
        try:
            await store.start()
            break
        except SQLAlchemyError as error:
            print(f"the store can't be opened: {error!r}", flush=True)
            await asyncio.sleep(LOOK_S)
    await outbox.start()
    while not stopped.is_set():
        try:
            more = await store.write(some)
            outbox.nudge()
        except Away:
            more = False
        if not more:
            await asyncio.sleep(LOOK_S)
    await outbox.stop()
    await rules.stop()
    await transport.close()
    await store.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:])))  # type: ignore[arg-type]
