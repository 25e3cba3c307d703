"""Wait for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 5.0, *, every: float = 0.05, what: str = "") -> T:
    """The first truthy answer of ``condition``; AssertionError with its last answer when the deadline passes.

    An OSError of the condition (nobody listens yet) counts as "not yet" and is named in the failure.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            last = answer = condition()
        except OSError as error:
            last = error
        else:
            if answer:
                return answer
        if time.monotonic() >= deadline:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{name} not met within {seconds} s; last answer: {last!r}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port on loopback that nobody holds now and that the kernel doesn't hand to outgoing connections soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """``count`` different free ports: all are held until the last is found."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def listening(port: int) -> bool:
    """Does somebody accept connections on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
