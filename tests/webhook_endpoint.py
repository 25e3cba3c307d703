"""A webhook's receiver in a process of its own, over raw sockets, so that it can do what no framework lets it.

``python -m tests.webhook_endpoint PORT FILE``. The path says how it answers (``/ok``, ``/status/503``, ``/hang`` …), or
for ``/file/NAME`` the first line of the file NAME beside FILE, so that a test can change it. Each request is a line of
JSON in FILE. ``Endpoint`` starts one and reads what it got.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HUGE = b"x" * 65536


async def main(port: int, file: Path) -> None:
    log = file.open("a", buffering=1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        said = {"at": time.time(), "method": method, "path": path, "headers": headers, "body": body.decode()}
        how = path.removeprefix("/").split("/")
        if how[0] == "file":
            how = (file.parent / how[1]).read_text().split("\n")[0].strip("/").split("/")
        log.write(json.dumps(said) + "\n")
        if how[0] == "poison" and method == "POST" and '"poison":true' in said["body"]:
            how = ["status", "500"]
        if how[0] == "hang":
            await asyncio.sleep(3600)
        if how[0] == "reset":
            writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" * 2)
            writer.transport.abort()
            return False
        if how[0] == "close":
            return False
        if how[0] == "garbage":
            writer.write(b"\x16\x03\x01 nothing of HTTP\r\n\r\n")
            await writer.drain()
            return False
        if how[0] == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 4000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
        if how[0] == "huge":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
            for _ in range(160):
                writer.write(HUGE)
                await writer.drain()
            return True
        if how[0] == "slow":
            await asyncio.sleep(float(how[1]))
        status = how[1] if how[0] == "status" else "200"
        extra = ""
        if how[0] == "redirect":
            status, extra = "307", "Location: /ok\r\n"
        if how[0] == "after":
            status, extra = "503", f"Retry-After: {how[1]}\r\n"
        if method == "OPTIONS" and how[0] != "nohandshake":
            extra += "WebHook-Allowed-Origin: *\r\nWebHook-Allowed-Rate: 60000\r\n"
        answer = f"answer of {path}".encode()
        writer.write(f"HTTP/1.1 {status} Said\r\n{extra}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)
        await writer.drain()
        return True

    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=512, limit=2**22)
    async with server:
        await server.serve_forever()


class Endpoint:
    """The receiver, started and stopped by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "received.jsonl"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def say(self, name: str, how: str) -> None:
        """What ``/file/NAME`` answers from now on."""
        fresh = self.folder / f"{name}.new"
        fresh.write_text(how)
        fresh.replace(self.folder / name)

    def received(self, method: str = "POST", path: str = "") -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        lines = [json.loads(line) for line in self.file.read_text().splitlines() if line.endswith("}")]
        return [one for one in lines if one["method"] == method and one["path"].startswith(path)]

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.webhook_endpoint", str(self.port), str(self.file)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the endpoint did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Endpoint:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
