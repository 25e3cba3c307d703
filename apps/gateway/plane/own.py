"""The gateway's own addresses, all under ``/-/`` so that they can't shadow a route."""

from __future__ import annotations

import json

from apps.gateway.plane.worker import Worker
from services.kit.problem import Problem


def answer(worker: Worker, path: str, now: float) -> tuple[int, bytes | Problem]:
    """Status and body: JSON, or a problem document to be."""
    table = worker.table
    if path == "/-/health":
        uptime = round(now - worker.started_at, 1)
        about = {"status": "ok", "service": "gateway", "version": worker.settings.version, "uptime_s": uptime}
        return 200, json.dumps(about).encode()
    if path != "/-/ready":
        problem = Problem(404, "not_found", "There is nothing at this address.")
    elif worker.draining:
        problem = Problem(503, "not_ready", "It is draining.", 1)
    elif table is None:
        problem = Problem(503, "not_ready", "No configuration has reached this gateway yet.", 1)
    else:
        return 200, json.dumps({"status": "ready", "revision": table.document.revision}).encode()
    return problem.status, problem
