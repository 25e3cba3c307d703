"""One request to a webhook, and what came of it: signed, bounded in time and size, only to where the guard lets it.

Owns the HTTP of deliveries: no redirects, cookies, proxies from the environment or compression; TLS is always verified;
the address that a connection goes to is the one that the guard was asked about (docs/decisions/0012). Whatever an
endpoint does is an outcome, never an exception. Knows nothing of rows.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

import aiohttp

from apps.events.subscriptions import signature, tracing
from apps.events.subscriptions.core import Outcome, Verdict, judged
from apps.events.subscriptions.models import MAX_ANSWER, MAX_ERROR
from apps.lib import clock
from apps.lib.addresses import AddressRefused, Guard
from services.kit.events.cloudevent import CloudEvent, attributes, encode, encode_data

CONNECT_S: Final = 5.0
ANSWER_S: Final = 1.0
"""What is waited for the body of an answer whose status is known."""
STRUCTURED: Final = "application/cloudevents+json; charset=utf-8"
PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What a header of CloudEvents holds as it is (HTTP binding section 3.1.3.2)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events go, and how."""

    url: str
    keys: tuple[bytes, ...]
    """They sign; the newest first."""
    structured: bool = True
    timeout_s: float = 10.0
    name: str = ""
    """The subscription."""


@dataclass(frozen=True, slots=True)
class Permission:
    """What a handshake came to. ``rate``: events a second that are permitted; 0 is any."""

    granted: bool
    outcome: Outcome
    rate: float = 0.0


