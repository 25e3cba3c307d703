"""A member of a group in a process of its own, to be killed: fetches, says what it has in hand, and settles nothing.

``python -m tests.bus_member URL PATTERN GROUP MEMBER COUNT LEASE_S``
"""

from __future__ import annotations

import asyncio
import sys

from services.kit.events.transport.connect import connect


async def main(url: str, pattern: str, group: str, member: str, count: str, lease_s: str) -> None:
    """Hold ``count`` deliveries until killed."""
    subscription = await connect(url).subscribe([pattern], group, member, lease_s=float(lease_s))
    held = 0
    while True:
        found = await subscription.fetch(int(count), 0.2)
        held += len(found)
        await subscription.extend()
        if found:
            print(held, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
