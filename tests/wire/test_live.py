"""The live protocol over a real socket to a real Daphne: snapshot, deltas, resume, a close code for each mistake."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
import requests

from apps.dashboard.frames import MAX_CLIENT_FRAME, TOPICS, merge
from apps.dashboard.hub import WINDOW
from tests.control import Control, controlled

ROOT = Path(__file__).resolve().parents[2]
SET_UP = """
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
def session(user):
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.create()
    return store.session_key
viewer = User.objects.create_user("viewer")
viewer.groups.add(Group.objects.get_or_create(name="viewer")[0])
print(session(viewer), session(User.objects.create_user("nobody")))
"""


@pytest.fixture(scope="module")
def control(redis_process: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """ClickHouse is away, which a page must bear."""
    with controlled(tmp_path_factory.mktemp("home"), redis_process) as made:
        made.viewer, made.nobody = made.run("shell", "-v0", text=SET_UP).split()[-2:]
        made.start()
        yield made


async def frame(ws: aiohttp.ClientWebSocketResponse, seconds: float = 8.0) -> dict[str, Any]:
    message = await ws.receive(seconds)
    assert message.type == aiohttp.WSMsgType.TEXT, f"closed with {ws.close_code}: {message.extra}"
    answer: dict[str, Any] = json.loads(message.data)
    return answer


async def closed(ws: aiohttp.ClientWebSocketResponse, seconds: float = 8.0) -> int | None:
    """The code that the server closes with; frames before it are passed over."""
    async with asyncio.timeout(seconds):
        while True:
            message = await ws.receive()
            if message.type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING}:
                return ws.close_code


async def ack(ws: aiohttp.ClientWebSocketResponse, seq: Any) -> None:
    await ws.send_str(json.dumps({"type": "ack", "seq": seq}))


async def test_a_snapshot_then_deltas_one_by_one(control: Control) -> None:
    async with control.connect() as ws:
        first = await frame(ws)
        assert first["type"] == "snapshot"
        assert set(first["state"]) == TOPICS | {"sources"}
        assert "ClickHouse" in first["state"]["sources"]["telemetry"]["stale"], "ClickHouse is away, and that is said"
        verdict = first["state"]["verdict"]
        assert verdict["state"] == "unknown", "no gateway worker reports, and nobody can say why"
        assert verdict["title"].startswith("Not known: ")
        await ack(ws, first["seq"])
        for number in range(1, 4):
            delta = await frame(ws)
            assert (delta["type"], delta["epoch"], delta["seq"]) == ("delta", first["epoch"], first["seq"] + number)
            await ack(ws, delta["seq"])


async def test_two_browsers_and_a_late_one_hold_the_same_state(control: Control) -> None:
    async with control.connect() as one, control.connect() as two:
        states: list[Any] = [None, None]
        seqs = [0, -1]
        while seqs[0] < 3 or seqs[0] != seqs[1]:
            behind = 0 if seqs[0] <= seqs[1] else 1
            got = await frame((one, two)[behind])
            states[behind] = got["state"] if got["type"] == "snapshot" else merge(states[behind], got["patch"])
            seqs[behind] = got["seq"]
            await ack((one, two)[behind], got["seq"])
        assert states[0] == states[1]


async def test_a_connection_resumes_where_it_was_cut(control: Control) -> None:
    async with control.connect() as ws:
        held = await frame(ws)
        state = held["state"]
        await ack(ws, held["seq"])
    await asyncio.sleep(1.5)  # Ticks pass while nobody is connected here.
    async with control.connect(f"?epoch={held['epoch']}&seq={held['seq']}") as ws, control.connect() as fresh:
        target = await frame(fresh)
        seq = held["seq"]
        while seq < target["seq"]:
            delta = await frame(ws)
            assert (delta["type"], delta["seq"]) == ("delta", seq + 1)
            state, seq = merge(state, delta["patch"]), delta["seq"]
        assert state == target["state"]


@pytest.mark.parametrize("query", ["?epoch=1&seq=1", "?epoch=nonsense&seq=5", "?seq=999999999", "?epoch=%00&seq="])
async def test_what_can_not_be_resumed_begins_with_a_snapshot(control: Control, query: str) -> None:
    async with control.connect(query) as ws:
        assert (await frame(ws))["type"] == "snapshot"


async def test_topics_by_address_and_by_frame(control: Control) -> None:
    async with control.connect("?topics=verdict") as ws:
        assert set((await frame(ws))["state"]) == {"verdict", "sources"}
        await ws.send_str('{"type":"subscribe","topics":["gateway"]}')
        while (got := await frame(ws))["type"] == "delta":
            assert set(got["patch"]) <= {"verdict", "sources"}
        assert set(got["state"]) == {"gateway", "sources"}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{", 4400),
        ("[]", 4400),
        ('{"type":"hello"}', 4400),
        ('{"type":"subscribe","topics":{}}', 4400),
        (b"\x00\x01", 4400),
        ("x" * (MAX_CLIENT_FRAME + 1), 4400),
        ('{"type":"subscribe","topics":["weather"]}', 4404),
        ('{"type":"ack"}', 4409),
        ('{"type":"ack","seq":"1"}', 4409),
        ('{"type":"ack","seq":1.5}', 4409),
        ('{"type":"ack","seq":-1}', 4409),
        ('{"type":"ack","seq":999999999}', 4409),
        ('{"type":"ack","seq":' + "9" * 4000 + "}", 4409),
    ],
)
async def test_a_wrong_frame_closes_with_its_code(control: Control, sent: str | bytes, code: int) -> None:
    async with control.connect() as ws:
        await frame(ws)
        await (ws.send_bytes(sent) if isinstance(sent, bytes) else ws.send_str(sent))
        assert await closed(ws) == code


async def test_an_ack_that_goes_backwards_closes(control: Control) -> None:
    async with control.connect() as ws:
        first, second = await frame(ws), await frame(ws)
        await ack(ws, second["seq"])
        await ack(ws, first["seq"])
        assert await closed(ws) == 4409


@pytest.mark.parametrize(("query", "code"), [("?topics=weather", 4404), ("?seq=abc", 4400), ("?" + "a=1&" * 40, 4400)])
async def test_a_wrong_address_closes_with_its_code(control: Control, query: str, code: int) -> None:
    async with control.connect(query) as ws:
        assert await closed(ws) == code


async def test_a_message_of_megabytes_is_cut_off(control: Control) -> None:
    async with control.connect() as ws:
        await frame(ws)
        try:
            await ws.send_str("x" * (3 * 1024 * 1024))
        except ConnectionError:
            return
        assert await closed(ws) in {1009, 1006, 4400}


async def test_chatter_closes(control: Control) -> None:
    async with control.connect() as ws:
        await frame(ws)
        for _ in range(100):
            await ws.send_str('{"type":"subscribe","topics":["verdict"]}')
        assert await closed(ws) == 4429


async def test_who_does_not_acknowledge_gets_no_more(control: Control) -> None:
    async with control.connect() as ws:
        seqs = [(await frame(ws))["seq"] for _ in range(WINDOW)]
        with pytest.raises(TimeoutError):
            await frame(ws, 2.5)
        await ack(ws, seqs[-1])
        assert (await frame(ws))["type"] == "snapshot"


@pytest.mark.parametrize("who", ["", "nobody", "forged"])
async def test_strangers_and_the_roleless_are_refused(control: Control, who: str) -> None:
    session = {"": "", "nobody": control.nobody, "forged": "a" * 32}[who]
    async with control.connect(session=session) as ws:
        assert await closed(ws) == 4401


OTHERS = ["https://example.org", "null", "http://127.0.0.1.example.org", "http://127.0.0.1:1", "http://127.0.0.1"]


@pytest.mark.parametrize("origin", [*OTHERS, "https://127.0.0.1:{port}", "http://localhost:{port}", ""])
async def test_a_page_of_another_host_or_port_can_not_connect(control: Control, origin: str) -> None:
    origin = origin.format(port=control.port)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with control.connect(origin=origin):
            pass
    assert refused.value.status == (403 if origin else 400)


async def test_any_other_address_is_refused_at_the_handshake(control: Control) -> None:
    async with aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{control.port}/ws/other"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(url, headers={"Origin": f"http://127.0.0.1:{control.port}"})


def test_half_a_frame_and_a_lost_peer_cost_nothing(control: Control) -> None:
    """Raw sockets: a handshake that ends in the middle, and a frame that never ends."""
    for part in (b"GET /ws/live HTTP/1.1\r\nHost: x\r\nUpgrade: websoc", b"\x81\xfe\x10\x00half"):
        with socket.create_connection(("127.0.0.1", control.port), 5) as raw:
            raw.sendall(part)
    assert requests.get(f"http://127.0.0.1:{control.port}/ready", timeout=5).status_code == 200


async def test_browsers_that_vanish_disturb_nobody(control: Control) -> None:
    """Forty connections end at every moment of a tick, half of them without a word."""

    async def vanish(number: int) -> None:
        async with control.connect() as ws:
            await frame(ws)
            await asyncio.sleep(number * 0.05)
            if number % 2 and ws._response.connection is not None and ws._response.connection.transport is not None:
                ws._response.connection.transport.abort()

    async with control.connect() as steady:
        last = await frame(steady)
        vanishing = asyncio.gather(*(vanish(number) for number in range(40)))
        for _ in range(5):
            await ack(steady, last["seq"])
            got = await frame(steady)
            assert got["type"] == "delta"
            assert got["seq"] == last["seq"] + 1
            last = got
        await vanishing


async def test_a_verdict_shows_within_a_second(control: Control, redis_process: str) -> None:
    """A nudge on the health channel makes the next tick come early."""
    clock = asyncio.get_running_loop().time
    async with control.connect() as ws:
        got = await frame(ws)
        for _ in range(3):
            await ack(ws, got["seq"])
            got = await frame(ws)
        await ack(ws, got["seq"])
        before = clock()
        assert await asyncio.to_thread(_nudge, redis_process) >= 1, "the feed listens"
        await frame(ws)
        assert clock() - before < 0.9


def _nudge(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.publish("mc:health", "{}"))


async def test_a_restart_is_announced_and_a_new_process_begins_anew(control: Control) -> None:
    async with control.connect() as ws:
        first = await frame(ws)
        await ack(ws, first["seq"])
        stopping = asyncio.create_task(asyncio.to_thread(control.stop))
        assert await closed(ws, 12) == 1012
        assert await stopping == 0
    control.start()
    async with control.connect(f"?epoch={first['epoch']}&seq={first['seq']}") as ws:
        again = await frame(ws, 12)
        assert again["type"] == "snapshot"
        assert int(again["epoch"]) > int(first["epoch"])
