from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.gateway.core import config
from apps.gateway.core.config import Route
from apps.gateway.core.routing import Miss, Routes, Way, yields_to


def routes(*given: Route) -> Routes:
    return Routes(config.Document(1, 0.0, routes=given))


def name(found: Way | Miss) -> str:
    return found.route.name if isinstance(found, Way) else ",".join(found.allow) or "none"


def test_the_longest_path_wins_and_prefixes_end_at_segments() -> None:
    table = routes(Route("root", "s", "/"), Route("a", "s", "/a"), Route("ab", "s", "/a/b"))
    for path, expected in (
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/b", "ab"),
        ("/a/b/c", "ab"),
        ("/a/bc", "a"),
        ("/ab", "root"),
    ):
        assert name(table.match("", "GET", path)) == expected, path


def test_no_route_is_told_from_a_wrong_method() -> None:
    table = routes(Route("read", "s", "/a", methods=("GET", "HEAD")), Route("write", "s", "/a/b", methods=("PUT",)))
    assert name(table.match("", "DELETE", "/a/b")) == "GET,HEAD,PUT"
    assert name(table.match("", "GET", "/a/b")) == "read"  # a shorter path that takes the method serves it
    assert name(table.match("", "GET", "/b")) == "none"


def test_an_exact_path_beats_a_prefix_of_the_same_length_and_matches_nothing_longer() -> None:
    table = routes(Route("prefix", "s", "/a"), Route("exact", "s", "/a", match="exact"))
    assert name(table.match("", "GET", "/a")) == "exact"
    assert name(table.match("", "GET", "/a/b")) == "prefix"


def test_path_comes_before_host_and_an_exact_host_before_a_wildcard() -> None:
    table = routes(
        Route("any", "s", "/a"),
        Route("wild", "s", "/a", hosts=("*.example.org",)),
        Route("deep", "s", "/a", hosts=("*.b.example.org",)),
        Route("exact", "s", "/a", hosts=("x.b.example.org",)),
        Route("long", "s", "/a/long"),
    )
    for host, expected in (
        ("x.b.example.org", "exact"),
        ("y.b.example.org", "deep"),
        ("y.example.org", "wild"),
        ("example.org", "any"),
        ("", "any"),
    ):
        assert name(table.match(host, "GET", "/a")) == expected, host
    assert name(table.match("x.b.example.org", "GET", "/a/long")) == "long"
    assert table.by_host and not routes(Route("any", "s", "/a")).by_host


def test_a_host_without_a_route_is_no_route() -> None:
    assert name(routes(Route("a", "s", "/", hosts=("a.org",))).match("b.org", "GET", "/")) == "none"


def test_the_prefix_is_cut_off_when_the_route_says_so() -> None:
    assert Way(Route("a", "s", "/a")).forward("/a/b") == "/b"
    assert Way(Route("a", "s", "/a")).forward("/a") == "/"
    assert Way(Route("a", "s", "/a/")).forward("/a/b") == "/b"
    assert Way(Route("a", "s", "/")).forward("/a/b") == "/a/b"
    assert Way(Route("a", "s", "/a", strip_prefix=False)).forward("/a/b") == "/a/b"
    assert Way(Route("a", "s", "/a", match="exact")).forward("/a") == "/a"


def test_a_path_that_others_take_for_another_routes_is_disputed_only_where_routes_nest() -> None:
    outer, inner, leaf = (
        Route("outer", "s", "/a"),
        Route("inner", "s", "/a/In/@x"),
        Route("l", "s", "/b", match="exact"),
    )
    table = routes(outer, inner, leaf, Route("b", "s", "/B/c"), Route("B", "s", "/B"))

    def disputed(path: str) -> bool:
        way = table.match("", "GET", path)
        assert isinstance(way, Way)
        return table.disputed("", "GET", path, way)

    assert table.nested
    for path in ("/a/in/@x", "/a/IN/@X/y", "/a/In/%40x", "/a/In;p/@x", "/a/In/@x;p", "/B/C"):
        assert disputed(path), path
    for path in ("/a", "/a/In", "/a/In/@x", "/a/In/@xy", "/a/Z;p/%20", "/b", "/B", "/B/c/D"):
        assert not disputed(path), path
    assert not routes(outer, Route("c", "s", "/c")).nested
    assert routes(outer, Route("A", "s", "/A/x")).nested


