"""Any bytes of a client, in any segmentation, against h11: what goes up is what a strict reader reads, or a part of it.

The gateway may stop sooner than h11 does; it must never see a request where h11 sees none, nor another one.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apps.gateway.core import config
from tests.unit.gateway.plane.memory import World, world

Reading = list[tuple[bytes, bytes, bytes]]
"""Method, target and body of each request."""


def read(http: h11.Connection, found: Reading) -> bytes:
    """Read on and answer a request that is whole with 404 and its number; what was answered."""
    said = b""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            found.append((event.method, event.target, b""))
        elif isinstance(event, h11.Data):
            method, target, body = found[-1]
            found[-1] = (method, target, body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            number = b"%d" % len(found)
            said += http.send(h11.Response(status_code=404, headers=[("Content-Length", str(len(number)))])) or b""
            said += http.send(h11.Data(data=number if found[-1][0] != b"HEAD" else b"")) or b""
            said += http.send(h11.EndOfMessage()) or b""
            return said
        else:
            return said


def strictly(data: bytes) -> Reading:
    """What h11 reads from ``data``; a request that it has not read to its end may be the last."""
    found = Reading()
    while True:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
        while data.startswith(b"\r\n"):  # which h11 does not pass over, as RFC 9112 section 2.2 would have it
            data = data[2:]
        http.receive_data(data)
        try:
            read(http, found)
        except h11.RemoteProtocolError:
            return found
        if http.our_state is not h11.DONE:
            return found
        data = http.trailing_data[0]


def upstream_sees(net: World, segments: list[bytes]) -> Reading:
    """What reaches instances of ``segments`` that a client sends."""
    client, seen = net.client(), Reading()
    readers = {}
    for segment in segments:
        if not client.open:
            break
        if client.reading:
            net.do(lambda segment=segment: client.deliver(segment))
        else:
            break
        while net.dials or any(transport.buffer for transport in readers):
            for dial in list(net.dials):
                transport = net.answer_dial(dial)
                assert transport is not None
                readers[transport] = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
            for transport, http in readers.items():
                net.do(lambda transport=transport: transport.take(10**9))
                http.receive_data(bytes(transport.sent))
                transport.sent.clear()
                said = read(http, seen)
                if http.our_state is h11.DONE:
                    http.start_next_cycle()
                if said and transport.open:
                    net.do(lambda transport=transport, said=said: transport.deliver(said))
            net.do(lambda: client.take(10**9))
    return seen


LINES = [
    *(b"Content-Length: 5", b"Content-Length: 38", b"Content-Length: 0", b"Content-Length: 5, 5", b"Content-Length:+5"),
    *(
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:chunked\t",
        b"Transfer-Encoding: gzip, chunked",
        b"TE: chunked",
    ),
    *(b"Transfer_Encoding: chunked", b"Content_Length: 38", b"Transfer-Encoding : chunked", b" folded: x", b"\tfolded"),
    *(b"Connection: close", b"Connection: Content-Length", b"Connection: Upgrade"),
    *(
        b"Upgrade: h2c",
        b"Upgrade: x",
        b"Expect: 100-continue",
        b"X: y\nContent-Length: 38",
        b"X: y\rA: b",
        b"X:\x00",
        b": x",
    ),
    *(b"X", b"X: \xe9", b"\xe9: x", b"Host: b", b"Trailer: Content-Length", b"Max-Forwards: 3", b"X: y", b"X:", b""),
]
STARTS = [
    *(b"GET /open/%d HTTP/1.1", b"POST /open/%d HTTP/1.1", b"POST /open/%d HTTP/1.0", b"HEAD /open/%d HTTP/1.1"),
    *(
        b"POST http://a/open/%d HTTP/1.1",
        b"BREW /open/%d HTTP/1.1",
        b"GET  /open/%d HTTP/1.1",
        b"GET /open/%d HTTP/1.1 ",
    ),
    *(b"GET /open/%d HTTP/2.0", b"GET /nowhere/%d HTTP/1.1", b"get /open/%d HTTP/1.1", b"CONNECT /open/%d HTTP/1.1"),
]
BODIES = [
    *(
        b"",
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
    ),
    *(
        b"GET /open/99 HTTP/1.1\r\nHost: evil\r\n\r\n",
        b"26\r\nGET /open/99 HTTP/1.1\r\nHost: evil\r\n\r\n\r\n0\r\n\r\n",
    ),
    *(
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 38\r\n\r\n",
        b"0\r\n\n",
        b"\r\n",
        b"\n",
        b"\x00",
    ),
    *(b"0005\r\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"F\r\nhello\r\n0\r\n\r\n"),
]


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A few requests, each a little odd, one behind the other."""
    data = b""
    for number in range(draw(st.integers(1, 4))):
        start = draw(st.sampled_from(STARTS[:4] * 4 + STARTS)).replace(b"%d", b"%d" % number)
        lines = [b"Host: a", *draw(st.lists(st.sampled_from(LINES), max_size=3))]
        data += b"\r\n".join([start, *lines]) + b"\r\n\r\n" + draw(st.sampled_from(BODIES))
    return data


def normal(reading: Reading) -> Reading:
    """As the instance would see it: what leads there, by its path there."""
    inside = [(method, target.removeprefix(b"http://a"), body) for method, target, body in reading]
    return [(method, target[5:], body) for method, target, body in inside if target.startswith(b"/open/")]


@given(conversations(), st.sets(st.integers(1, 400), max_size=6))
@settings(max_examples=400, deadline=None)
@example(
    b"GET /open/0 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 38\r\n\r\n" + BODIES[7],
    set(),
)
@example(
    b"POST /open/0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + BODIES[11]
    + b"GET /open/1 HTTP/1.1\r\n\r\n",
    {9},
)
def test_what_goes_up_is_what_a_strict_reader_reads(data: bytes, cuts: set[int]) -> None:
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    with world(Path("/nonexistent")) as net:
        net.adopt(
            services=(config.Service("s", (config.Instance("i", "http://192.0.2.9:1000"),)),),
            routes=(config.Route("open", "s", "/open", auth=()),),
        )
        seen = upstream_sees(net, [data[start:stop] for start, stop in pairwise(at)])
    expected = normal(strictly(data))
    assert seen == expected[: len(seen)], (data, seen, expected)
