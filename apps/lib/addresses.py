"""Whom our processes may connect to when somebody else names the address: instances, health checks, key sets.

One rule for all of them, asked with the *resolved* address at the moment of connecting: what a name pointed at
a second ago proves nothing (DNS rebinding), and the many spellings of an address have only one result. Pure, but
for ``is_here``, which asks the kernel whether an address is this machine's.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA = frozenset(
    ip_address(text)
    for text in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
"""Where clouds hand a machine its credentials: AWS, Azure, GCP and most others; Alibaba; Azure's host; Oracle."""

NEVER: tuple[tuple[str, tuple[Network, ...]], ...] = (
    ("link-local addresses are never called", (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))),
    ("it names no host", (ip_network("0.0.0.0/8"), ip_network("::/128"))),
    ("multicast addresses are never called", (ip_network("224.0.0.0/4"), ip_network("ff00::/8"))),
    ("reserved and broadcast addresses are never called", (ip_network("240.0.0.0/4"),)),
)
"""RFC 6890's addresses that no service has."""

TRANSLATED = tuple(ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48"))
"""NAT64 (RFC 6052, RFC 8215): the last 32 bits are an IPv4 address."""
COMPATIBLE = ip_network("::/96")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""RFC 5214: bits 64 to 95 of an address whose last 32 are IPv4."""


class AddressRefused(OSError):
    """A connection was not attempted: the address is one that must not be called."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EACCES, f"the address is not allowed: {reason}")


@dataclass(frozen=True, slots=True)
class Policy:
    """What this installation allows. Private networks are open by default: services live there."""

    closed: frozenset[int] = frozenset()
    """Ports of control, the gateway, the collector and the engines: refused on this machine's own addresses."""
    fleet: frozenset[int] = frozenset()
    """Ports of the reference services: allowed on loopback, whatever ``loopback`` says."""
    engines: frozenset[tuple[str, int]] = frozenset()
    """Engines on other machines, address and port."""
    loopback: bool = True
    """Other ports of loopback may be called: where a newcomer's first service is."""
    allow: tuple[Network, ...] = ()
    """When there are any, nothing outside of these is called (loopback has its own switch)."""
    deny: tuple[Network, ...] = ()


def is_here(address: str) -> bool:
    """Whether ``address`` is one of this machine's own: only those can be bound."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def refusal(address: str, port: int, policy: Policy, here: Callable[[str], bool] = is_here) -> str | None:
    """Why ``address``, as resolved, must not be called on ``port``, as the end of a sentence; None when it may be."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return "it is no IP address"
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped  # the kernel itself calls the IPv4 address
    for one in (found, *embedded(found)):
        reason = _never(one, policy) or _ours(one, port, policy, here)
        if reason is not None:
            return reason
    if policy.allow and not found.is_loopback and not _within(found, policy.allow):
        return "MC_UPSTREAM_ALLOW does not name it"
    return None


def _never(address: Address, policy: Policy) -> str | None:
    if address in METADATA:
        return "it hands out a machine's credentials"
    for reason, blocks in NEVER:
        if _within(address, blocks):
            return reason
    return "MC_UPSTREAM_DENY names it" if _within(address, policy.deny) else None


def _ours(address: Address, port: int, policy: Policy, here: Callable[[str], bool]) -> str | None:
    if (str(address), port) in policy.engines:
        return "an engine of Mission Control is there"
    if port in policy.closed and (address.is_loopback or here(str(address))):
        return f"port {port} of this machine is Mission Control's own"
    if address.is_loopback and not policy.loopback and port not in policy.fleet:
        return "loopback is closed to upstreams while MC_HOST lets others in; MC_LOOPBACK_UPSTREAMS opens it"
    return None


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def embedded(address: Address) -> list[Address]:
    """The IPv4 addresses that an IPv6 one stands for: a router, or the kernel, takes the packets there."""
    if isinstance(address, IPv4Address):
        return []
    last = IPv4Address(int(address) & 0xFFFF_FFFF)
    found: list[Address] = [] if address.sixtofour is None else [address.sixtofour]
    if address.teredo is not None:
        found += address.teredo
    if _within(address, TRANSLATED) or int(address) >> 32 & 0xFFFF_FFFF in ISATAP:
        found.append(last)
    if address in COMPATIBLE and int(address) > 1:
        found.append(last)
    return found


def literal(host: str) -> str | None:
    """The address that ``host`` is a spelling of, without asking any resolver; None when it is a name.

    Resolvers read ``127.1``, ``0x7f.1`` and ``2130706433`` as addresses (inet_aton), so these count as ones.
    """
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Guard:
    """The rule with one installation's policy, as processes hand it to what connects."""

    policy: Policy
    here: Callable[[str], bool] = field(default=is_here, repr=False)

    def __call__(self, address: str, port: int) -> bool:
        """Whether the resolved ``address`` may be called on ``port``."""
        return self.refusal(address, port) is None

    def refusal(self, address: str, port: int) -> str | None:
        """Why it may not."""
        return refusal(address, port, self.policy, self.here)

    def early(self, host: str, port: int) -> str | None:
        """Why ``host`` could never be called, for whoever types it in; None for a name, which is asked about later."""
        address = literal(host)
        return None if address is None else self.refusal(address, port)

    def open_socket(self, info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        """aiohttp's ``socket_factory``: a socket toward a resolved address; AddressRefused when it is closed."""
        family, kind, protocol, _, peer = info
        reason = self.refusal(str(peer[0]), int(str(peer[1])))
        if reason is not None:
            raise AddressRefused(reason)
        return socket.socket(family, kind, protocol)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read addresses and CIDR blocks; ValueError for anything else."""
    return tuple(ip_network(text) for text in texts)
