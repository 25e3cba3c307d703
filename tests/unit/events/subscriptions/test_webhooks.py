"""Events of the log reach an endpoint in another process, whatever that does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from apps.events.actions import publish
from apps.events.letters import queue
from apps.events.letters.models import DeadLetter
from apps.events.models import Attempt, Subscription
from apps.events.subscriptions import actions
from tests.unit.events.subscriptions.running import emit, emit_many, engine, eventually, hook
from tests.webhook_endpoint import Endpoint

pytestmark = pytest.mark.django_db(transaction=True)

in_db = sync_to_async


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with Endpoint(tmp_path_factory.mktemp("endpoint")) as found:
        yield found


@pytest.fixture
def endpoint(process: Endpoint) -> Endpoint:
    process.file.write_text("")
    return process


@pytest.fixture(autouse=True)
def reachable(settings: Any, redis_url: str) -> None:
    settings.REDIS_URL = redis_url


def numbers(requests: list[dict[str, Any]]) -> list[int]:
    return [json.loads(one["body"])["data"]["n"] for one in requests]


def row() -> Subscription:
    return Subscription.objects.get(name="hook")


async def test_an_event_is_delivered_well_within_a_second(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/ok"))
    took = []
    async with engine(redis_url):
        for n in range(20):
            await in_db(emit)(n)
            began = time.monotonic()
            await eventually(lambda: len(endpoint.received()) > len(took))
            took.append(time.monotonic() - began)
    assert numbers(endpoint.received()) == list(range(20))
    assert sorted(took[1:])[9] < 0.5, took
    found = await in_db(row)()
    assert (found.delivered, found.failures, found.position) == (20, 0, 20)
    assert await in_db(Attempt.objects.filter(outcome="delivered", status=200).count)() == 20
    assert not await in_db(DeadLetter.objects.count)()


async def test_each_key_is_in_order_and_nothing_is_sent_twice(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/slow/0.005"), concurrency=8)
    async with engine(redis_url):
        await in_db(emit_many)(200, 7)
        await eventually(lambda: len(endpoint.received()) >= 200, 30)
    order = numbers(endpoint.received())
    assert sorted(order) == list(range(200))
    for key in range(7):
        assert [n for n in order if n % 7 == key] == [n for n in range(200) if n % 7 == key]


async def test_a_poison_event_parks_its_key_and_nobody_elses(redis_url: str, endpoint: Endpoint) -> None:
    hooked = await in_db(hook)(endpoint.url("/poison"), max_attempts=2)
    async with engine(redis_url):
        await in_db(emit)(0, "a")
        await in_db(emit)(1, "a", poison=True)
        for n in range(2, 12):
            await in_db(emit)(n, "a" if n % 2 else "b")
        failed = DeadLetter.objects.filter(state=DeadLetter.State.FAILED)
        await eventually(failed.count, 20, rows=True)
        await eventually(lambda: len([n for n in numbers(endpoint.received()) if n % 2 == 0]) >= 6)
        order = numbers(endpoint.received())
        assert order.count(1) == 2 and [n for n in order if n != 1] == [0, 2, 4, 6, 8, 10]
        states = await in_db(lambda: dict(DeadLetter.objects.values_list("key", "state")))()
        assert set(states) == {"a"}
        assert await in_db(DeadLetter.objects.filter(state="parked").count)() == 5
        # Somebody discards it: the others of its key follow, in order.
        letter = await in_db(failed.get)()
        await in_db(queue.close)(letter, DeadLetter.State.DISCARDED, time.time())
        await eventually(lambda: len(numbers(endpoint.received())) >= 13, 20)
    assert [n for n in numbers(endpoint.received()) if n % 2 and n > 1] == [3, 5, 7, 9, 11]
    assert hooked.pk


async def test_a_dead_endpoint_costs_no_attempts_and_gets_all_in_order_when_it_is_back(
    redis_url: str, tmp_path: Path
) -> None:
    there = Endpoint(tmp_path)
    await in_db(hook)(there.url("/ok"))
    async with engine(redis_url):
        await in_db(emit_many)(30, 3)
        await eventually(lambda: row().failures >= 2, 20, rows=True)
        found = await in_db(row)()
        assert found.opened_until and found.position == 0
        assert not await in_db(DeadLetter.objects.count)()
        with there:
            await eventually(lambda: len(there.received()) >= 30, 60)
            order = numbers(there.received())
            await eventually(lambda: row().position == 30, rows=True)
    assert sorted(order) == list(range(30))
    for key in range(3):
        assert [n for n in order if n % 3 == key] == [n for n in range(30) if n % 3 == key]
    found = await in_db(row)()
    assert (found.failures, found.opened_until) == (0, None)


async def test_gone_disables(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/status/410"))
    async with engine(redis_url):
        await in_db(emit)(0)
        await eventually(lambda: row().state == Subscription.State.DISABLED, rows=True)
        await in_db(emit)(1)
    assert "410" in (await in_db(row)()).reason
    assert len(endpoint.received()) == 1


@pytest.mark.parametrize(
    ("path", "reason", "state"),
    [
        ("/redirect", "redirect", "failed"),
        ("/status/404", "http_4xx", "failed"),
        ("/status/408", "http_4xx", "retrying"),
        ("/status/500", "http_5xx", "retrying"),
        ("/reset", "reset", "retrying"),
        ("/close", "reset", "retrying"),
        ("/garbage", "odd", "retrying"),
        ("/hang", "timeout", "retrying"),
        ("/drip", "timeout", "retrying"),
    ],
)
async def test_what_an_endpoint_does_is_a_letter_with_its_class(
    path: str, reason: str, state: str, redis_url: str, endpoint: Endpoint
) -> None:
    await in_db(hook)(endpoint.url(path), timeout_s=0.5)
    async with engine(redis_url):
        await in_db(emit)(0)
        letter = await eventually(DeadLetter.objects.first, rows=True)
    assert (letter.reason, letter.state) == (reason, state), letter.error
    assert (await in_db(Attempt.objects.last)()).outcome == reason


async def test_a_huge_answer_is_cut_off_and_taken(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/huge"))
    async with engine(redis_url):
        await in_db(emit)(0)
        attempt = await eventually(Attempt.objects.first, rows=True)
    assert attempt.outcome == "delivered" and attempt.answer == "x" * 2048


async def test_busy_is_believed_and_costs_nothing(redis_url: str, endpoint: Endpoint) -> None:
    endpoint.say("busy", "after/1")
    await in_db(hook)(endpoint.url("/file/busy"))
    async with engine(redis_url):
        await in_db(emit)(0)
        await eventually(lambda: row().opened_until, rows=True)
        endpoint.say("busy", "ok")
        await eventually(lambda: row().delivered == 1, rows=True)
    first, *_, last = endpoint.received()
    assert last["at"] - first["at"] > 0.9
    assert not await in_db(DeadLetter.objects.count)()


async def test_permission_is_asked_first(redis_url: str, endpoint: Endpoint) -> None:
    endpoint.say("grant", "nohandshake")
    await in_db(hook)(endpoint.url("/file/grant"), handshake=True, rate=50)
    async with engine(redis_url):
        await in_db(emit)(0)
        await eventually(lambda: "permission" in row().last_error, rows=True)
        assert not endpoint.received()
        endpoint.say("grant", "ok")
        await eventually(lambda: row().delivered == 1, 20, rows=True)
    asked = endpoint.received("OPTIONS")[0]["headers"]
    assert (asked["webhook-request-origin"], asked["webhook-request-rate"]) == ("mission-control", "3000")
    found = await in_db(row)()
    assert found.allowed_at and found.allowed_rate == 1000


async def test_pause_keeps_events_and_resume_goes_on(redis_url: str, endpoint: Endpoint) -> None:
    hooked = await in_db(hook)(endpoint.url("/ok"))
    async with engine(redis_url):
        await in_db(emit)(0)
        await eventually(lambda: len(endpoint.received()) == 1)
        await in_db(actions.pause)(hooked)
        await in_db(emit)(1)
        await in_db(emit)(2)
        other = await in_db(hook)(endpoint.url("/other"), name="other", start="beginning")
        await eventually(lambda: len(endpoint.received(path="/other")) == 3)
        assert len(endpoint.received(path="/ok")) == 1
        await in_db(actions.resume)(hooked)
        await eventually(lambda: len(endpoint.received(path="/ok")) == 3)
        await in_db(actions.seek)(other, "2")
        await eventually(lambda: len(endpoint.received(path="/other")) == 5)
    assert numbers(endpoint.received(path="/ok")) == [0, 1, 2]
    assert numbers(endpoint.received(path="/other")) == [0, 1, 2, 1, 2]


async def test_two_engines_deliver_each_event_once(redis_url: str, endpoint: Endpoint) -> None:
    for name in ("one", "two", "three"):
        await in_db(hook)(endpoint.url(f"/{name}"), name=name)
    async with engine(redis_url, 2):
        await in_db(emit_many)(60, 5)
        await eventually(lambda: len(endpoint.received()) >= 180, 30)
    for name in ("one", "two", "three"):
        assert sorted(numbers(endpoint.received(path=f"/{name}"))) == list(range(60))


async def test_a_rate_is_kept(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/ok"), rate=20, concurrency=8)
    await in_db(emit_many)(30, 30)
    async with engine(redis_url):
        await eventually(lambda: len(endpoint.received()) >= 30, 20)
    at = [one["at"] for one in endpoint.received()]
    assert at[-1] - at[0] > 29 / 20 - 0.2


async def test_filters_choose_and_what_has_no_answer_is_counted(redis_url: str, endpoint: Endpoint) -> None:
    await in_db(hook)(endpoint.url("/ok"), filter="data.n > 2 && event.source == 'mission-control'")
    async with engine(redis_url):
        for n in range(5):
            await in_db(emit)(n)
        await in_db(publish)("test.thing.done", {"m": 1})
        await eventually(lambda: row().odd == 1 and row().delivered == 2, rows=True)
    assert numbers(endpoint.received()) == [3, 4]
