"""Load: wrk for saturation (closed loop), and an open-loop client of our own for latency at a constant rate.

The open-loop client measures from the moment a request was due, not from when it could be sent, so a
server that stalls pays for every request that had to wait (no coordinated omission).
Run by hand: ``python -m benchmarks.load PORT PATH RATE SECONDS FIELD…``.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

from benchmarks.report import Falsified

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Saturation:
    """What wrk saw."""

    rate: float
    requests: int
    p99_ms: float


def saturate(core: int, port: int, path: str, seconds: float, field: str) -> Saturation:
    """Ask as fast as answers come; Falsified by any answer that is not 2xx or any broken connection."""
    text = _wrk(core, port, path, seconds, "-H", field)
    if "Non-2xx" in text:
        line = next(line.strip() for line in text.splitlines() if "Non-2xx" in line)
        raise Falsified(f"the server on port {port} gave errors under load: {line}")
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if not (requests and rate and p99):
        raise Falsified(f"wrk's output can't be read: {text!r}")
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]
    return Saturation(float(rate[1]), int(requests[1]), float(p99[1]) * unit)


@dataclass(frozen=True, slots=True)
class Shared:
    """What many consumers saw who each ask more often than they may: answers by whether they were let in."""

    seconds: float
    admitted: int
    limited: int
    other: int

    @property
    def rate(self) -> float:
        """Answers a second, of either kind."""
        return (self.admitted + self.limited + self.other) / self.seconds


def crowd(core: int, port: int, path: str, seconds: float, script: str) -> Shared:
    """Ask as fast as answers come, each time as the next consumer; ``script`` (wrk's Lua) holds the keys."""
    text = _wrk(core, port, path, seconds, "-s", script)
    found = re.search(r"crowd (\d+) (\d+) (\d+) ([\d.]+)", text)
    if not found:
        raise Falsified(f"wrk's output can't be read: {text!r}")
    return Shared(float(found[4]), int(found[1]), int(found[2]), int(found[3]))


def _wrk(core: int, port: int, path: str, seconds: float, *options: str) -> str:
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency"]
    address = f"http://127.0.0.1:{port}{path}"
    text = subprocess.run([*command, *options, address], capture_output=True, text=True, check=True).stdout
    if "Socket errors" in text:
        line = next(line.strip() for line in text.splitlines() if "Socket errors" in line)
        raise Falsified(f"the server on port {port} broke connections under load: {line}")
    return text


@dataclass(frozen=True, slots=True)
class Steady:
    """What a constant rate saw; milliseconds from when each request was due."""

    sent: int
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int


def steady(core: int, port: int, path: str, rate: float, seconds: float, field: str) -> Steady:
    """Ask at ``rate`` per second whatever comes back; Falsified by errors or when the rate was not kept."""
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "-m",
        "benchmarks.load",
        str(port),
        path,
        str(rate),
        str(seconds),
    ]
    done = subprocess.run([*command, field], capture_output=True, text=True, check=True)
    found = Steady(**json.loads(done.stdout))
    if found.errors:
        raise Falsified(f"the server on port {port} gave {found.errors} errors at {rate:.0f} requests/s")
    if found.rate < 0.95 * rate:
        raise Falsified(f"the client kept {found.rate:.0f} of {rate:.0f} requests/s: it, not the server, was measured")
    return found


def drive(port: int, path: str, rate: float, seconds: float, fields: list[str]) -> Steady:
    """The open loop: send what is due, read what has come, sleep a little."""
    request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: bench", *fields, "", ""]).encode()
    poller = select.epoll()
    connections: dict[int, socket.socket] = {}
    free: deque[int] = deque()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poller.register(connection.fileno(), select.EPOLLIN)
        free.append(connection.fileno())
    buffers = dict.fromkeys(connections, b"")
    due_of: dict[int, float] = {}
    latencies: list[float] = []
    errors = sent = 0
    start = time.perf_counter() + 0.05
    total = int(rate * seconds)
    give_up = start + seconds + 5
    while len(latencies) + errors < total and time.perf_counter() < give_up:
        now = time.perf_counter()
        while sent < total and free and start + sent / rate <= now:
            descriptor = free.popleft()
            due_of[descriptor] = start + sent / rate
            connections[descriptor].send(request)
            sent += 1
        for descriptor, _ in poller.poll(0):
            data = buffers[descriptor] + connections[descriptor].recv(65_536)
            head, end, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head) if end else None
            if length is None or len(body) < int(length[1]):
                buffers[descriptor] = data
                continue
            buffers[descriptor] = b""
            latencies.append(time.perf_counter() - due_of.pop(descriptor))
            errors += not head.startswith(b"HTTP/1.1 2")
            free.append(descriptor)
        time.sleep(0.0001)
    took = time.perf_counter() - start
    latencies.sort()
    for connection in connections.values():
        connection.close()
    if not latencies:
        return Steady(sent, 0.0, 0.0, 0.0, max(errors, 1))
    at = {share: 1000 * latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in (0.5, 0.99)}
    return Steady(sent, len(latencies) / took, at[0.5], at[0.99], errors + total - len(latencies))


if __name__ == "__main__":
    seen = drive(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
    print(json.dumps({name: getattr(seen, name) for name in Steady.__slots__}))
