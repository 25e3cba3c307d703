"""Ask processes whether they are ready, and wait for all of them at once.

Speaks HTTP and three words of Redis's protocol with the standard library alone.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from missioncontrol.launch.processes import Heartbeat, Http, Ping, Process

PAUSE = 0.1
"""Seconds between two questions to one process."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""No proxy of the user's environment stands between us and our own processes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``reason`` says why not yet."""

    process: Process
    ready: bool
    reason: str = ""


def ask(process: Process, redis_url: str, since: float) -> Answer:
    """One question. ``since``: wall-clock seconds; a heartbeat from before it is a former run's."""
    try:
        match process.ready:
            case Http(url):
                with _DIRECT.open(url, timeout=3) as answer:
                    return Answer(process, answer.status == 200, f"answered {answer.status}")
            case Ping():
                return Answer(process, redis_command(redis_url, "PING") == "PONG", "does not answer PING")
            case Heartbeat(name):
                beat = redis_command(redis_url, "GET", f"mc:alive:{name}")
                fresh = beat is not None and float(json.loads(beat)["at"]) >= since
                return Answer(process, fresh, "has not given a sign of life")
    except urllib.error.HTTPError as error:
        with error:
            return Answer(process, False, _why(error.code, error.read(4096)))
    except (OSError, ValueError, KeyError) as error:
        cause = getattr(error, "reason", error)
        return Answer(process, False, str(getattr(cause, "strerror", None) or cause).lower())


def wait_for(
    processes: list[Process],
    redis_url: str,
    since: float,
    seconds: float,
    on_ready: Callable[[Process], None],
    hopeless: Callable[[], str | None],
) -> list[Answer]:
    """Wait until every process is ready; the last answers of those that were not in time.

    ``hopeless`` is asked now and then and names a process that will not come up; waiting ends at once.
    """
    deadline = time.monotonic() + seconds
    abandoned = False

    def patiently(process: Process) -> Answer:
        while True:
            answer = ask(process, redis_url, since)
            if answer.ready or abandoned or time.monotonic() >= deadline:
                return answer
            time.sleep(PAUSE)

    late: list[Answer] = []
    with ThreadPoolExecutor(max_workers=max(1, len(processes))) as pool:
        waiting: set[Future[Answer]] = {pool.submit(patiently, process) for process in processes}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    answer = future.result()
                    if answer.ready:
                        on_ready(answer.process)
                    else:
                        late.append(answer)
                abandoned = abandoned or hopeless() is not None
        except BaseException:
            abandoned = True
            raise
    return late


def redis_command(url: str, *words: str) -> str | None:
    """One command to Redis at ``url`` (``redis://`` or ``rediss://``), its simple answer; OSError when it fails."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    login = [unquote(word) for word in (parts.username, parts.password) if word]
    commands = [["AUTH", *login]] if parts.password else []
    commands += [["SELECT", parts.path.strip("/") or "0"], list(words)]
    with socket.create_connection((host, port), timeout=3) as plain:
        secure = parts.scheme == "rediss"
        connection = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
        reply = connection.makefile("rb")
        answer: str | None = None
        for command in commands:
            connection.sendall(_encode(command))
            answer = _reply(reply.readline(), reply.read)
        return answer


def _encode(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _reply(line: bytes, read: Callable[[int], bytes]) -> str | None:
    kind, rest = line[:1], line[1:].strip()
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else read(size + 2)[:-2].decode()
    if kind in {b"+", b":"}:
        return rest.decode()
    raise OSError(rest.decode() or "Redis closed the connection")


def _why(status: int, body: bytes) -> str:
    try:
        return f"answered {status}: {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"answered {status}"
