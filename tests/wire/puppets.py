"""Instances that a test plays: by hand, byte by byte, or by h11, which is as strict as the standard."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import h11

from apps.gateway.core import config
from tests.wire.gateway import Wire


class Puppet:
    """An instance whose every byte is the test's."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self._held: list[Wire] = []

    @property
    def instance(self) -> config.Instance:
        return config.Instance("puppet", f"http://127.0.0.1:{self.listener.getsockname()[1]}")

    def accept(self, method: bytes = b"") -> Wire:
        """The next connection, with its first request's head read if ``method`` names one."""
        sock, _ = self.listener.accept()
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = Wire(sock)
        self._held.append(wire)
        if method:
            assert head(wire).startswith(method + b" ")
        return wire

    def close(self) -> None:
        for each in (self.listener, *self._held):
            each.close()


@contextlib.contextmanager
def puppet() -> Iterator[Puppet]:
    """A puppet, and its end."""
    with contextlib.closing(Puppet()) as found:
        yield found


def head(wire: Wire) -> bytes:
    """A request's head, which the gateway has sent."""
    while b"\r\n\r\n" not in wire.buffer:
        assert wire.more(), wire.buffer
    found, _, wire.buffer = wire.buffer.partition(b"\r\n\r\n")
    return found


@dataclass
class Seen:
    """A request as h11 reads it."""

    method: str
    target: str
    fields: list[tuple[str, str]] = field(repr=False)
    body: bytes = b""
    whole: bool = False


class Strict:
    """An instance that reads with h11 whatever the gateway makes of what clients sent; answers each with 200."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        """Bytes that h11 would not read."""
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def instance(self) -> config.Instance:
        return config.Instance("strict", f"http://127.0.0.1:{self.listener.getsockname()[1]}")

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        with sock, contextlib.suppress(OSError):
            try:
                while self._turn(sock, http):
                    pass
            except h11.RemoteProtocolError as error:
                self.faults.append(str(error))

    def _turn(self, sock: socket.socket, http: h11.Connection) -> bool:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(sock.recv(65_536))
        elif isinstance(event, h11.Request):
            fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            self.seen.append(Seen(event.method.decode(), event.target.decode(), fields))
        elif isinstance(event, h11.Data):
            self.seen[-1].body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            last = self.seen[-1]
            last.whole = True
            body = json.dumps({"method": last.method, "url": last.target, "body": last.body.decode("latin-1")}).encode()
            answer = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])
            sock.sendall(http.send(answer) or b"")
            sock.sendall((http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
            if http.our_state is h11.MUST_CLOSE:
                return False
            http.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return False
        return True
