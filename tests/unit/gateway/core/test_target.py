from __future__ import annotations

import pytest

from apps.gateway.core.headers import RequestHead
from apps.gateway.core.target import Hosts, read_target
from services.kit.problem import Refused


def read(target: bytes, host: bytes = b"h", method: bytes = b"GET", *, old: bool = False) -> RequestHead:
    head = RequestHead()
    head.host = host
    head.method, head.target, head.old = method, target, old
    read_target(head)
    return head


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        (b"/a?b", b"h", b"/a", b"?b"),
        (b"http://x/a", b"x", b"/a", b""),
        (b"HTTPS://x:1?q", b"x:1", b"/", b"?q"),
        (b"http://x", b"x", b"/", b""),
    ],
)
def test_targets_split(target: bytes, host: bytes, path: bytes, query: bytes) -> None:
    head = read(target)
    assert (head.path, head.query, head.host) == (path, query, host)


def test_hosts_lose_port_case_and_trailing_dot() -> None:
    hosts = Hosts()
    assert hosts[b"Example.ORG.:8080"] == "example.org"
    assert hosts[b"[::1]:80"] == "[::1]"
    assert hosts[b"caf%C3%A9"] == "caf%c3%a9"


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a,b/",
        b"a:b",
        b"a:80:80",
        b"user@a",
        b"a/b",
        b"[::1",
        b"[1:2]",
        b"a:99999",
        b"\xc3\xa9",
        b"%zz",
        b":80",
    ],
)
def test_a_host_that_is_none_is_400_wherever_it_stands(host: bytes) -> None:
    """RFC 9112 section 3.2 and RFC 9110 sections 4.2.1 and 4.2.4."""
    for target, field in ((b"/", host), (b"http://" + host.replace(b"/", b"@") + b"/", b"h"), (b"http://h/", host)):
        with pytest.raises(Refused) as refused:
            read(target, field)
        assert refused.value.problem.status == 400


def test_hosts_are_learnt_up_to_a_bound() -> None:
    hosts = Hosts()
    for number in range(5000):
        assert hosts[b"h%d" % number] == f"h{number}"
    assert len(hosts) <= 1024


def test_the_server_as_a_whole_is_for_options_alone() -> None:
    """RFC 9112 section 3.2.4."""
    assert read(b"*", method=b"OPTIONS").path == b"*"
    with pytest.raises(Refused):
        read(b"*")


def test_http_1_0_may_leave_the_host_out() -> None:
    assert read(b"/", b"", old=True).host == b""
    with pytest.raises(Refused):
        read(b"/", b"")
