"""One request of ClickHouse's HTTP interface, read from its URL, headers and form. Pure.

Settings that only steer a server's HTTP layer are known and dropped: answers here are always
complete before the first byte leaves, which is what ``wait_end_of_query`` asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apps.telemetry.engine.errors import EngineError, refusal
from apps.telemetry.engine.statement import Statement, StatementError, split

TRANSPORT = frozenset(
    [
        "query",
        "database",
        "default_format",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "user",
        "password",
        "quota_key",
        "role",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "stacktrace",
        "client_protocol_version",
        "enable_http_compression",
        "http_zlib_compression_level",
        "network_compression_method",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "http_response_buffer_size",
        "cancel_http_readonly_queries_on_client_close",
        "http_write_exception_in_output_format",
        "add_http_cors_header",
        "close_session",
    ]
)
LONGEST_QUERY = 4 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_FORMAT = re.compile(r"[A-Za-z0-9_]+\Z")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run, and how its answer is to be shaped."""

    statement: Statement
    database: str
    format: str
    """The output format in effect: the statement's, else the request's, else TabSeparated."""
    query_id: str
    compress: bool
    """The client allows a content coding on the answer."""
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


def read(pairs: Sequence[tuple[str, str]], headers: Mapping[str, str], body: bytes, *, method: str) -> Request:
    """Read a request; EngineError in ClickHouse's words when it can't be one. ``headers`` have lower-case names."""
    values = dict(pairs)
    if values.get("compress", "0") not in {"0", "false"} or values.get("decompress", "0") not in {"0", "false"}:
        raise refusal(48, "NOT_IMPLEMENTED", "Use Content-Encoding and Accept-Encoding, not compress or decompress")
    query = values.get("query", "").encode()
    if len(query) > LONGEST_QUERY:
        raise refusal(307, "TOO_MANY_BYTES", f"The query is longer than {LONGEST_QUERY} bytes")
    try:
        statement = split(query, body)
    except StatementError as error:
        raise EngineError(str(error)) from None
    if not statement.verb:
        raise refusal(62, "SYNTAX_ERROR", "Empty query")
    if method == "GET" and not statement.reads:
        raise refusal(
            164, "READONLY", "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly"
        )
    chosen = values.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated"
    if not _FORMAT.match(chosen):
        raise refusal(73, "UNKNOWN_FORMAT", f"Unknown format {chosen[:64]}")
    return Request(
        statement=statement,
        database=values.get("database") or headers.get("x-clickhouse-database") or "default",
        format=statement.format if statement.data is None and statement.format else chosen,
        query_id=values.get("query_id", ""),
        compress=values.get("enable_http_compression", "0") in {"1", "true"},
        settings={name: value for name, value in values.items() if _is_setting(name)},
        parameters={name[6:]: value for name, value in values.items() if name.startswith("param_")},
    )


def _is_setting(name: str) -> bool:
    if name in TRANSPORT or name.startswith("param_"):
        return False
    if not _NAME.match(name):
        raise refusal(115, "UNKNOWN_SETTING", f"Unknown setting '{name[:64]}'")
    return True


def quote(value: str) -> str:
    """A ClickHouse string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    """A ClickHouse identifier in backquotes."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
