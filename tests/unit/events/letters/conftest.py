"""What is published here is held to the schemas in our files, as where the system has started."""

from __future__ import annotations

import pytest

from apps.events.schemas import registry
from missioncontrol.management.commands.schemas import OURS, ours

OWN = ours()


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("django_db"):
        request.getfixturevalue("db")
        registry.load([(OURS, OWN)])
