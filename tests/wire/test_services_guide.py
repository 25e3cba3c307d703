"""The service of docs/services.md, as it stands there: it takes an order, tells of it, and hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.events import keys
from tests.redis_server import RedisServer
from tests.unit.services.processes import ROOT, Home, Process
from tests.waiting import until


def blocks(page: str) -> list[str]:
    """The Python of a page, in order."""
    return [part.partition("```")[0] for part in page.split("```python\n")[1:]]


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    main, app, *_ = blocks((ROOT / "docs" / "services.md").read_text())
    folder = tmp_path / "orders"
    folder.mkdir()
    # Beside the checkout, not in it.
    for name, source in (("__init__", ""), ("__main__", main), ("app", app)):
        (folder / f"{name}.py").write_text(source.replace("services.orders", "orders"))
    with RedisServer(tmp_path / "redis") as bus:
        home = Home(tmp_path / "home", bus.url)
        monkeypatch.setenv("MC_HOME", str(home.folder))
        assert keys.main(["orders"]) == 0
        process = Process(home, "orders", module="orders", PYTHONPATH=str(tmp_path))
        yield process.start()
        assert process.stop() == 0, process.said()


def test_the_guides_service_takes_an_order_tells_of_it_and_hears_of_it(orders: Process) -> None:
    placed = orders.post("/v1/orders", {"item": "lamp"})
    assert placed.status_code == 201 and placed.json()["state"] == "placed"
    where = f"/v1/orders/{placed.json()['id']}"
    until(lambda: orders.get(where).json()["state"] == "packed", 20, what="the order is packed")
    assert orders.get("/health").json()["checks"] == dict.fromkeys(("database", "outbox", "bus", "events"), "ok")
    assert orders.get("/v1/orders/none").json()["failure"] == "no_such_order"
    assert orders.post("/v1/orders", {}).status_code == 422
    assert orders.get(where, fleet=False).status_code == 401
