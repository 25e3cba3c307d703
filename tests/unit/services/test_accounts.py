from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.accounts import _TWINS, parse_account, skeleton


def test_names_have_one_form() -> None:
    assert parse_account(" Thandi ") == parse_account("THANDI") == "thandi"
    assert parse_account("Zoë") == parse_account("Zoe\u0308") == "zoë"


@pytest.mark.parametrize(
    "name", ["", "1st", "a b", "a/b", "../etc", "x" * 64, "a\x00b", "-a", "a\nb", "thandi\u200b", "thandi\u0663"]
)
def test_what_can_not_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="account name"):
        parse_account(name)


@pytest.mark.parametrize("name", ["thаndi", "тhandi", "bοb", "иванa"])
def test_a_name_of_two_scripts_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one script"):
        parse_account(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [("bob", "b0b"), ("thandi", "thạndi"), ("zoe", "zoë"), ("сосо", "coco"), ("tom1", "toml"), ("mary", "rnary"),
     ("thandi", "thandı"), ("a_b", "a-b")],
)  # fmt: skip
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert one != other and skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), [("thandi", "thandie"), ("bob", "rob"), ("tom1", "tom2"), ("иван", "ivan")])
def test_other_names_have_others(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


def test_every_twin_is_one_letter_for_another() -> None:
    assert all(chr(letter) != twin for letter, twin in _TWINS.items())
    assert len(_TWINS) >= 40


@given(st.text(alphabet=st.characters(categories=["L", "N", "M", "P"]), max_size=70))
def test_a_name_is_refused_or_comes_back_as_itself(text: str) -> None:
    try:
        name = parse_account(text)
    except ValueError:
        return
    assert parse_account(name) == name == unicodedata.normalize("NFKC", name)
