"""What the guide tells receivers to do is true of what we send."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from apps.events.subscriptions import sending, signature

GUIDE = Path(__file__).parents[4] / "docs" / "subscriptions.md"


def verify() -> Any:
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the guide's own
    return names["verify"]


@pytest.mark.parametrize("structured", [True, False])
def test_a_receiver_that_does_as_the_guide_says_believes_us_and_nobody_else(structured: bool) -> None:
    old, new = signature.new_secret(), signature.new_secret()
    endpoint = sending.Endpoint("http://here", (signature.key_of(new), signature.key_of(old)), structured)
    headers, body = sending.request(sending.sample(time.time()), endpoint, time.time())
    assert verify()(old, headers, body) == verify()(new, headers, body) == headers["webhook-id"]
    for secret, odd, what in (
        (signature.new_secret(), headers, body),
        (new, headers, body + b" "),
        (new, headers | {"webhook-id": "msg_other"}, body),
        (new, headers | {"webhook-timestamp": str(int(time.time()) - 301)}, body),
    ):
        with pytest.raises(ValueError, match=r"signed|old"):
            verify()(secret, odd, what)


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of standard-webhooks' own libraries.
    key = signature.key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
