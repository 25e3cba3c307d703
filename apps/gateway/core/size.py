"""How large a request's body may be, and what is said of one that is larger. Pure."""

from __future__ import annotations

from apps.gateway.core.config import Route
from services.kit.problem import Problem, Refused


def over(most: int) -> Problem:
    """413: the body is, or says that it will be, over ``most`` bytes (RFC 9110 section 15.5.14)."""
    return Problem(413, "body_too_large", f"The body is over {most} bytes.")


def too_large(most: int) -> Refused:
    """See ``over``."""
    return Refused(over(most))


def expectation_failed() -> Refused:
    """417 (RFC 9110 section 10.1.1)."""
    return Refused(Problem(417, "expectation_failed", "Only 100-continue can be expected."))


def in_words(route: Route) -> str:
    """The bound for a person."""
    size, unit = float(route.max_body), "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"bodies of up to {size:.4g} {unit}" if route.max_body else "no body"
