"""What a service needs to be well, and how a check says that it is not. Pure: ``health`` asks and answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class Unwell(Exception):
    """A check's way to fail; the message is the reason, for a person."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something the service needs. ``probe`` returns when it is there and raises ``Unwell`` when not."""

    name: str
    probe: Callable[[], Awaitable[None]]
    critical: bool = True
    timeout: float = 0.5
