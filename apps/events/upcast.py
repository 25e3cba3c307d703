"""Upcasters: what an old event says, in today's words. Pure.

The log keeps events as they were published. Whoever folds them (aggregates, projections) reads them through the
steps that are registered here, so that its own code knows the newest schema version and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Data = dict[str, Any]
Step = Callable[[Data], Data]


class Upcasters:
    """Steps by event type, each from one schema version to the next."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], Step] = {}

    def step(self, event_type: str, version: int) -> Callable[[Step], Step]:
        """Register a step from ``version`` to the next: a function that returns new data and leaves the old as it is.

        ValueError for a step that is there already: two of them could not both be meant.
        """

        def register(function: Step) -> Step:
            if version < 1 or (event_type, version) in self._steps:
                raise ValueError(f"{event_type} already has a step from version {version}, or has no such version.")
            self._steps[event_type, version] = function
            return function

        return register

    def newest(self, event_type: str, version: int, data: Data) -> Data:
        """``data`` of ``version`` as the last step leaves it. What is newer than every step comes back as it is.

        Version 0, which is what was published before its type had a schema, is read as 1.
        """
        version = max(version, 1)
        while step := self._steps.get((event_type, version)):
            data, version = step(data), version + 1
        return data


UPCASTERS = Upcasters()
"""Of this process. An app registers its steps where it defines its aggregates and projections."""
