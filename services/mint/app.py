"""mint put together: its store, the consumer that feeds it, and its addresses."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from services.kit.app import create_app
from services.kit.broker import Broker
from services.kit.checks import Check
from services.kit.events import contracts
from services.kit.events.consumer import Consumer
from services.kit.inbox import SqlInbox
from services.kit.settings import Settings
from services.kit.store import Store
from services.mint.api import router
from services.mint.store import MIGRATIONS, apply

RECORDED = "business.transaction.recorded"
SCHEMAS = Path(__file__).parent / "schemas"


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    store = Store(settings.database_url, MIGRATIONS)
    broker = Broker(settings)
    needed = contracts.read(SCHEMAS)
    # The ledger's key carries nothing else, so a height that never comes is a transaction that is missing here.
    inbox = SqlInbox(store, settings.name, needed.guard(apply), system=broker.transport.name, gapless=True)
    consumer = Consumer(
        broker.transport,
        inbox,
        [RECORDED],
        keys=settings.keys,
        group=settings.name,
        member=settings.instance,
        rows=inbox.rows,
    )
    return create_app(
        settings,
        title="mint",
        description="Balances, kept by double entry from the transactions that covenant records.",
        parts=[store, broker, consumer],
        checks=[
            Check("database", store.probe),
            # Without the bus its balances grow stale, so it says that it is unwell.
            Check("bus", consumer.probe),
            Check("events", consumer.probe_whole, critical=False),
        ],
        routers=[router(store)],
    )
