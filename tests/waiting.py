"""Wait for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import random
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


PORTS = range(15_000, 32_000)
"""Below the range from which the kernel takes the ports of outgoing connections: nobody grabs one by chance."""


def free_ports(count: int) -> list[int]:
    """``count`` different free ports on loopback: all are held until the last is found."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", random.choice(PORTS)))
            except OSError:
                probe.close()
            else:
                held.append(probe)
        return [int(probe.getsockname()[1]) for probe in held]
    finally:
        for probe in held:
            probe.close()


def free_port() -> int:
    """A free TCP port on loopback."""
    return free_ports(1)[0]


def listening(port: int) -> bool:
    """Does somebody accept connections on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
