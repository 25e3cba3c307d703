"""Wait for a condition with a deadline, instead of sleeping and hoping.

Deadlines are for a machine that has time: where more processes want to run than there are cores, everything is
that much slower without being wrong, so waiting is stretched in proportion.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


MOST = 12.0
"""No wait is stretched by more than this."""


def stretch() -> float:
    """How much slower than an idle machine this one is: the load of the last minute by cores, at least 1."""
    return min(MOST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def patient(seconds: float) -> float:
    """``seconds`` of an idle machine on this one, now."""
    return seconds * stretch()


def until(condition: Callable[[], T], seconds: float = 5.0, *, every: float = 0.05, what: str = "") -> T:
    """The first truthy answer of ``condition``; AssertionError with its last answer when ``seconds``, stretched by the
    machine's load, have passed.

    An OSError of the condition (nobody listens yet) counts as "not yet" and is named in the failure.
    """
    began = time.monotonic()
    last: object = None
    while True:
        try:
            last = answer = condition()
        except OSError as error:
            last = error
        else:
            if answer:
                return answer
        if time.monotonic() >= began + patient(seconds):
            name = what or getattr(condition, "__name__", "the condition")
            waited = time.monotonic() - began
            raise AssertionError(f"{name} not met within {waited:.0f} s; last answer: {last!r}")
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
