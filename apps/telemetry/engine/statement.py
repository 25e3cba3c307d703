"""What one ClickHouse statement is: its verb, its output format, and where an INSERT's data begins.

Pure. Reads only as much grammar as the HTTP interface needs (comments, quotes, brackets, a few
keywords); the engine itself parses and judges the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

READS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "FROM", "("})
"""Verbs that return rows and change nothing: what a GET may do."""
LONGEST_HEAD = 1024 * 1024
"""Bytes of a request searched for an INSERT's FORMAT clause."""

_TOKEN = re.compile(
    rb"""
      (?P<space>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    | (?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<end>;)
    | (?P<other>[0-9][A-Za-z0-9_.]*|.)
    """,
    re.VERBOSE | re.DOTALL,
)


class StatementError(ValueError):
    """The statement is one that this interface refuses; ``code`` and ``name`` are ClickHouse's."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message} ({name})")
        self.code = code
        self.name = name


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, cut where the engine needs it cut."""

    verb: str
    """Upper case; empty for an empty statement."""
    sql: str
    """All of it, or for a streamed INSERT what precedes FORMAT."""
    format: str | None = None
    """The format named by the statement: of the result, or of ``data``."""
    data: bytes | None = None
    """What a streamed INSERT brings; None when the statement is not one."""
    local: bool = False
    """It changes its connection (SET, USE, temporary tables), which without a session must not outlive it."""

    @property
    def reads(self) -> bool:
        """It returns rows and changes nothing."""
        return self.verb in READS


def split(query: bytes, body: bytes) -> Statement:
    """Cut a request into statement and data. ``query`` is the URL parameter, ``body`` the POST body that follows it.

    ClickHouse reads the one and then the other; so an INSERT may name its format in either.
    Raises StatementError for several statements at once and for reading or writing files.
    """
    head = query or body
    verb, marks = _scan(head)
    tail = body if query else b""
    if verb == "INSERT" and marks.format_at is not None:
        return Statement(verb, _text(head[: marks.format_at]), marks.format, head[marks.data_at :] + tail)
    if verb == "INSERT" and tail and not marks.values and not marks.selects:
        # ``INSERT INTO t`` and a body: the server's default input format is Values.
        return Statement(verb, _text(head), "Values", tail)
    if tail:
        head = head + b"\n" + tail
        verb, marks = _scan(head)
    return Statement(verb, _text(head), marks.format, None, verb in {"SET", "USE"} or marks.temporary)


@dataclass(slots=True)
class _Marks:
    format: str | None = None
    format_at: int | None = None
    data_at: int = 0
    values: bool = False
    selects: bool = False
    temporary: bool = False


def _scan(text: bytes) -> tuple[str, _Marks]:
    verb, marks, depth, ended = "", _Marks(), 0, False
    position, previous, want_format = 0, "", False
    limit = min(len(text), LONGEST_HEAD)
    while position < limit:
        match = _TOKEN.match(text, position)
        if match is None:
            break
        start, position = position, match.end()
        kind = match.lastgroup
        if kind == "space":
            continue
        if ended:
            raise StatementError(62, "SYNTAX_ERROR", "Multi-statements are not allowed.")
        if kind == "end":
            ended = depth == 0
            continue
        if kind == "open":
            depth += 1
            verb = verb or match.group().decode()
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "word":
            word = match.group().decode().upper()
            verb = verb or word
            if want_format:
                marks.format, want_format = match.group().decode(), False
                if verb == "INSERT":
                    marks.data_at = _data_start(text, position)
                    return verb, marks
            elif word == "PYTHON" and text[position : position + 1] == b"(":
                raise StatementError(497, "ACCESS_DENIED", "The Python table function is not served over HTTP.")
            elif depth == 0:
                _note(word, previous, marks, start)
                want_format = word == "FORMAT" and marks.format_at == start
                if verb == "INSERT" and (marks.values or marks.selects):
                    return verb, marks
            previous = word
            continue
        else:
            verb = verb or "?"
        previous, want_format = "", False
    return verb, marks


def _note(word: str, previous: str, marks: _Marks, start: int) -> None:
    if word in {"OUTFILE", "INFILE"} and previous in {"INTO", "FROM"}:
        raise StatementError(48, "NOT_IMPLEMENTED", f"{previous} {word} is for clickhouse-client, not for a server.")
    if word == "FORMAT":
        marks.format_at = start
    elif word == "VALUES":
        marks.values = True
    elif word in {"SELECT", "WITH", "WATCH"}:
        marks.selects = True
    elif word == "TEMPORARY":
        marks.temporary = True


def _data_start(text: bytes, position: int) -> int:
    """Past the blanks after the format's name and one line end, as ClickHouse's parser does."""
    while position < len(text) and text[position : position + 1] in (b" ", b"\t", b"\r"):
        position += 1
    if text[position : position + 1] in (b"\n", b";"):
        position += 1
    return position


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError:
        raise StatementError(62, "SYNTAX_ERROR", "Syntax error: the query is not valid UTF-8.") from None