def test_a_route_that_is_off_closes_its_place_instead_of_leaving_it_to_a_wider_one() -> None:
    table = routes(
        Route("open", "s", "/open", auth=()),
        Route("admin", "s", "/open/admin", enabled=False),
        Route("read", "s", "/open/books", methods=("GET",), enabled=False),
        Route("next", "s", "/open/books", methods=("GET", "PUT")),
        Route("later", "s", "/open", enabled=False),
        Route("gone", "s", "/gone", methods=("GET",), enabled=False),
        Route("put", "s", "/gone", methods=("PUT",)),
        Route("old", "s", "/moved", methods=("GET",), enabled=False),
        Route("new", "s", "/moved"),
    )
    for method, path, expected in (
        ("GET", "/open/admin", "none"),
        ("POST", "/open/admin/x", "none"),
        ("GET", "/open/books", "next"),
        ("POST", "/open/books", "open"),
        ("GET", "/open/x", "open"),
        ("GET", "/gone", "none"),
        ("POST", "/gone", "PUT"),
        ("GET", "/moved", "new"),
    ):
        assert name(table.match("", method, path)) == expected, (method, path)
    way = table.match("", "GET", "/open/ADMIN")
    assert isinstance(way, Way) and table.disputed("", "GET", "/open/ADMIN", way)
    assert table.disputed("", "GET", "/open/admin;x", way)


def test_a_thousand_routes_cost_what_ten_do() -> None:
    def cost(count: int) -> float:
        table = routes(*(Route(f"r{n}", "s", f"/team{n}/service/v1") for n in range(count)))
        best = float("inf")
        for _ in range(7):
            started = time.perf_counter()
            for _ in range(2000):
                table.match("", "GET", "/team7/service/v1/things/42")
            best = min(best, time.perf_counter() - started)
        return best

    assert cost(1000) < 3 * cost(10)


@pytest.mark.parametrize(
    ("one", "other", "yields"),
    [
        ({}, {"match": "exact"}, True),
        ({"match": "exact"}, {}, False),
        ({}, {"hosts": ("a.org",)}, True),
        ({"hosts": ("a.org",)}, {}, False),
        ({"hosts": ("*.a.org",)}, {"hosts": ("x.a.org",)}, True),
        ({"hosts": ("*.a.org",)}, {"hosts": ("*.x.a.org",)}, True),
        ({"hosts": ("*.x.a.org",)}, {"hosts": ("*.a.org",)}, False),
        ({"hosts": ("a.org",)}, {"hosts": ("b.org",)}, False),
        ({"hosts": ("a.org",)}, {"hosts": ("b.org",), "match": "exact"}, False),
        ({"hosts": ("x.a.org",)}, {"hosts": ("*.a.org",), "match": "exact"}, True),
        ({"methods": ("GET",)}, {"hosts": ("a.org",), "methods": ("PUT",)}, False),
        ({"methods": ("GET",)}, {"hosts": ("a.org",)}, True),
        ({}, {"path": "/a/b", "match": "exact"}, False),
    ],
)
def test_a_route_yields_to_one_that_is_more_exact_on_its_path(
    one: dict[str, Any], other: dict[str, Any], yields: bool
) -> None:
    mine, theirs = (Route(name, "s", **({"path": "/a"} | fields)) for name, fields in (("one", one), ("other", other)))
    assert yields_to(mine, theirs) is yields


@given(st.data())
def test_whom_a_route_yields_to_is_whom_the_table_asks_first(data: st.DataObject) -> None:
    hosts = st.lists(st.sampled_from(["a.org", "*.a.org", "x.a.org", "*.x.a.org"]), unique=True, max_size=2)
    methods = st.sampled_from([(), ("GET",), ("PUT",)])
    made = [
        Route(name, "s", "/a", match=data.draw(st.sampled_from(["exact", "prefix"])), hosts=tuple(data.draw(hosts)),
              methods=data.draw(methods))
        for name in ("one", "other")
    ]  # fmt: skip
    document = config.Document(1, 0.0, services=(config.Service("s"),), routes=tuple(made))
    try:
        config.check(document)
    except config.ConfigError:
        return
    both, (one, other) = Routes(document), made
    asked = [(host, method) for host in ("a.org", "x.a.org", "y.x.a.org", "b.org") for method in ("GET", "PUT")]
    mine = [each for each in asked if isinstance(routes(one).match(*each, "/a"), Way)]
    lost = [each for each in mine if name(both.match(*each, "/a")) == "other"]
    assert bool(lost) == yields_to(one, other)
