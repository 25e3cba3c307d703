"""Looks at every deadline of a worker, without a timer for each. What is due is told so; it knows what that means."""

from __future__ import annotations

from apps.gateway.plane.worker import Worker


def exchanges(worker: Worker, now: float) -> None:
    """Requests in flight and breakers' waits: often, because people wait for these."""
    for request in [one for one in worker.inflight if one.deadline <= now]:
        request.expire(now)
    if worker.table is not None:
        for service in worker.table.services.values():
            service.breaker.tick(now)


def connections(worker: Worker, now: float) -> None:
    """Connections on both sides, and what else forgets with time: once a second is enough."""
    for client in [one for one in worker.clients if one.exchange is None and one.deadline <= now]:
        client.expire(now)
    worker.limiter.sweep(now)
    if worker.table is not None:
        for service in worker.table.services.values():
            service.outliers.tick(now)
            for instance in service.instances.values():
                instance.sweep(now)
