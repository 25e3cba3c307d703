"""How often the control process says no, by failure: one counter for Twisted, Django and the REST framework."""

from __future__ import annotations

from opentelemetry import metrics

from services.kit.problem import Problem

_refused = metrics.get_meter("mission-control").create_counter(
    "mc.control.refused", unit="{request}", description="Requests answered with a problem document, by failure"
)


def count(problem: Problem) -> None:
    """``problem`` is being sent. Its slug is the only label: those are words of the code, never of a request."""
    _refused.add(1, {"failure": problem.failure})
