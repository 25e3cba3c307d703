from __future__ import annotations

import pytest

from apps.gateway.core.retry import may_retry, worth_another


@pytest.mark.parametrize(
    ("method", "attempts", "sent", "answered", "replayable", "expected"),
    [
        ("GET", 1, True, False, True, True),
        ("GET", 2, True, False, True, False),  # the retries are used up
        ("GET", 1, True, True, True, False),  # the client has begun to read
        ("PUT", 1, True, False, False, False),  # the body is gone
        ("POST", 1, True, False, True, False),  # it may have been done
        ("POST", 1, False, False, True, True),  # nothing was sent
        ("PATCH", 1, True, False, True, False),
    ],
)
def test_only_what_the_client_cannot_notice_is_tried_again(
    method: str, attempts: int, sent: bool, answered: bool, replayable: bool, expected: bool
) -> None:
    found = may_retry(method, attempts=attempts, retries=1, sent=sent, answered=answered, replayable=replayable)
    assert found is expected


def test_another_instance_is_asked_for_gateway_errors_but_not_for_a_failed_dependency() -> None:
    assert worth_another(503, False) and not worth_another(503, True)
    assert not worth_another(500, False) and not worth_another(404, False)
