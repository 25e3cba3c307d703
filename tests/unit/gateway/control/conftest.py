"""A small configuration in the database, and a Redis that takes what is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from apps.gateway.models import Consumer, RateLimitPolicy, Route
from apps.registry.models import Instance, Service


@dataclass
class World:
    """What the tests start from."""

    service: Service
    instance: Instance
    limit: RateLimitPolicy
    route: Route
    consumer: Consumer


def make_world() -> World:
    service = Service.objects.create(name="ledger", fleet=True)
    instance = Instance.objects.create(service=service, name="ledger-1", url="http://127.0.0.1:7102")
    limit = RateLimitPolicy.objects.create(name="standard", requests=200, burst=400)
    route = Route.objects.create(name="ledger", service=service, path="/ledger", allow=["*"], rate_limit=limit)
    consumer = Consumer.objects.create(name="demo")
    return World(service, instance, limit, route, consumer)


@pytest.fixture
def world(db: Any) -> World:
    return make_world()


@pytest.fixture
def published_redis(redis_url: str, settings: Any) -> str:
    """Where this test's publications go; empty at its start."""
    settings.REDIS_URL = redis_url
    return redis_url


@pytest.fixture
def no_redis(settings: Any) -> None:
    """Nobody listens where Redis should be."""
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
