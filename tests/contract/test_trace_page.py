"""A trace's page over a real ClickHouse: its status is the whole trace's, whatever part of it is drawn."""

from __future__ import annotations

import re

import pytest
from clickhouse_connect.driver.client import Client as ClickHouse
from django.contrib.auth.models import Group, User
from django.test import Client

from apps.lib.roles import VIEWER
from tests.contract.test_telemetry_queries import clickhouse, large_trace
from tests.unit.dashboard.conftest import plain_static

__all__ = ["clickhouse", "plain_static"]


@pytest.fixture
def browser(db: None, client: Client) -> Client:
    user = User.objects.create_user("viewer")
    user.groups.add(Group.objects.get_or_create(name=VIEWER)[0])
    client.force_login(user)
    return client


def words(browser: Client, address: str) -> str:
    answer = browser.get(address)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())


def test_an_error_beyond_what_is_drawn_is_in_the_status_and_in_the_picture(
    clickhouse: ClickHouse, browser: Client
) -> None:
    text = words(browser, f"/traces/{large_trace(clickhouse)}/")
    assert "1 failed" in text and " OK " not in text
    assert "Showing 2,000 of 5,000 spans: all that failed and the slowest" in text
    assert "op 4321" in text and "op 3333" in text


def test_a_large_trace_is_paged_through_by_time(clickhouse: ClickHouse, browser: Client) -> None:
    address = f"/traces/{large_trace(clickhouse)}/"
    first = browser.get(f"{address}?from=1").content.decode()
    assert first.count('class="span ') == 2000
    assert 'href="?from=2001" rel="next"' in first and 'rel="prev"' not in first
    last = words(browser, f"{address}?from=4001")
    assert "Showing spans 4,001 to 5,000 of 5,000" in last and "1 of 1 failures here" in last
    assert "1 failed" in last
    middle = words(browser, f"{address}?from=2001")
    assert "0 of 1 failures here" in middle and "1 failed" in middle


def test_more_failures_than_can_be_drawn_are_counted(clickhouse: ClickHouse, browser: Client) -> None:
    text = words(browser, f"/traces/{large_trace(clickhouse, spans=2500, failed=tuple(range(1, 2300)))}/")
    assert "2,299 failed" in text
    assert "1,999 of 2,299 that failed" in text


@pytest.mark.parametrize("given", ["0", "-5", "abc", "99999", "1e3", "9" * 30, "٣"])
def test_an_odd_window_shows_the_telling_spans(clickhouse: ClickHouse, browser: Client, given: str) -> None:
    trace_id = large_trace(clickhouse, spans=2100)
    assert "Showing 2,000 of 2,100" in words(browser, f"/traces/{trace_id}/?from={given}")


def test_a_small_trace_is_drawn_whole_and_says_nothing_of_windows(clickhouse: ClickHouse, browser: Client) -> None:
    text = words(browser, f"/traces/{large_trace(clickhouse, spans=3, failed=())}/")
    assert " OK " in text and "Showing" not in text
