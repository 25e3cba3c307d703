"""Problem documents: what every refusal says."""

from __future__ import annotations

import pytest

from services.kit.problem import Problem


@pytest.mark.parametrize("status", [429, 503, 504])
def test_a_refusal_that_passes_by_itself_says_when_to_come_again(status: int) -> None:
    assert Problem(status, "x", "X.").retry_after == 1
    assert Problem(status, "x", "X.", 30).retry_after == 30


@pytest.mark.parametrize("status", [400, 401, 403, 404, 502])
def test_one_that_does_not_says_nothing_of_the_kind(status: int) -> None:
    assert Problem(status, "x", "X.").retry_after is None


def test_its_fields_are_what_goes_with_it_and_the_wait() -> None:
    assert Problem(503, "x", "X.", headers={"X-Failed-Dependency": "mint"}).fields() == {
        "X-Failed-Dependency": "mint",
        "Retry-After": "1",
    }
    assert Problem(404, "x", "X.").fields() == {}


def test_half_a_surrogate_pair_in_a_detail_breaks_nothing() -> None:
    assert b'"detail": "?"' in Problem(400, "x", "\ud800").encode()
