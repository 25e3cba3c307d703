"""A store that is older than positions is numbered as it came, and its streams go on where they were."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.events import sequencer
from apps.events.actions import publish
from apps.events.models import Event

pytestmark = pytest.mark.django_db(transaction=True)

TYPE = "test.thing.done"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def before() -> Iterator[Any]:
    """The models as they were."""
    executor = MigrationExecutor(connection)
    yield executor.migrate([("events", "0001_event_store")]).apps
    _forward()


def _forward() -> None:
    executor = MigrationExecutor(connection)
    executor.migrate([node for node in executor.loader.graph.leaf_nodes() if node[0] == "events"])


def test_events_from_before_positions_are_numbered_as_they_came(before: Any) -> None:
    event, head = before.get_model("events", "Event"), before.get_model("events", "PartitionSequence")
    for number, place in ((1, 5), (2, 9), (3, 12)):
        event.objects.create(
            position=place,
            event_id=UUID(int=place),
            type=TYPE,
            source="s",
            time=NOW,
            data={},
            partition_key="k",
            sequence=number,
        )
    head.objects.create(key="k", last=3)
    _forward()
    new = publish(TYPE, {}, stream="k")
    sequencer.number()
    told = Event.objects.order_by("position").values_list("position", "stream", "version")
    assert list(told) == [(1, "k", 1), (2, "k", 2), (3, "k", 3), (4, "k", 4)]
    assert new.version == 4
    ids = Event.objects.order_by("position").values_list("event_id", flat=True)
    assert list(ids) == [str(UUID(int=place)) for place in (5, 9, 12)] + [new.event_id]
