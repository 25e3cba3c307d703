"""A stock gunicorn behind the gateway, whose applications answer early: no body of one request is another's request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest

from apps.gateway.core import config
from tests.waiting import free_port, listening, until
from tests.wire.gateway import KEY, Gateway, Wire, running

OFFERS = {
    "plain": b"",
    "upgrade": b"Connection: Upgrade\r\nUpgrade: elsewhere\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nX-Consumer: admin\r\n\r\n"


@pytest.fixture(scope="module", params=["gthread", "sync"])
def gateway(
    tmp_path_factory: pytest.TempPathFactory, redis_process: str, request: pytest.FixtureRequest
) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), redis_process) as found:
        port = free_port()
        options = (
            "--worker-class",
            request.param,
            "--threads",
            "4",
            "--keep-alive",
            "30",
            "--bind",
            f"127.0.0.1:{port}",
        )
        found.processes.start(
            "gunicorn", "-m", "gunicorn", *options, "--no-control-socket", "tests.wire.wsgi:application"
        )
        until(lambda: listening(port), 20, what="gunicorn")
        instance = config.Instance("gunicorn", f"http://127.0.0.1:{port}")
        found.publish(services=found.service(instances=(instance,), breaker=config.Breaker(override="closed")))
        yield found
        assert "Traceback" not in found.logs() and "fault" not in found.logs()


def seen(gateway: Gateway) -> list[str]:
    return list(gateway.get("/open/seen").json()["seen"])


def attack(wire: Wire, offer: bytes, size: int, *, chunked: bool) -> None:
    """A head, and so much of a body that looks like requests; without its end."""
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % (size + 1)
    wire.raw(b"POST /open/early HTTP/1.1\r\nHost: a\r\n" + offer + framing + b"\r\n")
    body = (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]
    with contextlib.suppress(OSError):
        wire.raw(b"%x\r\n%b\r\n" % (size, body) if chunked else body)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_body_that_gunicorn_has_not_read_is_never_read_as_a_request(
    gateway: Gateway, offer: str, chunked: bool
) -> None:
    """Large enough to be on its way while it still comes; the answer is early, the rest comes after it."""
    with contextlib.closing(gateway.connect()) as attacker:
        attack(attacker, OFFERS[offer], 200_000, chunked=chunked)
        answer = attacker.read()
        assert answer.json()["path"] == "/early" and answer.fields["connection"] == "close"
        with contextlib.suppress(OSError):
            attacker.raw(SMUGGLED * 100)
        assert attacker.closed()
    for number in range(5):
        victim = gateway.get(f"/up/victim/{number}", f"X-API-Key: {KEY}").json()
        assert (victim["path"], victim["consumer"]) == (f"/victim/{number}", "tester")
    assert "/smuggled" not in seen(gateway)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("offer", OFFERS)
def test_a_whole_body_that_gunicorn_has_not_read_leaves_the_next_request_its_own_answer(
    gateway: Gateway, offer: str, chunked: bool
) -> None:
    body = SMUGGLED * 30
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % len(body)
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with contextlib.closing(gateway.connect()) as attacker:
        for number in range(10):
            attacker.raw(b"POST /open/early HTTP/1.1\r\nHost: a\r\n" + OFFERS[offer] + framing + data)
            assert attacker.read().json()["path"] == "/early"
            attacker.raw(b"GET /open/next/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            assert attacker.read().json() == {"path": f"/next/{number}", "consumer": "", "body": ""}
    assert "/smuggled" not in seen(gateway)


def test_among_attackers_every_client_gets_its_own_answer(gateway: Gateway) -> None:
    stop = threading.Event()

    def attackers(offer: bytes) -> None:
        while not stop.is_set():
            for size, chunked in ((100, False), (70_000, False), (70_000, True), (300_000, True)):
                with contextlib.closing(gateway.connect()) as wire:
                    attack(wire, offer, size, chunked=chunked)
                    wire.sock.settimeout(0.05)
                    with contextlib.suppress(OSError, EOFError):
                        wire.read()

    threads = [threading.Thread(target=attackers, args=(offer,)) for offer in OFFERS.values()]
    for thread in threads:
        thread.start()
    try:
        with contextlib.closing(gateway.connect(20)) as victim:
            for number in range(200):
                body = json.dumps(number)
                victim.send(
                    f"PUT /up/own/{number} HTTP/1.1",
                    "Host: a",
                    f"X-API-Key: {KEY}",
                    f"Content-Length: {len(body)}",
                    body=body.encode(),
                )
                answer = victim.read()
                assert answer.json() == {"path": f"/own/{number}", "consumer": "tester", "body": body}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert "/smuggled" not in seen(gateway)
