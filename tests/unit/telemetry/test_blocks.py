"""Which notes of stored blocks count: those whose part is there, or was merged into one that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.telemetry.engine.blocks import forget_lost, lost


@pytest.mark.parametrize(
    ("parts", "gone"),
    [
        (["all_1_1_0", "all_2_2_0"], []),
        (["all_1_1_0"], ["all_2_2_0"]),
        (["all_1_2_1"], []),
        (["all_1_2_1_7"], []),
        (["all_1_2_1", "detached", "deduplication_logs"], []),
        (["other_1_9_3"], ["all_1_1_0", "all_2_2_0"]),
        ([], ["all_1_1_0", "all_2_2_0"]),
    ],
)
def test_a_note_without_its_part_is_lost(parts: list[str], gone: list[str]) -> None:
    records = [("1", "all_1_1_0", "a"), ("1", "all_2_2_0", "b")]
    assert [part for part, _ in lost(records, parts)] == gone


def test_a_note_taken_back_is_gone_and_may_be_made_again() -> None:
    records = [("1", "all_1_1_0", "a"), ("2", "all_1_1_0", "a")]
    assert lost(records, []) == []
    assert lost([*records, ("1", "all_5_5_0", "a")], []) == [("all_5_5_0", "a")]


def test_an_odd_name_is_left_alone() -> None:
    assert lost([("1", "odd", "a")], []) == []


def test_the_log_is_mended_once_and_a_torn_line_is_cut(tmp_path: Path) -> None:
    table = tmp_path / "store" / "abc" / "uuid"
    (table / "all_1_1_0").mkdir(parents=True)
    (table / "tmp_insert_all_2_2_0").mkdir()
    logs = table / "deduplication_logs"
    logs.mkdir()
    (logs / "deduplication_log_9.txt").write_text("1\tall_1_1_0\ta\n")
    (logs / "deduplication_log_10.txt").write_text("1\tall_2_2_0\tb\n1\tall_3_3_0\tc_to")
    assert forget_lost(tmp_path) == 1
    assert (logs / "deduplication_log_10.txt").read_text() == "1\tall_2_2_0\tb\n2\tall_2_2_0\tb\n"
    assert forget_lost(tmp_path) == 0


def test_a_folder_without_tables_is_fine(tmp_path: Path) -> None:
    assert forget_lost(tmp_path) == 0
