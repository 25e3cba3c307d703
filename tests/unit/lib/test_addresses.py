"""Whom our processes may call: every form of an address that must not be, whoever spells it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.lib.addresses import Guard, Policy, is_here, literal, networks, refusal

CLOSED = 8123
POLICY = Policy(closed=frozenset({CLOSED}), fleet=frozenset({7101}))
GONE = ("169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")


def nowhere(address: str) -> bool:
    return False


def forms(address: IPv4Address) -> list[str]:
    """Every IPv6 address that ends at ``address``."""
    number = int(address)
    return [
        str(IPv6Address(number | base))
        for base in (
            int(IPv6Address("::ffff:0:0")),
            int(IPv6Address("64:ff9b::")),
            int(IPv6Address("64:ff9b:1::")),
            int(IPv6Address("fd00::5efe:0:0")),
            int(IPv6Address("2001:db8::200:5efe:0:0")),
        )
    ] + [
        str(IPv6Address(int(IPv6Address("2002::")) | number << 80)),
        str(IPv6Address(int(IPv6Address("2001::")) | (number ^ 0xFFFF_FFFF))),
        str(IPv6Address(int(IPv6Address("2001::")) | number << 64)),
    ]


@given(st.sampled_from(GONE).flatmap(lambda block: st.ip_addresses(v=4, network=block)), st.integers(1, 65535))
def test_what_is_no_host_is_refused_in_every_form(address: IPv4Address, port: int) -> None:
    for form in (str(address), *forms(address)):
        assert refusal(form, port, POLICY, nowhere), form


@given(st.ip_addresses(v=4, network="127.0.0.0/8"))
def test_our_own_ports_are_closed_on_loopback_in_every_form(address: IPv4Address) -> None:
    for form in (str(address), "::1", *forms(address)):
        assert refusal(form, CLOSED, POLICY, nowhere), form
    assert refusal(str(address), CLOSED + 1, POLICY, nowhere) is None


@given(st.one_of(st.ip_addresses(v=6, network="fe80::/10"), st.ip_addresses(v=6, network="ff00::/8")))
def test_link_local_and_multicast_are_refused_with_any_zone(address: IPv6Address) -> None:
    assert refusal(str(address), 80, POLICY, nowhere)
    assert refusal(f"{address}%eth0", 80, POLICY, nowhere)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "FD00:EC2:0::254"],
)
def test_what_hands_out_a_machines_credentials_is_refused(address: str) -> None:
    assert refusal(address, 80, POLICY, nowhere) == "it hands out a machine's credentials"


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "1.2.3.4.5", "10.0.0.1\n", "[::1]", "0x7f.1"])
def test_what_no_resolver_answers_is_refused(address: str) -> None:
    assert refusal(address, 80, POLICY, nowhere) == "it is no IP address"


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.4", "172.16.0.1", "93.184.216.34", "fd12::1", "2606:4700::1", "127.0.0.1", "::1"]
)
def test_services_live_on_private_and_public_addresses_and_on_loopback(address: str) -> None:
    assert refusal(address, 9000, POLICY, nowhere) is None


def test_our_ports_are_closed_on_every_address_of_this_machine() -> None:
    assert refusal("192.168.1.4", CLOSED, POLICY, lambda address: address == "192.168.1.4")
    assert refusal("192.168.1.5", CLOSED, POLICY, lambda address: address == "192.168.1.4") is None


def test_an_engine_elsewhere_is_closed_too() -> None:
    policy = Policy(engines=frozenset({("10.0.0.9", 5432)}))
    assert refusal("10.0.0.9", 5432, policy, nowhere)
    assert refusal("::ffff:10.0.0.9", 5432, policy, nowhere)
    assert refusal("10.0.0.9", 80, policy, nowhere) is None


def test_loopback_closes_but_for_the_fleet() -> None:
    policy = Policy(fleet=frozenset({7101}), loopback=False)
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert refusal(address, 9000, policy, nowhere)
        assert refusal(address, 7101, policy, nowhere) is None


def test_lists_narrow_what_may_be_called() -> None:
    policy = Policy(allow=networks(["10.0.0.0/8", "fd00::/8"]), deny=(ip_network("10.9.0.0/16"),))
    assert refusal("10.1.1.1", 80, policy, nowhere) is None
    assert refusal("::ffff:10.1.1.1", 80, policy, nowhere) is None
    assert refusal("10.9.1.1", 80, policy, nowhere) == "MC_UPSTREAM_DENY names it"
    assert refusal("::ffff:10.9.1.1", 80, policy, nowhere) == "MC_UPSTREAM_DENY names it"
    assert refusal("93.184.216.34", 80, policy, nowhere) == "MC_UPSTREAM_ALLOW does not name it"
    assert refusal("127.0.0.1", 80, policy, nowhere) is None


def test_no_list_opens_what_is_never_called() -> None:
    policy = Policy(allow=networks(["0.0.0.0/0", "::/0"]))
    for address in ("169.254.169.254", "0.0.0.0", "::", "fe80::1"):  # noqa: S104
        assert refusal(address, 80, policy, nowhere)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0xa9fea9fe", "169.254.169.254"),
        ("localhost", "127.0.0.1"),
        ("LocalHost.", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("mint.example.org", None),
        ("10.0.0.7.example.org", None),
    ],
)
def test_an_address_is_seen_through_its_spelling(host: str, address: str | None) -> None:
    assert literal(host) == address


def test_what_is_typed_in_is_judged_as_far_as_it_can_be() -> None:
    guard = Guard(POLICY)
    assert guard.early("0xa9fea9fe", 80) == "it hands out a machine's credentials"
    assert guard.early("localhost", CLOSED)
    assert guard.early("localhost", 9000) is None
    assert guard.early("internal.example.org", CLOSED) is None, "a name is judged when it is resolved"


def test_this_machine_knows_its_own_addresses() -> None:
    assert is_here("127.0.0.1") and is_here("127.9.9.9")
    assert not is_here("192.0.2.1"), "TEST-NET is nobody's"
    assert not is_here("not an address")
