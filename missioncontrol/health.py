"""``/health`` and ``/ready`` of the control process."""

from __future__ import annotations

import time

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from apps.lib import kv
from missioncontrol.errors import problem
from services.kit.problem import Problem

STARTED = time.monotonic()
_migrated = False


def _status() -> JsonResponse:
    uptime = round(time.monotonic() - STARTED, 1)
    return JsonResponse({"status": "ok", "service": "control", "version": settings.VERSION, "uptime_s": uptime})


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """The process lives."""
    return _status()


@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """It can do its job: the database answers, has every table, and Redis answers. 503 says which doesn't."""
    reason = _database() or _redis()
    if reason:
        return problem(Problem(503, "not_ready", reason, retry_after=2))
    return _status()


def _database() -> str:
    global _migrated
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            # Asked until it holds once: it costs a read of every migration file.
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return "The database lacks migrations: run 'manage.py migrate'."
            _migrated = True
    except DatabaseError as error:
        return f"The database does not answer: {error}."
    return ""


def _redis() -> str:
    try:
        kv.client(settings.REDIS_URL).ping()
    except redis.RedisError as error:
        return f"Redis does not answer: {error}"
    return ""
