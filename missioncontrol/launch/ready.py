"""Ask processes whether they are ready, and wait for all of them at once.

Speaks HTTP and three words of Redis's protocol with the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

from missioncontrol.launch.processes import Heartbeat, Http, Ping, Process
from services.kit import env
from services.kit.seal import Seal, place

Reply = str | list[str] | None
DEMO_SECONDS = 20.0
"""How much longer than for everything else the person at the terminal waits for a demo service."""
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
                beat = _said(f"mc:alive:{name}", redis_command(redis_url, "GET", f"mc:alive:{name}"))
                return Answer(process, "at" in beat and beat["at"] >= since, "has not given a sign of life")
    except urllib.error.HTTPError as error:
        with error:
            return Answer(process, False, _why(error.code, error.read(4096)))
    except (OSError, ValueError, KeyError) as error:
        cause = getattr(error, "reason", error)
        return Answer(process, False, str(getattr(cause, "strerror", None) or cause).lower())


def lives(process: Process, redis_url: str) -> bool | None:
    """Whether it answers at all, or has given its sign of life; None when Redis, through which we'd see it, is away."""
    try:
        match process.ready:
            case Http(url):
                with _DIRECT.open(url, timeout=3):
                    return True
            case Ping():
                redis_command(redis_url, "PING")
                return True
            case Heartbeat(name):
                # The key expires by itself when it is not refreshed.
                return bool(_said(f"mc:alive:{name}", redis_command(redis_url, "GET", f"mc:alive:{name}")))
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except http.client.HTTPException:
        return True
    except OSError as error:
        if isinstance(process.ready, Heartbeat):
            return None
        # Redis's own word ("LOADING …") is an answer too, and has no number of the system's.
        return isinstance(process.ready, Ping) and error.errno is None and not isinstance(error, TimeoutError)


def wait_for(
    processes: list[Process],
    redis_url: str,
    since: float,
    seconds: float,
    on_ready: Callable[[Process], None],
    hopeless: Callable[[], set[str]],
) -> list[Answer]:
    """Wait until every process is ready; the last answers of those that were not in time.

    ``hopeless`` is asked now and then and names processes that will not come up: one of them ends all waiting, unless
    it is a demo service, which is waited for no longer. Once all others are ready, demo services get DEMO_SECONDS.
    """
    deadline = {process.name: time.monotonic() + seconds for process in processes}
    given_up: set[str] = set()

    def patiently(process: Process) -> Answer:
        while True:
            answer = ask(process, redis_url, since)
            if answer.ready or process.name in given_up or time.monotonic() >= deadline[process.name]:
                return answer
            time.sleep(PAUSE)

    late: list[Answer] = []
    with ThreadPoolExecutor(max_workers=max(1, len(processes))) as pool:
        waiting: dict[Future[Answer], Process] = {pool.submit(patiently, process): process for process in processes}
        try:
            while waiting:
                for future in wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    answer = future.result()
                    del waiting[future]
                    if answer.ready:
                        on_ready(answer.process)
                    else:
                        late.append(answer)
                left = list(waiting.values())
                given_up |= hopeless()
                if any(process.name in given_up for process in processes if not process.demo):
                    given_up |= {process.name for process in left}
                if all(process.demo for process in left):
                    soon = time.monotonic() + DEMO_SECONDS
                    deadline |= {process.name: min(deadline[process.name], soon) for process in left}
        except BaseException:
            given_up |= {process.name for process in processes}
            raise
    return late


def out_of_rotation(url: str) -> list[str]:
    """The instances whose last verdict is unhealthy (apps.lib.wire.HEALTH_STATE); none when Redis is away."""
    try:
        verdicts = redis_command(url, "HGETALL", "mc:health:state")
        rows = dict(zip(verdicts[::2], verdicts[1::2], strict=True)) if isinstance(verdicts, list) else {}
        said = {name: _said(place("mc:health:state", name), row) for name, row in rows.items()}
        return sorted(name for name, verdict in said.items() if verdict.get("state") == "unhealthy")
    except (OSError, ValueError):
        return []


def _said(purpose: str, data: Reply) -> dict[str, Any]:
    """What one of our processes said (apps.lib.border); nothing when it was none of ours."""
    try:
        found = json.loads(Seal(env.secret("MC_WIRE_KEY")).open(purpose, str(data)).body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def redis_command(url: str, *words: str) -> Reply:
    """One command to Redis at ``url`` (``redis://`` or ``rediss://``) and its answer; OSError when it fails."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    login = [unquote(word) for word in (parts.username, parts.password) if word]
    commands = [["AUTH", *login]] if parts.password else []
    commands += [["SELECT", parts.path.strip("/") or "0"], list(words)]
    with socket.create_connection((host, port), timeout=3) as plain:
        secure = parts.scheme == "rediss"
        connection = _tls(parts.query).wrap_socket(plain, server_hostname=host) if secure else plain
        reply = connection.makefile("rb")
        answer: Reply = None
        for command in commands:
            connection.sendall(_encode(command))
            answer = _reply(reply)
        return answer


def _tls(query: str) -> ssl.SSLContext:
    """As the URL's options say, which are those of Redis's clients (docs/settings.md)."""
    given = dict(parse_qsl(query))
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
    if "ssl_certfile" in given:
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    if given.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _encode(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _reply(stream: BinaryIO) -> Reply:
    line = stream.readline()
    kind, rest = line[:1], line[1:].strip()
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else stream.read(size + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return [str(_reply(stream) or "") for _ in range(int(rest))]
    if kind in {b"+", b":"}:
        return rest.decode()
    raise OSError(rest.decode() or "Redis closed the connection")


def _why(status: int, body: bytes) -> str:
    try:
        return f"answered {status}: {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"answered {status}"
