"""Who asks, and over what: the peer's own address, unless the peer is a proxy that may speak for others.

Pure, on ASGI scopes: it runs before Django, so that throttles, the audit trail, redirects and
WebSockets all see one truth, and no forwarding field is left for anybody to believe.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = Sequence[tuple[bytes, bytes]]

SPOKEN_FOR = (b"x-forwarded-", b"forwarded", b"x-real-ip")
PLAIN = {"http": "http", "websocket": "ws"}
"""What a server leaves out of a scope is plain; Daphne says nothing of a WebSocket's."""
SECURE = {"http": "https", "ws": "wss"}


def networks(words: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and blocks such as ``10.0.0.0/8``; ValueError names the one that is neither."""
    return tuple(ipaddress.ip_network(word) for word in words)


def believed(scope: dict[str, Any], trusted: tuple[Network, ...]) -> dict[str, Any]:
    """``scope`` with the client that is believed and without forwarding fields.

    From a trusted peer the client is the right-most hop of ``X-Forwarded-For`` that is not itself
    trusted: what stands left of it was written by whoever that is. ``X-Forwarded-Proto`` counts by its
    last word, the one that the peer wrote.
    """
    headers: Headers = scope["headers"]
    kept = [(name, value) for name, value in headers if not name.startswith(SPOKEN_FOR)]
    scheme = scope.get("scheme") or PLAIN[scope["type"]]
    changed = scope | {"headers": kept, "scheme": scheme}
    peer = _address(scope["client"][0]) if scope.get("client") else None
    if peer is None or not _among(peer, trusted):
        return changed
    client = peer
    for hop in reversed(_words(headers, b"x-forwarded-for")):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not _among(address, trusted):
            break
    changed["client"] = [str(client), scope["client"][1] if client is peer else 0]
    if [word.lower() for word in _words(headers, b"x-forwarded-proto")[-1:]] == ["https"]:
        changed["scheme"] = SECURE.get(scheme, scheme)
    return changed


def _words(headers: Headers, name: bytes) -> list[str]:
    whole = b",".join(value for field, value in headers if field == name)
    return [word.strip() for word in whole.decode("latin-1").split(",") if word.strip()]


def _among(address: ipaddress.IPv4Address | ipaddress.IPv6Address, trusted: tuple[Network, ...]) -> bool:
    return any(address in network for network in trusted)


def _address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``; None for anything else."""
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        found = ipaddress.ip_address(word)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
