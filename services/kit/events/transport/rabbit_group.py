"""The queues of a group on RabbitMQ: made once for all its members, and made again when somebody deletes them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity

from .base import PARTITIONS, Start
from .rabbit_log import order
from .rabbit_wire import EXCHANGE, Gone, declare_queue, queue_of


async def make_group(
    connection: AbstractConnection, control: AbstractChannel, group: str, patterns: Sequence[str], start: Start
) -> None:
    """Make what is missing, a group that is new from ``start`` on; bind it all. Gone while another member does it."""
    if await _missing(connection, group):
        await _make(connection, control, group, patterns, start)
    for number in range(PARTITIONS):
        await _bind(control, group, number, patterns)


async def _missing(connection: AbstractConnection, group: str) -> list[int]:
    """Which queues are not there: all while the last is not, for it says that all were made; else those that somebody
    deleted."""
    missing: list[int] = []
    for number in reversed(range(PARTITIONS)):
        channel = await connection.channel(publisher_confirms=False)
        try:
            await channel.queue_declare(queue_of(group, number), passive=True)
        except ChannelNotFoundEntity:
            missing.append(number)
            if number == PARTITIONS - 1:
                return list(range(PARTITIONS))
        else:
            await channel.close()
    return missing


async def _make(
    connection: AbstractConnection, control: AbstractChannel, group: str, patterns: Sequence[str], start: Start
) -> None:
    lock = await connection.channel(publisher_confirms=False)
    try:
        # Of members that begin at the same time, one.
        await lock.queue_declare(f"mc.{group}.making", exclusive=True, auto_delete=True)
    except ChannelLockedResource:
        raise Gone("Another member makes the group's queues.") from None
    missing = await _missing(connection, group)
    if len(missing) < PARTITIONS:
        # What was deleted of a group that goes on had what nobody else has.
        start = "earliest"
    for number in missing:
        await declare_queue(control, group, number)
        if start != "latest":
            await order(control, group, number, secrets.token_hex(8), start)
            await _bind(control, group, number, patterns)
            await order(control, group, number, secrets.token_hex(8), None)
    await lock.queue_delete(f"mc.{group}.making")
    await lock.close()


async def _bind(control: AbstractChannel, group: str, number: int, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        await control.queue_bind(queue_of(group, number), EXCHANGE, f"{pattern}.p{number}")
