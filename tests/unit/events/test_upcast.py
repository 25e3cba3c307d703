"""Old events are read in today's words, and stay as they were."""

from __future__ import annotations

import pytest

from apps.events.upcast import Upcasters

TYPE = "test.person.named"


def steps() -> Upcasters:
    made = Upcasters()
    made.step(TYPE, 1)(lambda data: {"first": data["name"].split()[0], "last": data["name"].split()[-1]})
    made.step(TYPE, 2)(lambda data: data | {"title": ""})
    return made


def test_each_version_is_taken_to_the_newest_step_by_step() -> None:
    said = {"name": "Mary Ann Evans"}
    newest = {"first": "Mary", "last": "Evans", "title": ""}
    assert steps().newest(TYPE, 0, said) == steps().newest(TYPE, 1, said) == newest
    assert steps().newest(TYPE, 2, {"first": "Mary", "last": "Evans"}) == newest
    assert steps().newest(TYPE, 3, newest) == newest
    assert said == {"name": "Mary Ann Evans"}


def test_what_no_step_knows_comes_back_as_it_is() -> None:
    assert steps().newest(TYPE, 9, {"odd": 1}) == {"odd": 1}
    assert steps().newest("test.person.left", 1, {"odd": 1}) == {"odd": 1}


@pytest.mark.parametrize("version", [0, 1])
def test_a_step_is_registered_once(version: int) -> None:
    with pytest.raises(ValueError, match="step"):
        steps().step(TYPE, version)(lambda data: data)
