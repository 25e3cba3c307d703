"""mint put together: its store, the consumer that feeds it, and its addresses."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from services.kit.app import create_app
from services.kit.broker import Broker
from services.kit.checks import Check
from services.kit.events import contracts
from services.kit.events.consumer import Consumer
from services.kit.events.mending import Mender
from services.kit.events.repair import Repair
from services.kit.inbox import SqlInbox
from services.kit.publishers import Publishers, repairs
from services.kit.settings import Settings
from services.kit.store import Store
from services.mint.api import router
from services.mint.settings import MintSettings
from services.mint.store import TABLES, apply

RECORDED = "business.transaction.recorded"
LEDGER = "covenant"
SCHEMAS = Path(__file__).parent / "schemas"


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    assert isinstance(settings, MintSettings)  # noqa: S101 - services.mint.settings.read made them
    store = Store(settings.database_url, *TABLES)
    broker = Broker(settings)
    needed = contracts.read(SCHEMAS)
    # The ledger's key carries nothing else, so a height that never comes is a transaction that is missing here.
    inbox = SqlInbox(store, settings.name, needed.guard(apply), system=broker.transport.name, gapless=True)
    publishers = Publishers({LEDGER: settings.ledger_url}, settings.fleet_token)
    mender = Mender(Repair(inbox.gaps, publishers.find, publishers.names, [RECORDED]))
    consumer = Consumer(
        broker.transport,
        inbox,
        [RECORDED],
        keys=settings.keys,
        group=settings.name,
        member=settings.instance,
        rows=inbox.rows,
        mender=mender,
    )
    return create_app(
        settings,
        title="mint",
        description="Balances, kept by double entry from the transactions that covenant records.",
        parts=[store, broker, publishers, consumer],
        checks=[
            Check("database", store.probe),
            # Without the bus its balances grow stale, so it says that it is unwell.
            Check("bus", consumer.probe),
            Check("events", consumer.probe_whole, critical=False),
        ],
        routers=[router(store), repairs(mender)],
    )
