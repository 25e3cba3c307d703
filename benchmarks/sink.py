"""An OTLP/HTTP sink that counts what it is sent: ``python -m benchmarks.sink PORT``; ``GET /count`` tells."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Sink(asyncio.Protocol):
    """One exporter's connection."""

    spans = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.url = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        answer = b""
        if self.url == b"/v1/traces":
            request = ExportTraceServiceRequest.FromString(b"".join(self.body))
            Sink.spans += sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)
        elif self.url == b"/count":
            answer = b"%d" % Sink.spans
            Sink.spans = 0
        self.body = []
        self.url = b""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
