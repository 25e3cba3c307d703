"""The small pure parts: words, waterfall and blame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.dashboard import blame, waterfall, words


@dataclass(frozen=True)
class Span:
    """As apps.telemetry.queries.SpanRow."""

    span_id: str
    parent_span_id: str = ""
    service: str = "gateway"
    name: str = "GET /"
    kind: str = "Server"
    started_at: float = 100.0
    duration_ms: float = 10.0
    status: str = "Unset"
    attributes: dict[str, str] = field(default_factory=dict)


# -- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (0.4, "0 s"), (89, "89 s"), (240, "4 min"), (7200, "2 h"), (400_000, "5 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert words.ago(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0.0, "0.0%"), (0.042, "4.2%"), (0.0996, "10%"), (0.384, "38%")]
)
def test_shares(share: float | None, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.04, "0.0"), (1.25, "1.2"), (9.96, "10"), (2010.4, "2,010")]
)
def test_latencies(value: float | None, text: str) -> None:
    assert words.milliseconds(value) == text


def test_a_list_that_is_cut_says_of_how_many() -> None:
    assert words.changes({"recent": [{}], "total": 1}) == "1 change"
    assert words.changes({"recent": [{}] * 40, "total": 312}) == "the newest 40 of 312 changes"
    assert words.changes({"recent": [{}] * 40, "total": 900, "cut": True}) == "the newest 40 of over 900 changes"
    total = words.affected_total({"failed": 2120, "failed_callers": 12})
    assert total == "last 5 minutes: 2,120 requests failed, of 12 callers"


def test_lists_of_names() -> None:
    assert words.and_list([]) == ""
    assert words.and_list(["a"]) == "a"
    assert words.and_list(["a", "b"]) == "a and b"
    assert words.and_list(["a", "b", "c", "d", "e"]) == "a, b and 3 more"


@given(st.lists(st.floats(0, 1e6), max_size=80))
def test_a_spark_stays_in_its_box(rates: list[float]) -> None:
    for point in words.spark(rates).split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= 100
        assert 0 <= y <= 26


@given(st.lists(st.tuples(st.floats(0, 100), st.text(max_size=40)), max_size=30))
def test_labels_do_not_overlap(marks: list[tuple[float, str]]) -> None:
    spans = []
    for x, anchor, title in words.labels(marks):
        width = len(title) * 0.65
        left = x - {"end": width, "middle": width / 2, "start": 0}[anchor]
        spans.append((left, left + width))
    assert all(right <= left for (left, _), (_, right) in itertools.pairwise(spans))
    if marks:
        assert words.labels(marks)[0][0] == max(x for x, _ in marks)


# -- waterfall ----------------------------------------------------------------------------------


def test_spans_stand_in_tree_order_on_one_scale() -> None:
    spans = [
        Span("c", "b", "covenant", started_at=100.006, duration_ms=2),
        Span("a", "", "gateway", started_at=100.0, duration_ms=20),
        Span("b", "a", "nexus", started_at=100.005, duration_ms=10),
        Span("d", "a", "nexus", started_at=100.001, duration_ms=1, status="Error"),
    ]
    drawn = waterfall.draw(spans)
    assert [row.span_id for row in drawn.rows] == ["a", "d", "b", "c"]
    assert [row.indent for row in drawn.rows] == [0, 12, 12, 24]
    assert [service["name"] for service in drawn.services] == ["gateway", "nexus", "covenant"]
    assert drawn.rows[2].x == "25.000"
    assert drawn.rows[2].width == "50.000"
    assert [row.failed for row in drawn.rows] == [False, True, False, False]
    assert drawn.duration_ms == pytest.approx(20)


def test_a_window_over_a_trace_stands_on_the_whole_traces_scale() -> None:
    drawn = waterfall.draw([Span("a", "gone", started_at=105.0, duration_ms=1000)], start=100.0, end=110.0)
    assert (drawn.rows[0].x, drawn.rows[0].width) == ("50.000", "10.000")
    assert (drawn.started_at, drawn.duration_ms) == (100.0, 10_000)


def test_orphans_and_loops_are_drawn_too() -> None:
    drawn = waterfall.draw([Span("a", "gone"), Span("b", "c"), Span("c", "b")])
    assert {row.span_id for row in drawn.rows} == {"a", "b", "c"}


@given(
    st.lists(
        st.builds(
            Span,
            span_id=st.sampled_from("abcdefgh"),
            parent_span_id=st.sampled_from(["", *"abcdefgh"]),
            started_at=st.floats(0, 1e4),
            duration_ms=st.floats(0, 1e6),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda span: span.span_id,
    )
)
def test_every_span_is_drawn_once_within_the_picture(spans: list[Span]) -> None:
    rows = waterfall.draw(spans).rows
    assert sorted(row.span_id for row in rows) == sorted(span.span_id for span in spans)
    for row in rows:
        assert 0 <= float(row.x) <= 100
        assert 0 < float(row.width) <= 100


# -- blame --------------------------------------------------------------------------------------

FAILED = "Error"


def test_the_cause_is_read_from_the_call_that_failed() -> None:
    trace = [
        Span("a", "", "gateway", status=FAILED, attributes={"mc.service": "nexus"}),
        Span("b", "a", "nexus", status=FAILED),
        Span("c", "b", "nexus", kind="Client", status=FAILED),
        Span("d", "c", "gateway", status=FAILED, attributes={"mc.service": "covenant"}),
    ]
    assert blame.causes([trace]) == {"nexus": "covenant"}


def test_the_cause_is_read_from_what_the_service_said() -> None:
    told = Span(
        "a", "", "gateway", status=FAILED, attributes={"mc.service": "nexus", "mc.failed_dependency": "covenant"}
    )
    assert blame.causes([[told]]) == {"nexus": "covenant"}


def test_a_service_that_fails_by_itself_blames_nobody() -> None:
    trace = [
        Span("a", "", "gateway", status=FAILED, attributes={"mc.service": "nexus"}),
        Span("b", "a", "nexus", status=FAILED),
        Span("c", "b", "nexus", kind="Client"),
        Span("d", "c", "gateway", attributes={"mc.service": "covenant"}),
    ]
    assert blame.causes([trace]) == {}


def test_who_is_affected_is_counted_by_what_was_asked() -> None:
    failed = [Span(str(n), name="POST /nexus", started_at=float(n)) for n in range(3)] + [Span("x", name="GET /mint")]
    assert blame.affected(failed)[0] == {"service": "gateway", "name": "POST /nexus", "failed": 3, "last_at": 2.0}
