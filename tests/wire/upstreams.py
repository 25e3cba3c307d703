"""Small real upstreams for the gateway's tests: each a process of its own, with the manners a test asks for by path.

``/echo`` tells what arrived; ``/status/<n>``, ``/slow/<seconds>``, ``/bytes/<n>``, ``/chunks/<n>``, ``/close``
(an answer without length), ``/once`` (keeps the connection, resets it at the next request), ``/cut`` (half an
answer), ``/reset``, ``/hints`` (103, then 200), ``/garbage``, ``/dependency``, ``/hang``, ``/early`` (answers at the
head, reads the body after), ``/raw`` (the bytes of the file ``NAME.answer`` in FOLDER). ``/mode/<status>`` sets how
``/flag`` answers from then on, ``/mode/<status>-late`` after half a second; ``/seen`` counts requests.

Run: ``python -m tests.wire.upstreams PORT NAME FOLDER``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httptools


class Upstream(asyncio.Protocol):
    """One connection of a test upstream."""

    seen: dict[str, int] = {}
    aborted = 0
    mode = "200"
    name = ""
    taught = Path()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.busy = False
        self.once = False
        self.room = asyncio.Event()
        self.room.set()

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            type(self).aborted += 1

    def data_received(self, data: bytes) -> None:
        if self.once:
            self.transport.abort()
            return
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.body = bytearray()
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        # As a server does whose application answers without reading what it is sent: the body comes off
        # the connection afterwards, by the length that the head promised.
        self.early = self.url.startswith(b"/early")
        if self.early:
            self.seen["/early"] = self.seen.get("/early", 0) + 1
            self.send(200, b"early")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        if self.early:
            return
        self.busy = True
        self.task = asyncio.get_running_loop().create_task(self.answer(self.parser.get_method().decode()))

    def send(self, status: int, body: bytes = b"", fields: str = "", head_only: bool = False) -> None:
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\nX-Upstream: {self.name}\r\n{fields}\r\n"
        self.transport.write(head.encode() + (b"" if head_only else body))

    async def answer(self, method: str) -> None:
        url = self.url.decode("latin-1")
        path, _, _ = url.partition("?")
        _, first, *rest = path.split("/")
        value = rest[0] if rest else ""
        self.seen[path] = self.seen.get(path, 0) + 1
        if first == "echo":
            about = {"method": method, "url": url, "fields": self.fields, "body": self.body.decode("latin-1")}
            fields = "X-Hop: 1\r\nConnection: X-Hop\r\nKeep-Alive: timeout=9\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
            self.send(200, json.dumps(about).encode(), fields, method == "HEAD")
        elif first == "status":
            status = int(value)
            if status in {204, 304}:
                self.transport.write(f"HTTP/1.1 {status} Whatever\r\nETag: x\r\n\r\n".encode())
            else:
                self.send(status, value.encode())
        elif first == "dependency":
            self.send(503, b"{}", "X-Failed-Dependency: other\r\n")
        elif first == "slow":
            await asyncio.sleep(float(value))
            self.send(200, b"slept")
        elif first == "bytes":
            await self.stream(int(value))
        elif first == "chunks":
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(int(value)):
                self.transport.write(b"5\r\nc%04d\r\n" % number)
                await asyncio.sleep(0.005)
            self.transport.write(b"0\r\nX-Trailer: dropped\r\n\r\n")
        elif first == "close":
            self.transport.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            self.busy = False
            self.transport.close()
        elif first == "cut":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            await asyncio.sleep(0.05)
            self.transport.abort()
        elif first == "once":
            # As a server does that had just decided to close the kept connection.
            self.once = True
            self.send(200, b"once")
        elif first == "reset":
            self.transport.abort()
        elif first == "hints":
            self.transport.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
            self.send(200, b"done")
        elif first == "garbage":
            self.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif first == "raw":
            self.transport.write(self.taught.read_bytes())
        elif first == "hang":
            await asyncio.sleep(60)
        elif first == "mode":
            type(self).mode = value
            self.send(200)
        elif first == "flag":
            status, _, late = self.mode.partition("-")
            await asyncio.sleep(0.5 if late else 0)
            self.send(int(status), b"flag")
        elif first == "seen":
            self.send(200, json.dumps({"seen": self.seen, "aborted": self.aborted}).encode())
        else:
            self.send(200, self.name.encode())
        self.busy = False

    async def stream(self, size: int) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = b"x" * 65_536
        while size > 0:
            part = block[: min(size, len(block))]
            self.transport.write(part)
            size -= len(part)
            await self.room.wait()  # as a polite server does: what the gateway does not read stays here


async def main(port: int, name: str, folder: Path) -> None:
    """Serve until killed."""
    Upstream.name = name
    Upstream.taught = folder / f"{name}.answer"
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
