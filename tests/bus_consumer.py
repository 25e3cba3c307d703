"""A member of a consumer group in a process of its own, to be killed: a real store, a real broker, a handler of a kind.

``python -m tests.bus_consumer URL DATABASE GROUP MEMBER PATTERN LEASE_S KIND LOG``: each run of the handler is a line
in LOG, whatever becomes of its transaction, and each event whose transaction stays a row in ``seen``. KIND is
``fine``, ``slow`` (50 ms an event), ``poison`` (fails on data with ``poison``) or ``deadly`` (ends the process on it).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from sqlalchemy import Connection, text

from services.kit.events.cloudevent import CloudEvent
from services.kit.events.consumer import Consumer
from services.kit.events.retry import Permanent
from services.kit.events.transport.connect import connect
from services.kit.inbox import INBOX, SqlInbox
from services.kit.store import Migration, Store, Tables
from tests.signed import KEYS

SEEN = Tables(
    "seen",
    Migration("CREATE TABLE seen (id {serial}, event_id TEXT NOT NULL, key TEXT NOT NULL, member TEXT NOT NULL)"),
)
TABLES = (INBOX, SEEN)


async def main(
    url: str, database: str, group: str, member: str, pattern: str, lease_s: str, kind: str, path: str
) -> None:
    """Consume until SIGTERM."""
    log = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    def handler(connection: Connection, event: CloudEvent) -> None:
        os.write(log, f"{event.id} {member}\n".encode())
        if event.data.get("poison") and kind == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if event.data.get("poison") and kind == "poison":
            raise Permanent("poison")
        if kind == "slow":
            time.sleep(0.05)
        connection.execute(
            text("INSERT INTO seen (event_id, key, member) VALUES (:id, :key, :member)"),
            {"id": event.id, "key": event.partition_key, "member": member},
        )

    store = Store(f"sqlite:///{Path(database)}", *TABLES)
    await store.start()
    transport = connect(url)
    inbox = SqlInbox(store, group, handler, system=transport.name, gapless=True)
    consumer = Consumer(
        transport, inbox, [pattern], keys=KEYS, group=group, member=member, rows=inbox.rows, lease_s=float(lease_s)
    )
    await consumer.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await consumer.stop()
    await transport.close()
    await store.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
