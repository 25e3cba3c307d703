"""Python's cycle collector in a process that lives long."""

from __future__ import annotations

import gc
from typing import Final

SELDOM: Final = 50_000
"""Objects more than before, until it looks at the young ones."""


def settle(threshold: int = SELDOM) -> None:
    """To be called once all is loaded: that stays for good, and is not looked at again.

    What comes and goes is freed by reference counts; the collector is for the rest. At Python's own threshold (700) it
    takes a tenth to a fifth of a process that makes some thousand tuples a second and no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(threshold, 20, 20)
