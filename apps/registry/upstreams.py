"""What an upstream address may look like. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


class UpstreamError(ValueError):
    """The text is not an upstream address; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to connect."""

    scheme: str
    host: str
    port: int


def parse_upstream(value: str) -> Upstream:
    """Read ``http(s)://host[:port]``; UpstreamError for anything more or less (RFC 3986 section 3.2)."""
    if any(character <= " " or character == "\x7f" for character in value):
        raise UpstreamError("The address holds a space or a control character.")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise UpstreamError(f"The address can't be read: {error}.") from None
    if parts.scheme not in {"http", "https"}:
        raise UpstreamError("The address must start with http:// or https://.")
    if not parts.hostname:
        raise UpstreamError("The address names no host.")
    if parts.username is not None or parts.password is not None:
        raise UpstreamError("The address may not carry a user or password.")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise UpstreamError("The address ends at the port: no path, query or fragment.")
    if port == 0:
        raise UpstreamError("Port 0 is not an address.")
    return Upstream(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))
