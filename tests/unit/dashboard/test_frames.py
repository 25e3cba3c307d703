"""The live protocol's pure part: whatever the state does, deltas and resumption lead to the newest state."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.dashboard.frames import (
    MALFORMED,
    MAX_CLIENT_FRAME,
    TOPICS,
    UNKNOWN_TOPIC,
    WRONG_ACK,
    Ack,
    Delta,
    FrameError,
    History,
    Snapshot,
    Subscribe,
    Window,
    clean,
    diff,
    merge,
    pick,
    read,
)

scalars = st.one_of(
    st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.text("ab", max_size=2)
)
values = st.recursive(
    st.one_of(scalars, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from([*sorted(TOPICS), "sources"]), values, max_size=5).map(clean)


def same(left: Any, right: Any) -> bool:
    """Equal as JSON text: tells True from 1, which == does not."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


# RFC 7396, appendix A: original, patch, result.
RFC = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("original", "patch", "result"), RFC)
def test_merge_does_what_the_rfc_shows(original: Any, patch: Any, result: Any) -> None:
    assert merge(original, patch) == result


@given(documents, documents)
def test_a_patch_turns_the_old_state_into_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge(old, diff(old, new)) == new
    assert diff(new, new) == {}


def test_true_is_not_one() -> None:
    assert diff({"a": True}, {"a": 1}) == {"a": 1}
    assert diff({"a": [1]}, {"a": [True]}) == {"a": [True]}


@given(st.lists(documents, min_size=1, max_size=12), st.frozensets(st.sampled_from(sorted(TOPICS))), st.data())
def test_from_any_frame_on_the_deltas_lead_to_the_newest_state(
    states: list[dict[str, Any]], topics: frozenset[str], data: st.DataObject
) -> None:
    history = History(keep=100)
    history.restart(Snapshot("1", 1, 0.0, states[0]))
    for seq, (before, after) in enumerate(itertools.pairwise(states), 2):
        assert history.add(Delta("1", seq, float(seq), diff(before, after)))
    start = data.draw(st.integers(1, len(states)))
    held = pick(states[start - 1], topics)
    missed = history.since("1", start)
    assert missed is not None
    for delta in missed:
        frame = json.loads(delta.text(topics))
        assert frame["type"] == "delta"
        held = merge(held, frame["patch"])
    assert held == pick(states[-1], topics)
    newest = history.snapshot
    assert newest is not None
    assert json.loads(newest.text(topics))["state"] == held


def test_history_knows_what_it_can_not_bridge() -> None:
    history = History(keep=2)
    history.restart(Snapshot("7", 1, 0.0, {}))
    for seq in (2, 3, 4):
        assert history.add(Delta("7", seq, 0.0, {"verdict": seq}))
    assert not history.add(Delta("7", 6, 0.0, {})), "a gap"
    assert not history.add(Delta("8", 5, 0.0, {})), "another epoch"
    assert history.since("7", 1) is None, "too old"
    assert history.since("6", 3) is None, "another epoch"
    assert history.since("7", 5) is None, "from the future"
    assert [delta.seq for delta in history.since("7", 2) or []] == [3, 4]
    assert history.since("7", 4) == []


def test_a_frame_is_encoded_once_for_all_who_want_the_same() -> None:
    delta = Delta("1", 2, 0.5, {"verdict": {"state": "healthy"}, "gateway": {"revision": 3}, "sources": {"health": 1}})
    assert delta.text(TOPICS) is delta.text(frozenset(TOPICS))
    assert json.loads(delta.text(frozenset({"verdict"})))["patch"] == {
        "verdict": {"state": "healthy"},
        "sources": {"health": 1},
    }


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ('{"type":"ack","seq":5}', Ack(5)),
        ('{"type":"subscribe"}', Subscribe(TOPICS)),
        ('{"type":"subscribe","topics":["verdict"]}', Subscribe(frozenset({"verdict"}))),
        ('{"type":"subscribe","topics":[]}', Subscribe(frozenset())),
    ],
)
def test_right_frames_are_read(text: str, frame: object) -> None:
    assert read(text) == frame


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, MALFORMED),
        ("", MALFORMED),
        ("{", MALFORMED),
        ("[]", MALFORMED),
        ("null", MALFORMED),
        ("{}", MALFORMED),
        ('{"type":"hello"}', MALFORMED),
        ('{"type":["ack"]}', MALFORMED),
        ('{"type":"subscribe","topics":"verdict"}', MALFORMED),
        ('{"type":"subscribe","topics":[1]}', MALFORMED),
        ('{"type":"subscribe","topics":["verdict","weather"]}', UNKNOWN_TOPIC),
        ('{"type":"ack"}', WRONG_ACK),
        ('{"type":"ack","seq":"5"}', WRONG_ACK),
        ('{"type":"ack","seq":5.0}', WRONG_ACK),
        ('{"type":"ack","seq":true}', WRONG_ACK),
        ("[" * 3000 + "]" * 1000, MALFORMED),
        ('{"type":"ack","seq":' + "9" * 4050 + "}", WRONG_ACK),
        (" " * (MAX_CLIENT_FRAME + 1), MALFORMED),
    ],
)
def test_wrong_frames_are_refused_with_their_code(text: str | None, code: int) -> None:
    if text is not None and "9" * 4050 in text:
        assert isinstance(read(text), Ack), "readable; the window refuses it"
        return
    with pytest.raises(FrameError) as refused:
        read(text)
    assert refused.value.code == code
    assert len(str(refused.value).encode()) <= 123, "a close reason may have 123 bytes (RFC 6455 section 5.5)"


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        read(text)
    except FrameError as error:
        assert error.code in {MALFORMED, UNKNOWN_TOPIC, WRONG_ACK}


def test_an_ack_clears_what_came_before_it() -> None:
    window = Window(3)
    window.sent([10, 11, 12])
    assert window.full
    window.ack(11)
    assert len(window) == 1
    window.ack(11)
    window.ack(12)
    assert len(window) == 0


@pytest.mark.parametrize("seq", [9, 10, 13, -1])
def test_an_ack_backwards_or_ahead_is_wrong(seq: int) -> None:
    window = Window(3)
    window.sent([10, 11, 12])
    window.ack(11)
    with pytest.raises(FrameError) as refused:
        window.ack(seq)
    assert refused.value.code == WRONG_ACK


def test_an_ack_of_the_last_epoch_is_right_after_a_new_one_began() -> None:
    window = Window(8)
    window.sent([4999, 5000])
    window.sent([1])
    window.ack(5000)
    window.ack(1)
    assert len(window) == 0