def session(version: str, guard: Guard, connections: int = 0) -> aiohttp.ClientSession:
    """A client for deliveries; whoever asks closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections, ttl_dns_cache=10, keepalive_timeout=15, socket_factory=guard.open_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"mission-control-webhooks/{version}"},
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        skip_auto_headers=("Accept-Encoding",),
    )


def request(event: CloudEvent, endpoint: Endpoint, now: float, traceparent: str = "") -> tuple[dict[str, str], bytes]:
    """Headers and body of a delivery at wall-clock ``now``, which the endpoint sees as part of ``traceparent``."""
    if endpoint.structured:
        headers, body = {"Content-Type": STRUCTURED}, encode(event)
    else:
        named, body = attributes(event), encode_data(event)
        headers = {"Content-Type": named.pop("datacontenttype")}
        headers |= {f"ce-{name}": quote(value, safe=PLAIN) for name, value in named.items()}
    if traceparent or event.traceparent:
        headers["traceparent"] = traceparent or event.traceparent
    proof = signature.headers(signature.message_id(event.source, event.id), now, body, endpoint.keys)
    return headers | proof, body


async def deliver(http: aiohttp.ClientSession, event: CloudEvent, endpoint: Endpoint) -> Outcome:
    """Send ``event`` once."""
    at = clock.wall()
    span = tracing.delivering(event, endpoint.name, endpoint.url)
    outcome = Outcome(Verdict.AGAIN, "cut", "the delivery was cut off", at)
    try:
        headers, body = request(event, endpoint, at, tracing.traceparent(span))
        outcome, _ = await _ask(http, "POST", endpoint.url, headers, body, endpoint.timeout_s, at)
    finally:
        tracing.ended(span, outcome)
    return outcome


async def permission(http: aiohttp.ClientSession, endpoint: Endpoint, origin: str, rate: float) -> Permission:
    """Ask whether events may be sent there (CloudEvents HTTP webhooks, section 4); ``rate`` in events a second."""
    headers = {"WebHook-Request-Origin": origin}
    if rate:
        headers["WebHook-Request-Rate"] = str(max(round(rate * 60), 1))
    at = clock.wall()
    outcome, given = await _ask(http, "OPTIONS", endpoint.url, headers, b"", endpoint.timeout_s, at)
    if outcome.verdict is not Verdict.TAKEN:
        return Permission(False, outcome)
    allowed = given.get("WebHook-Allowed-Origin", "").strip()
    if allowed not in {"*", origin}:
        said = f"it allows {_line(allowed)}" if allowed else "its answer lacks WebHook-Allowed-Origin"
        error = f"the endpoint gave no permission to {origin}: {said}"
        return Permission(False, _outcome(Verdict.REST, "permission", error, at, status=outcome.status))
    per_minute = given.get("WebHook-Allowed-Rate", "*").strip()
    return Permission(True, outcome, int(per_minute) / 60 if per_minute.isdigit() and len(per_minute) < 10 else 0.0)


async def _ask(
    http: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes, within_s: float, at: float
) -> tuple[Outcome, dict[str, str]]:
    start = clock.monotonic()
    try:
        async with (
            asyncio.timeout(within_s),
            http.request(method, url, headers=headers, data=body or None, allow_redirects=False) as response,
        ):
            answer = await _read(response)
            verdict, reason = judged(response.status)
            error = "" if verdict is Verdict.TAKEN else f"answered {response.status}{_more(response, answer)}"
            took = clock.monotonic() - start
            wait = _seconds(response.headers.get("Retry-After", ""), clock.wall())
            return (
                Outcome(verdict, reason, error[:MAX_ERROR], at, took, response.status, answer, "", wait),
                dict(response.headers),
            )
    except TimeoutError as error:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            found = _outcome(Verdict.REST, "refused", "connecting timed out", at)
        else:
            found = _outcome(Verdict.AGAIN, "timeout", f"no answer in {within_s:g} s", at)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # ValueError: a URL that aiohttp can't use, or bytes that are no HTTP at all.
        found = _outcome(*explain(error), at)
    took = clock.monotonic() - start
    return Outcome(found.verdict, found.reason, found.error, at, took), {}


def _outcome(verdict: Verdict, reason: str, error: str, at: float, status: int | None = None) -> Outcome:
    return Outcome(verdict, reason, error[:MAX_ERROR], at, status=status)


async def _read(response: aiohttp.ClientResponse) -> str:
    """The first bytes of the body. What is longer or slower is cut off, with its connection."""
    kept = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            while len(kept) <= MAX_ANSWER:
                chunk = await response.content.read(MAX_ANSWER + 1 - len(kept))
                if not chunk:
                    break
                kept += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        response.close()  # its status stands
    if len(kept) > MAX_ANSWER:
        response.close()
    text = kept[:MAX_ANSWER].decode(errors="replace")
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


def _more(response: aiohttp.ClientResponse, answer: str) -> str:
    if 300 <= response.status < 400:
        return f": a redirect to {_line(response.headers.get('Location', 'nowhere'))}, which is not followed"
    line = _line(answer)
    return f": {line}" if line else ""


def _line(text: str) -> str:
    return "".join(letter for letter in text.strip().partition("\n")[0] if letter.isprintable())[:200]


def _seconds(text: str, now: float) -> float:
    """A ``Retry-After`` (RFC 9110 section 10.2.3) in seconds; 0 for none, or what can't be read."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return max((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now, 0.0)
    except (ValueError, OverflowError, IndexError, TypeError):
        return 0.0


def explain(error: Exception) -> tuple[Verdict, str, str]:
    """A failure of the connection: whose it is, its class, and a short clause for people."""
    rest, again = Verdict.REST, Verdict.AGAIN
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return rest, "dns", "the host name was not found"
    if isinstance(cause, AddressRefused):
        return rest, "address", str(cause.strerror)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return rest, "tls", "the TLS certificate was not accepted"
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return rest, "tls", "TLS could not be set up"
    if isinstance(error, aiohttp.InvalidURL):
        return rest, "address", "the URL can't be used"
    if isinstance(error, aiohttp.ClientConnectorError):
        return rest, "refused", REFUSED.get(cause.errno or 0, "the connection could not be made")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return again, "reset", "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return again, "reset", "the answer broke off"
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return again, "odd", "did not answer in HTTP"
    return again, "reset", "the connection was reset"


REFUSED: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connecting timed out",
    errno.EMFILE: "we ran out of file descriptors",
}


def sample(at: float) -> CloudEvent:
    """An event that tells of nothing: what a test delivery sends."""
    return CloudEvent(
        id=f"sample-{at:.6f}",
        type="control.sample.sent",
        source="mission-control",
        time=at,
        data={"sample": True, "sent_at": datetime.fromtimestamp(at, UTC).isoformat()},
    )
