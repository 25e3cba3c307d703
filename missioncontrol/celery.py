"""The Celery application: ``celery -A missioncontrol.celery worker`` and ``beat``.

Tasks travel sealed (a serializer of Kombu's own kind): whoever else writes to the broker sets off nothing, with no
argument, callback or chain of theirs. All our tasks take none.

A worker holds the monitor too (missioncontrol.monitor), which needs no tasks. It shows that it lives by
work: its timer hands a refresh of ``mc:alive:worker`` to the pool, so the key goes stale when the consumer
hangs, when all of the pool's threads do, or when the monitor has ended.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "missioncontrol.settings")

from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown
from django.conf import settings
from kombu import serialization

from apps.lib import alive
from missioncontrol import keys, observe
from missioncontrol.sealed_tasks import CONTENT_TYPE, sealed

# Celery warns of running as root, where a pickled message could do harm; here only JSON is accepted.
warnings.filterwarnings("ignore", category=SecurityWarning)

serialization.register("sealed", *sealed(keys.inner), content_type=CONTENT_TYPE, content_encoding="utf-8")

app = Celery("missioncontrol")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# By name: it needs models, and these need Django to be set up.
app.steps["worker"].add("missioncontrol.monitor:Step")


@setup_logging.connect
def _keep_djangos_logging(**_: Any) -> None:
    """A receiver is all it takes: Celery then leaves the logging that Django's settings set up."""


@worker_init.connect
def _observe(**_: Any) -> None:
    flush = observe.start("worker")
    worker_shutdown.connect(lambda **_: flush(), weak=False)


@worker_ready.connect
def _show_life(sender: Any, **_: Any) -> None:
    worker = sender.controller

    def refresh() -> None:
        if worker.monitor.alive:
            worker.pool.apply_async(_refresh)

    refresh()
    worker.timer.call_repeatedly(alive.EVERY_S, refresh)


def _refresh() -> None:
    alive.refresh(settings.REDIS_URL, settings.WIRE, "worker")
