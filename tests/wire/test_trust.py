"""A stranger who can write to Redis, or to the gateway's disk, decides nothing: not what is served, nor to whom."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.gateway.core import config
from apps.lib import wire
from apps.lib.border import Border
from apps.lib.messages import BreakerOpened, Verdict, WorkerBeat
from missioncontrol import keys
from services.kit.seal import Seal
from services.kit.signature import Signer
from tests.waiting import until
from tests.wire.gateway import Gateway, border, running, signed

STRANGER = "a stranger's secret, long enough to be one"


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    with running(tmp_path, redis_url) as found:
        yield found


def passed_over(gateway: Gateway) -> int:
    """How many messages the worker says that it did not believe."""
    return sum(beat["refused"] for beat in gateway.workers_seen().values())


def evil(gateway: Gateway, **changes: Any) -> bytes:
    """The document with its guarded route opened to everybody, as the next revision."""
    routes = (config.Route("up", "up", "/up", auth=()),)
    document = msgspec.structs.replace(
        gateway.document, revision=gateway.revision + 100, created_at=time.time(), routes=routes, **changes
    )
    return config.encode(document)


def put(gateway: Gateway, data: bytes) -> None:
    """As the control plane does it."""
    with gateway.redis() as client:
        client.set(wire.CONFIG_CURRENT, data)
        client.publish(wire.CONFIG_CHANNEL, "101")


# -- configuration ------------------------------------------------------------------------------------


def forgeries(gateway: Gateway) -> dict[str, bytes]:
    document, now = evil(gateway), time.time()
    true = signed(document)
    return {
        "bare": document,
        "signed by a stranger": Signer(STRANGER).close(wire.CONFIG_CURRENT, document, now),
        "sealed with the key that every gateway has": keys.wire().close(wire.CONFIG_CURRENT, document, now),
        "signed for another place": keys.signer().close(wire.CONFIG_CHANNEL, document, now),
        "changed after it was signed": true.replace(b'"/up"', b'"/u2"'),
        "signed at another time": true.replace(true.split(b":")[2], b"1.000"),
        "without a proof": b":".join((b"mc1", b"", *true.split(b":", 3)[2:])),
        "of another version": true.replace(b"mc1", b"mc2", 1),
    }


def test_a_forged_revision_is_not_served_and_is_counted_and_shown(gateway: Gateway) -> None:
    for number, (what, data) in enumerate(forgeries(gateway).items(), start=1):
        put(gateway, data)
        until(lambda number=number: gateway.logs().count("did not sign was refused") == number, 6, what=what)
        assert gateway.get("/up/x").status == 401, what
        assert gateway.get("/-/ready").json()["revision"] == gateway.revision
    until(lambda: passed_over(gateway) >= number, 5, what="the count in the worker's acknowledgement")
    gateway.publish()
    assert gateway.get("/-/ready").json()["revision"] == gateway.revision


def test_an_old_revision_is_not_gone_back_to_however_truly_it_is_signed(gateway: Gateway) -> None:
    with gateway.redis() as client:
        old = client.get(wire.CONFIG_CURRENT)
    gateway.publish(keys=())  # the key was revoked
    put(gateway, old)  # type: ignore[arg-type]
    until(lambda: "older than the one in use" in gateway.logs(), 6)
    assert gateway.get("/-/ready").json()["revision"] == gateway.revision
    # Nor by a worker that begins anew, which remembers by its disk.
    assert gateway.process is not None
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    gateway.start()
    gateway.wait_ready()
    until(lambda: gateway.logs().count("older than the one in use") >= 2, 6)
    assert gateway.get("/-/ready").json()["revision"] == gateway.revision


def test_a_database_from_a_backup_counts_from_a_lower_number_and_is_followed(gateway: Gateway) -> None:
    for _ in range(3):
        gateway.publish()
    gateway.revision = 0
    gateway.publish(routes=(config.Route("new", "up", "/new", auth=()),))
    assert gateway.get("/new/x").status == 200


def test_a_forged_file_on_the_gateways_disk_is_not_served(gateway: Gateway) -> None:
    saved = gateway.folder / "home" / "gateway" / "revision.json"
    until(saved.exists, 3)
    assert gateway.process is not None
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    gateway.redis_url = "redis://127.0.0.1:1/0"
    for data in (evil(gateway), Signer(STRANGER).close(wire.CONFIG_CURRENT, evil(gateway), time.time()), b"\xff"):
        saved.write_bytes(data)
        gateway.start()
        assert gateway.get("/up/x").failure == "no_configuration"
        gateway.process.terminate()
        assert gateway.process.wait(10) == 0


# -- verdicts, orders, signs of life ---------------------------------------------------------------------


def test_a_forged_verdict_takes_no_instance_out(gateway: Gateway) -> None:
    verdict = Verdict("up/one", "unhealthy", time.time(), 10**9)
    stranger = Border(Seal(STRANGER), lambda metric, name: None)
    before = passed_over(gateway)
    with gateway.redis() as client:
        for said in (
            msgspec.json.encode(verdict),
            stranger.close(verdict, wire.HEALTH_CHANNEL),
            border().close(verdict, wire.HEALTH_STATE, "up/one"),  # true in the hash, and no news
            keys.wire().close(wire.HEALTH_CHANNEL, msgspec.json.encode(verdict), time.time() - 60),  # no news any more
        ):
            client.publish(wire.HEALTH_CHANNEL, said)
        client.hset(wire.HEALTH_STATE, "up/one", border().close(verdict, wire.HEALTH_STATE, "up/two"))
    until(lambda: passed_over(gateway) >= before + 5, 10, what="none of them believed")
    assert gateway.get("/open/x").status == 200


def test_a_forged_order_opens_no_breaker(gateway: Gateway) -> None:
    now = time.time()
    order = BreakerOpened("up", "another", now + 60, now)
    before = passed_over(gateway)
    with gateway.redis() as client:
        client.publish(wire.BREAKER_OPENED, msgspec.json.encode(order))
        client.publish(wire.BREAKER_OPENED, keys.wire().close(wire.HEALTH_CHANNEL, msgspec.json.encode(order), now))
        client.publish(
            wire.BREAKER_OPENED, keys.wire().close(wire.BREAKER_OPENED, msgspec.json.encode(order), now - 60)
        )
        over = border().close(BreakerOpened("up", "another", now - 1, now - 6), wire.BREAKER_OPENED)
        client.publish(wire.BREAKER_OPENED, over)
    until(lambda: passed_over(gateway) >= before + 3, 5)
    assert gateway.get("/open/x").status == 200
    with gateway.redis() as client:
        client.publish(wire.BREAKER_OPENED, border().close(order, wire.BREAKER_OPENED))
    until(lambda: gateway.get("/open/x").status == 503, 5, what="a peer's own word still counts")


def test_strangers_who_say_that_they_are_workers_take_no_share_of_the_limits(gateway: Gateway) -> None:
    """With Redis away each worker admits its part of a limit: one of as many as it believed to be alive."""
    with gateway.redis() as client:
        for number in range(500):
            beat = msgspec.json.encode(WorkerBeat(1, time.time() + 1e6))
            client.hset(wire.GATEWAY_WORKERS, f"node:{number}:x", beat)
        until(lambda: client.hlen(wire.GATEWAY_WORKERS) == 1, 6, what="what nobody of ours said is removed")


# -- anything at all -------------------------------------------------------------------------------------

NAMES = sorted(name for name in vars(wire).values() if isinstance(name, str) and name.startswith("mc:"))
CHANNELS = [wire.CONFIG_CHANNEL, wire.HEALTH_CHANNEL, wire.BREAKER_OPENED, wire.OUTBOX_CHANNEL, wire.LIVE_WAKE]
FIELDS = st.one_of(st.sampled_from([b"up/one", b"up|n:1:x", b"covenant/covenant-1"]), st.binary(max_size=20))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda more: st.one_of(
        st.lists(more, max_size=3),
        st.dictionaries(
            st.sampled_from(["revision", "at", "state", "instance", "worker", "service"]), more, max_size=4
        ),
    ),
    max_leaves=6,
)
BODIES = st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode()))
KINDS = st.sampled_from(["string", "hash", "list", "set", "zset", "stream", "last", "channel"])


def write(client: redis.Redis, name: str, kind: str, field: bytes, body: bytes) -> None:
    """Leave ``body`` under ``name`` as a value of some kind, or say it on a channel of that name."""
    if kind == "channel":
        client.publish(name, body)
        return
    pipe = client.pipeline(transaction=True)  # a worker may write there at the same moment
    pipe.delete(name)
    if kind == "string":
        pipe.set(name, body)
    elif kind == "hash":
        pipe.hset(name, field, body)  # type: ignore[arg-type]
    elif kind == "list":
        pipe.rpush(name, body)
    elif kind == "set":
        pipe.sadd(name, body)
    elif kind == "zset":
        pipe.zadd(name, {body: 1.0})
    else:
        entry = f"{2**64 - 1}-{2**64 - 1}" if kind == "last" else "*"
        pipe.xadd(name, {b"m": body, field or b"f": body}, id=entry)
    pipe.execute()


def sealed(name: str, field: bytes, body: bytes) -> bytes:
    """``body`` as a release of ours that talks nonsense would seal it."""
    place = f"{name}\n{field.decode(errors='replace')}" if field else name
    return keys.wire().close(place, body, time.time())


def test_whatever_stands_on_redis_no_request_fails_and_no_part_does(tmp_path: Path, redis_url: str) -> None:
    limits = (config.RateLimit("wide", 1_000_000),)
    with running(tmp_path, redis_url) as gateway, redis.Redis.from_url(redis_url) as client:
        routes = (config.Route("open", "up", "/open", auth=(), rate_limit="wide"), config.Route("up", "up", "/up"))
        gateway.publish(rate_limits=limits, routes=routes)
        names = [*NAMES, f"{wire.LIMIT_PREFIX}wide:127.0.0.1", f"{wire.HEARTBEAT_PREFIX}{wire.MONITOR}"]

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.sampled_from(names), KINDS, FIELDS, BODIES, st.booleans())
        def anything(name: str, kind: str, field: bytes, body: bytes, ours: bool) -> None:
            in_hash = field if kind == "hash" else b""
            write(client, name, kind, field, sealed(name, in_hash, body) if ours else body)
            assert gateway.get("/open/x").status == 200
            assert gateway.get("/up/x").status == 401

        anything()
        until(lambda: client.type(wire.GATEWAY_WORKERS) in {b"hash", b"none"}, 10, what="what is no hash cleared away")
        gateway.publish()
        assert gateway.get("/open/x").status == 200
        assert "begins anew" not in gateway.logs()
        assert len(gateway.worker_pids()) == 1
        assert "take its place" not in gateway.logs() and "takes its place" not in gateway.logs()
