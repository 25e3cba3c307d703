"""What a stranger puts into the task queue is not carried out, and stops nobody who works."""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from missioncontrol import keys
from missioncontrol.sealed_tasks import CONTENT_TYPE, sealed
from tests.waiting import until
from tests.wire.test_health import Monitoring, monitoring, system

__all__ = ["monitoring", "system"]

OLD = """
from datetime import timedelta
from django.utils import timezone
from apps.health.models import HealthTransition
HealthTransition.objects.get_or_create(service="s", key="s/old", from_state="healthy", to_state="unhealthy",
    version=1, defaults={"at": timezone.now() - timedelta(days=1000)})
"""
COUNT = "from apps.health.models import HealthTransition; print(HealthTransition.objects.filter(key='s/old').count())"
ASK_PROPERLY = "from missioncontrol.celery import app; app.send_task('health.prune')"


def message(task: str, body: Any, content_type: str = "application/json") -> str:
    """A task as Celery's protocol 2 puts it on Redis."""
    number = str(uuid.uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": number, "root_id": number, "argsrepr": "()"},
            "properties": {
                "correlation_id": number,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "celery"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": number,
            },
        }
    )


NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
FORGED = {
    "a task of ours": message("health.prune", [[], {}, NOTHING]),
    "a chain": message("events.prune", [[], {}, NOTHING | {"chain": [{"task": "health.prune", "args": []}]}]),
    "one that claims to be sealed": message(
        "health.prune", b"mc1:" + b"A" * 43 + b":1.0:[[],{},{}]", "application/x-mc-sealed"
    ),
    "a pickle": message("health.prune", b"cos\nsystem\n(S'true'\ntR.", "application/x-python-serialize"),
}


def test_a_forged_task_is_not_carried_out(monitoring: Monitoring) -> None:
    monitoring.django(OLD)
    for what, text in FORGED.items():
        monitoring.client.lpush("celery", text)
        until(lambda: not monitoring.client.lrange("celery", 0, -1), 15, what=f"{what} taken from the queue")
    now = time.time()
    until(lambda: monitoring.checked_since(now + 1), 20, what="health checks go on")
    assert monitoring.django(COUNT).split()[-1] == "1", "a forged task ran"
    monitoring.django(ASK_PROPERLY)
    until(lambda: monitoring.django(COUNT).split()[-1] == "0", 20, every=0.5, what="our own task runs")


@pytest.mark.parametrize("junk", ["not json", b"\xff\xfe", "[]", "{}", '{"body": 1}', "null"])
def test_junk_in_the_queue_stops_no_worker(monitoring: Monitoring, junk: str | bytes) -> None:
    worker = monitoring.processes["worker"]
    monitoring.client.lpush("celery", junk)
    now = time.time()
    until(lambda: monitoring.checked_since(now + 2), 30, what="health checks go on")
    assert worker.poll() is None, monitoring.logs()


@pytest.mark.parametrize("name", ["celery", "_kombu.binding.celery", "unacked", "unacked_index"])
def test_a_key_of_another_type_is_no_end(monitoring: Monitoring, name: str) -> None:
    worker = monitoring.processes["worker"]
    monitoring.client.delete(name)
    monitoring.client.set(name, "a string")
    now = time.time()
    until(lambda: monitoring.checked_since(now + 2), 40, what="health checks go on")
    assert worker.poll() is None, monitoring.logs()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just("2026-01-01T00:00:00"),
    lambda more: st.lists(more, max_size=2) | st.dictionaries(st.text(max_size=3), more, max_size=2),
    max_leaves=4,
)
NAMES = ["task", "id", "eta", "expires", "retries", "timelimit", "group", "root_id", "parent_id", "stamps", "shadow"]
NAMES += ["lang", "argsrepr", "kwargsrepr", "origin", "ignore_result", "stamped_headers", "replaced_task_nesting"]


def test_odd_headers_around_a_true_body_stop_no_worker(monitoring: Monitoring) -> None:
    worker = monitoring.processes["worker"]
    write, _ = sealed(keys.inner)
    body = write([[], {}, NOTHING]).encode()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3), st.dictionaries(st.text(max_size=3), VALUES))
    def odd(headers: dict[str, Any], properties: dict[str, Any]) -> None:
        told = json.loads(message("health.prune", body, CONTENT_TYPE))
        told["headers"] |= headers
        told["properties"] |= properties
        monitoring.client.lpush("celery", json.dumps(told))

    odd()
    until(lambda: not monitoring.client.lrange("celery", 0, -1), 30, what="all taken from the queue")
    now = time.time()
    until(lambda: monitoring.checked_since(now + 2), 30, what="health checks go on")
    assert worker.poll() is None, monitoring.logs()
