"""Whatever stands on Redis, the control plane reads past it: no page, round or task fails over it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.dashboard.sources import SignSource
from apps.gateway import actions, queries
from apps.health import breakers
from apps.health.announce import Announcer
from apps.lib import wire
from apps.lib.messages import Verdict
from tests.wire.test_trust import BODIES, FIELDS, KINDS, NAMES, sealed, write

pytestmark = pytest.mark.django_db


def test_the_control_plane_reads_past_anything(redis_url: str, settings: Any) -> None:
    settings.REDIS_URL = redis_url
    announcer = Announcer(redis_url)
    signs = SignSource()
    names = [*NAMES, *(wire.HEARTBEAT_PREFIX + name for name in ("worker", "beat", "relay"))]
    with redis.Redis.from_url(redis_url) as client:
        _try_everything(client, names, announcer, signs)
        # And what it says itself gets there again.
        assert announcer.repeat([Verdict("up/one", "healthy", time.time(), 1)]) or announcer.repeat(
            [Verdict("up/one", "healthy", time.time(), 1)]
        )
        assert client.hget(wire.HEALTH_STATE, "up/one")


def test_an_entry_whose_name_is_no_text_is_removed(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset(wire.HEALTH_STATE, b"\xff\xfe", b"x")
        announcer = Announcer(redis_url)
        assert announcer.forget(announcer.known() or ())
        assert not client.exists(wire.HEALTH_STATE)


def _try_everything(client: redis.Redis, names: list[str], announcer: Announcer, signs: SignSource) -> None:
    url = announcer._url

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(names), KINDS, FIELDS, BODIES, st.booleans())
    def anything(name: str, kind: str, field: bytes, body: bytes, ours: bool) -> None:
        write(client, name, kind, field, sealed(name, field if kind == "hash" else b"", body) if ours else body)
        queries.workers()
        queries.breakers()
        breakers.track(url, time.time())
        signs.read()
        actions.reconcile()
        known = announcer.known()
        if known:
            announcer.forget(known)

    anything()
