"""covenant put together: its store, its outbox and its addresses."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from services.covenant.api import router
from services.covenant.store import TABLES
from services.kit import published
from services.kit.app import create_app
from services.kit.broker import Broker
from services.kit.checks import Check
from services.kit.events import contracts
from services.kit.outbox import Outbox
from services.kit.settings import Settings
from services.kit.store import Store

SCHEMAS = Path(__file__).parent / "schemas"


def build(settings: Settings) -> FastAPI:
    """The application for ``settings``."""
    store = Store(settings.database_url, *TABLES)
    broker = Broker(settings)
    outbox = Outbox(
        store,
        broker.transport,
        settings.name,
        keys=settings.keys,
        member=settings.instance,
        keep_days=settings.outbox_days,
        contracts=contracts.read(SCHEMAS),
    )
    return create_app(
        settings,
        title="covenant",
        description="An append-only ledger. Every entry carries the hash of the one before it.",
        parts=[store, broker, outbox],
        checks=[
            Check("database", store.probe),
            # It serves without the bus: what it accepts waits in the outbox.
            Check("outbox", outbox.probe, critical=False),
        ],
        routers=[router(store, outbox), published.router(store, settings.keys, settings.name)],
    )
