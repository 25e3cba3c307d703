"""An export that comes again is known again: joined while under way, answered when stored, completed when half."""

from __future__ import annotations

import asyncio
from typing import Any

from apps.telemetry.collector.exports import Export, Exports, digest


def settle(*outcomes: asyncio.Future[None], error: Exception | None = None) -> None:
    for outcome in outcomes:
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)


def begin(exports: Exports, export: Export, *tables: str) -> dict[str, asyncio.Future[Any]]:
    outcomes = {table: asyncio.get_running_loop().create_future() for table in tables}
    export.tables = frozenset({*tables, *export.stored})
    exports.follow(export, outcomes)
    return outcomes


async def test_a_stored_export_is_remembered() -> None:
    exports = Exports()
    export = exports.open(b"k", 0.0)
    settle(*begin(exports, export, "t").values())
    await asyncio.sleep(0)
    again = exports.open(b"k", 100.0)
    assert again is export and again.complete and exports.repeated == 1


async def test_one_of_which_nothing_was_stored_is_new_when_it_comes_again() -> None:
    exports = Exports()
    export = exports.open(b"k", 0.0)
    settle(*begin(exports, export, "t").values(), error=ValueError("gone"))
    await asyncio.sleep(0)
    assert exports.open(b"k", 1.0) is not export


async def test_one_that_is_half_stored_says_which_half() -> None:
    exports = Exports()
    export = exports.open(b"k", 0.0)
    outcomes = begin(exports, export, "sum", "gauge")
    settle(outcomes["sum"])
    settle(outcomes["gauge"], error=ValueError("gone"))
    await asyncio.sleep(0)
    again = exports.open(b"k", 1.0)
    assert again is export and again.stored == {"sum"} and not again.complete
    settle(*begin(exports, again, "gauge").values())
    await asyncio.sleep(0)
    assert again.complete


async def test_memory_is_bounded_in_number_and_time_and_what_is_under_way_is_kept() -> None:
    exports = Exports(most=10, seconds=60)
    under_way = exports.open(b"under way", 0.0)
    begin(exports, under_way, "t")
    for number in range(100):
        settle(*begin(exports, exports.open(b"%d" % number, 1.0), "t").values())
        await asyncio.sleep(0)
    assert len(exports) <= 10 and exports.forgotten >= 90
    assert exports.open(b"under way", 2.0) is under_way
    exports.open(b"much later", 500.0)
    assert len(exports) == 2


async def test_a_flood_of_what_is_under_way_ends() -> None:
    exports = Exports(most=3, seconds=60)
    for number in range(20):
        begin(exports, exports.open(b"%d" % number, 0.0), "t")
    assert len(exports) == 20


def test_the_name_of_an_export_is_of_what_it_says() -> None:
    assert digest("traces", b"x") == digest("traces", b"x")
    assert len({digest("traces", b"x"), digest("metrics", b"x"), digest("traces", b"y")}) == 3
