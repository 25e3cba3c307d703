"""``manage.py relay``: number events, take ours to the bus and those of others from it, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from apps.events.archive.inbox import ArchiveInbox
from apps.events.projector import Projector
from apps.events.relay import Relay
from apps.events.sequencer import Sequencer
from apps.lib import aio
from missioncontrol import observe
from services.kit.events import keys
from services.kit.events.consumer import Consumer
from services.kit.events.transport.connect import connect


class Command(BaseCommand):
    """See the module. A second signal ends it at once."""

    help = "Relay events from the outbox to the bus until stopped."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        stop_reporting = observe.start("relay")
        try:
            aio.run(self._relay())
        finally:
            stop_reporting()

    async def _relay(self) -> None:
        loop = asyncio.get_running_loop()
        transport = connect(settings.BUS_URL, keep=settings.BUS_KEEP)
        own = keys.read()
        relay, projector = Relay(transport, own, settings.REDIS_URL), Projector()
        archive = Consumer(
            transport,
            ArchiveInbox(),
            ["#"],
            keys=own,
            group="archive",
            member=f"{socket.gethostname()}:{os.getpid()}",
        )
        sequencer = Sequencer(settings.REDIS_URL, then=projector.bell.set)

        def stop(number: int) -> None:
            # The next one is the system's own again: it kills.
            loop.remove_signal_handler(number)
            relay.stop()
            sequencer.stop()
            projector.stop()
            archive.stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(sequencer.run(), name="sequencer")
                parts.create_task(projector.run(), name="projector")
                parts.create_task(relay.run(), name="relay")
                parts.create_task(archive.run(), name="archive")
        finally:
            await transport.close()
