"""What one ClickHouse statement is: its verb, its output format, and where an INSERT's data begins.

Pure. Reads only as much grammar as the HTTP interface needs (comments, quotes, brackets, a few
keywords); the engine itself parses and judges the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a statement that is no blank and no comment."""

    kind: str
    """word, quoted, open, close or other."""
    word: str
    """In upper case, of a word; else empty."""
    raw: bytes
    start: int = 0
    end: int = 0


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
    """All of it, or for an INSERT with data what precedes SETTINGS and FORMAT, or VALUES."""
    format: str | None = None
    """The format named by the statement: of the result, or of ``data``."""
    data: bytes | None = None
    """What an INSERT brings; None when the statement is none, or selects what it inserts."""
    local: bool = False
    """It changes its connection (SET, USE, temporary tables), which without a session must not outlive it."""
    settings: str = ""
    """The SETTINGS clause of an INSERT with data."""

    @property
    def reads(self) -> bool:
        """It returns rows and changes nothing."""
        return self.verb in READS


def split(query: bytes, body: bytes) -> Statement:
    """Cut a request into statement and data. ``query`` is the URL parameter, ``body`` the POST body that follows it.

    ClickHouse reads the one and then the other; so an INSERT may name its format in either.
    VALUES is a format like others: rows of literals, in which nothing is called.
    Raises StatementError for several statements at once.
    """
    head = query or body
    verb, marks = _scan(head)
    tail = body if query else b""
    if verb == "INSERT" and marks.format_at is not None:
        cut = marks.format_at if marks.settings_at is None else marks.settings_at
        data = head[marks.data_at :] + tail
        settings = _text(head[cut : marks.format_at])
        return Statement(verb, _text(head[:cut]), marks.format, data, settings=settings)
    if verb == "INSERT" and tail and not marks.selects:
        # ``INSERT INTO t`` and a body: the server's default input format is Values.
        return Statement(verb, _text(head), "Values", tail)
    if tail:
        head = head + b"\n" + tail
        verb, marks = _scan(head)
    return Statement(verb, _text(head), marks.format, None, verb in {"SET", "USE"} or marks.temporary)


@dataclass(slots=True)
class _Marks:
    """What a scan noticed at the outermost level."""

    format: str | None = None
    format_at: int | None = None
    """Where an INSERT's FORMAT or VALUES stands; None when it brings no data."""
    data_at: int = 0
    settings_at: int | None = None
    """Where an INSERT's SETTINGS stand."""
    selects: bool = False
    temporary: bool = False


def _scan(text: bytes) -> tuple[str, _Marks]:
    verb, marks, tail = "", _Marks(), _Tail()
    depth, previous = 0, ""
    for token in tokens(text):
        kind, word, end = token.kind, token.word, token.end
        depth = max(0, depth + (kind == "open") - (kind == "close"))
        verb = verb or word or token.raw.decode("latin-1")
        if depth == 0 and kind == "word":
            marks.selects |= word in {"SELECT", "WITH", "WATCH"}
            marks.temporary |= word == "TEMPORARY"
            if verb == "INSERT" and marks.selects:
                break
            if verb == "INSERT" and word == "VALUES":
                marks.format, marks.format_at, marks.data_at = "Values", token.start, end
                break
            if word == "SETTINGS" and previous not in {"INTO", "TABLE", "."}:
                marks.settings_at = token.start
        tail.see(kind, word if depth == 0 else "", token.raw, token.start)
        if verb == "INSERT" and tail.name:
            marks.format, marks.format_at, marks.data_at = tail.name, tail.at, _data_start(text, end)
            break
        previous = word or token.raw.decode("latin-1")
    else:
        marks.format = tail.name
    return verb, marks


class _Tail:
    """Watches for ``FORMAT name`` at a statement's end, where only SETTINGS may follow it.

    ``SELECT 1 AS format FROM t`` holds the word too; what comes after tells the two apart.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.at = 0
        self._wanted = False
        self._settled = False

    def see(self, kind: str, word: str, raw: bytes, start: int) -> None:
        if self._settled:
            return
        if self.name is not None and word == "SETTINGS":
            self._settled = True
        elif word == "FORMAT":
            self.name, self._wanted, self.at = None, True, start
        elif self._wanted and kind == "word":
            self.name, self._wanted = raw.decode(), False
        else:
            self.name, self._wanted = None, False


def tokens(text: bytes) -> Iterator[Token]:
    """Every token that is no blank or comment; StatementError when a second statement begins."""
    position, limit, ended = 0, min(len(text), LONGEST_HEAD), False
    while position < limit:
        match = _TOKEN.match(text, position)
        if match is None:
            return
        start, position = match.span()
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        if ended:
            raise StatementError(62, "SYNTAX_ERROR", "Multi-statements are not allowed.")
        if kind == "end":
            ended = True
            continue
        raw = match.group()
        yield Token(kind, raw.decode().upper() if kind == "word" else "", raw, start, position)


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
