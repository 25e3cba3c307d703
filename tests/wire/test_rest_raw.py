"""Raw bytes at the control process: each bad request gets its status and a problem document, and costs little."""

from __future__ import annotations

import json
import socket

import pytest

from tests.fleet import Fleet

BIG = 1_100_000


def ask(fleet: Fleet, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case and body of the answer to exactly these bytes."""
    token = fleet.credentials["api_token"].encode()
    head = b"Host: localhost\r\nAuthorization: Bearer " + token + b"\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", fleet.ports["MC_CONTROL_PORT"]), timeout=15) as peer:
        try:
            peer.sendall(request.replace(b"@", head, 1))
        except OSError:
            pass  # it has refused before the last byte; what it said is there to read
        answer = b""
        while data := _read(peer):
            answer += data
    start, _, body = answer.partition(b"\r\n\r\n")
    lines = start.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def _read(peer: socket.socket) -> bytes:
    try:
        return peer.recv(65536)
    except ConnectionResetError:
        return b""


def chunked(data: bytes, size: int = 65536) -> bytes:
    parts = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


POST = b"POST /api/v1/services HTTP/1.1\r\n@Content-Type: application/json\r\n"
GET = b"GET /api/v1/services HTTP/1.1\r\n@"


@pytest.mark.parametrize(
    ("request_bytes", "status", "failure"),
    [
        pytest.param(b"garbage\r\n\r\n", 400, "malformed", id="no HTTP"),
        pytest.param(POST + b"Content-Length: abc\r\n\r\n", 400, "malformed", id="a length that is no number"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", 400, "malformed", id="a length below zero"),
        pytest.param(
            POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed",
            id="two framings",
        ),
        pytest.param(GET + b"X-Zero: a\x00b\r\n\r\n", 400, "malformed", id="a NUL in a header"),
        pytest.param(GET + b"X-Big: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers_too_large", id="a long header"),
        pytest.param(GET + b"X-A: b\r\n" * 600 + b"\r\n", 431, "headers_too_large", id="many headers"),
        pytest.param(b"GET /api/v1/" + b"a" * 20_000 + b" HTTP/1.1\r\n@\r\n", 414, "uri_too_long", id="a long address"),
        pytest.param(
            POST + b"Content-Length: %d\r\n\r\n" % BIG + b"x" * BIG, 413, "body_too_large", id="a body over the limit"
        ),
        pytest.param(POST + b"Content-Length: 20000000\r\n\r\n", 413, "body_too_large", id="a huge body announced"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * BIG),
            413,
            "body_too_large",
            id="chunks over the limit",
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * 20_000_000),
            413,
            "body_too_large",
            id="chunks without end",
        ),
        pytest.param(POST + b"Content-Length: 1\r\n\r\n{", 400, "invalid", id="broken JSON"),
        pytest.param(b"BREW /api/v1/services HTTP/1.1\r\n@\r\n", 405, "method_not_allowed", id="an unknown method"),
        pytest.param(
            b"GET /api/v1/services?cursor=%ff HTTP/1.1\r\n@\r\n", 404, "not_found", id="bytes that are no text"
        ),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_with_it(
    fleet: Fleet, request_bytes: bytes, status: int, failure: str
) -> None:
    answered, headers, body = ask(fleet, request_bytes)
    if headers.get("transfer-encoding") == "chunked":
        body = body.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    assert answered == status, body
    assert headers["content-type"] == "application/problem+json"
    document = json.loads(body)
    assert (document["status"], document["failure"]) == (status, failure) and document["detail"]


def test_a_body_in_chunks_is_read_like_any_other(fleet: Fleet) -> None:
    body = b'{"name": "Not A Name"}'
    status, _, answer = ask(fleet, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, size=5))
    assert status == 400 and b'"name"' in answer and b"required" not in answer
