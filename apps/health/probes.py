"""One probe: GET the check's path of an instance and say what came of it.

Owns the HTTP of probing: bounded time, bounded body, no redirects, no cookies, no proxies from the
environment, a fresh connection each time (a process that no longer accepts must not look healthy
through an old one), and only to addresses that may be called (apps.lib.addresses). Knows nothing of
thresholds, rows or Redis.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from dataclasses import dataclass

import aiohttp
import msgspec

from apps.lib import clock
from apps.lib.addresses import AddressRefused, Guard

MAX_BODY = 64 * 1024
MAX_REASON = 200
BODY_FOR_REASON = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask. ``url`` is complete; statuses from ``low`` to ``high`` pass."""

    url: str
    timeout_s: float
    low: int = 200
    high: int = 299


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one probe. ``at`` is the wall-clock second it ended; no latency without an answer."""

    passed: bool
    at: float
    latency_ms: float | None
    detail: str


def session(version: str, guard: Guard) -> aiohttp.ClientSession:
    """A client for probes, to where ``guard`` lets it; whoever asks closes it. The caller bounds concurrency."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, force_close=True, enable_cleanup_closed=False, socket_factory=guard.open_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"mission-control-health/{version}", "Accept": "application/json, */*;q=0.1"},
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Accept-Encoding",),
    )


async def probe(http: aiohttp.ClientSession, request: Request) -> Finding:
    """Ask once. Whatever an instance does is a finding, never an exception."""
    start = clock.monotonic()
    try:
        async with (
            asyncio.timeout(request.timeout_s),
            http.get(request.url, allow_redirects=False) as response,
        ):
            body = await _read(response)
            latency = (clock.monotonic() - start) * 1000
            passed = request.low <= response.status <= request.high
            detail = f"answered {response.status}"
            if not passed:
                detail += _why(body, response)
            return Finding(passed, clock.wall(), round(latency, 2), detail)
    except TimeoutError:
        reason = f"no answer in {request.timeout_s:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # ValueError: a URL that aiohttp can't use, or bytes that are no HTTP at all.
        reason = explain(error)
    return Finding(False, clock.wall(), None, reason)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or its first 64 KB: an endless answer must cost no more than that."""
    chunks: list[bytes] = []
    size = 0
    while size < MAX_BODY:
        chunk = await response.content.readany()
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _why(body: bytes, response: aiohttp.ClientResponse) -> str:
    """What the instance itself says is wrong: a problem document's detail, else the first line of text."""
    if 300 <= response.status < 400:
        return f": a redirect to {_line(response.headers.get('Location', 'nowhere'))}, which is not followed"
    kind = response.content_type
    text = ""
    if kind.endswith("json"):
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            document = None
        if isinstance(document, dict):
            words = [document.get(name) for name in ("detail", "error", "reason", "message", "title", "status")]
            text = next((word for word in words if isinstance(word, str) and word), "")
    elif kind == "text/plain":
        text = body[:BODY_FOR_REASON].decode(errors="replace")
    text = _line(text)
    return f": {text}" if text else ""


def _line(text: str) -> str:
    first = text.strip().partition("\n")[0]
    clean = "".join(character for character in first if character.isprintable())
    return clean[:MAX_REASON]


def explain(error: Exception) -> str:
    """A failure of the connection as a short clause for people."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name was not found"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return "the TLS certificate was not accepted"
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return "TLS could not be set up"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError):
        return "did not answer in HTTP"
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return str(error.os_error.strerror)
    number = getattr(error, "errno", None)
    if number is None and isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
    known = {
        errno.ECONNREFUSED: "connection refused",
        errno.ECONNRESET: "connection reset",
        errno.EPIPE: "connection reset",
        errno.EHOSTUNREACH: "host unreachable",
        errno.ENETUNREACH: "network unreachable",
        errno.ETIMEDOUT: "connecting timed out",
        errno.EMFILE: "the monitor ran out of file descriptors",
    }
    if number in known:
        return known[number]
    return _line(f"could not be asked: {error}" if str(error) else f"could not be asked: {type(error).__name__}")
