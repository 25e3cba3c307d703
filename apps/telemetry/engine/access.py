"""What a statement may do: work on tables of this engine, and reach no file, program, address or other server. Pure.

The engine's grants say so too; here it is decided before anything runs, by lists of what is allowed. What is read
is never the client's own text but the engine's rewriting of it (``formatQuerySingleLine``), in which comments,
escapes, exotic quotes and here-documents are gone: both sides can't but see the same statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from apps.telemetry.engine.errors import EngineError, refusal
from apps.telemetry.engine.statement import Token, tokens

VERBS = {
    "SELECT": (),
    "WITH": (),
    "(": (),
    "EXPLAIN": (),
    "DESCRIBE": (),
    "EXISTS": (),
    "CHECK": (),
    "SHOW": (),
    "INSERT": (),
    "DELETE": (),
    "UPDATE": (),
    "TRUNCATE": (),
    "OPTIMIZE": (),
    "USE": (),
    "SET": (),
    "ALTER": ("TABLE",),
    "CREATE": ("DATABASE", "TABLE", "VIEW", "MATERIALIZED"),
    "DROP": ("DATABASE", "TABLE", "VIEW"),
    "RENAME": ("TABLE", "DATABASE"),
    "EXCHANGE": ("TABLES",),
    "KILL": ("QUERY", "MUTATION"),
}
"""A statement's first word, and of what (empty: of anything). Not SYSTEM, BACKUP, ATTACH, GRANT, EXECUTE AS …"""

PREFIXES = {"OR", "REPLACE", "TEMPORARY"}
EXPLAINS = {"AST", "SYNTAX", "QUERY", "TREE", "PLAN", "PIPELINE", "ESTIMATE"}
ALTERS = {"ADD", "DROP", "MODIFY", "DELETE", "UPDATE", "CLEAR", "RENAME", "COMMENT", "MATERIALIZE", "REMOVE", "RESET"}
"""Not ATTACH, FETCH, FREEZE, MOVE, EXPORT: those take parts from, or put them into, other places."""
PAIRS = {("INTO", "OUTFILE"), ("FROM", "INFILE"), ("ON", "CLUSTER"), ("PARALLEL", "WITH")}
"""Files of a client, other servers, and a second statement in the shadow of the first."""

ENGINES = {
    "Atomic",
    "Memory",
    "Null",
    "View",
    "MaterializedView",
    *(f"{kind}MergeTree" for kind in ("", "Aggregating", "Collapsing", "Replacing", "Summing", "VersionedCollapsing")),
}
TABLE_FUNCTIONS = (
    "format generate_series generateRandom generateSeries merge null numbers numbers_mt values view zeros zeros_mt"
)
"""Those that make their rows themselves, or read tables of this engine."""

FUNCTION_CATEGORIES = {
    "Aggregate Functions", "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times",
    "Distance", "Encoding", "Encryption", "Financial", "Geo", "Geo Polygon", "Hash", "IP Address", "JSON", "Logical",
    "Map", "Mathematical", "Null", "NumericIndexedVector", "QBit", "Random Number", "Rounding", "String",
    "String Replacement", "String Search", "String Splitting", "Time Series", "Time Window", "Tuple", "Type Conversion",
    "URL", "UUID",
}  # fmt: skip
"""Functions of their arguments alone, by the engine's own sorting. Closed are AI, Dictionary, Introspection, Machine
Learning, Other and whatever a later engine adds."""
FUNCTIONS = (
    "_CAST bar blockNumber blockSize byteSize caseWithExpression connectionId countDigits currentDatabase "
    "currentQueryID currentUser defaultValueOfArgumentType defaultValueOfTypeName digits displayName "
    "errorCodeToName finalizeAggregation formatQuery formatQueryOrNull formatQuerySingleLine "
    "formatQuerySingleLineOrNull formatReadableDecimalSize formatReadableQuantity formatReadableSize "
    "formatReadableTimeDelta getSetting getSettingOrDefault getSubcolumn hostName identity ignore indexHint "
    "initializeAggregation initialQueryID isConstant isDecimalOverflow lowCardinalityIndices lowCardinalityKeys "
    "materialize neighbor nested normalizedQueryHash normalizeQuery parseReadableSize parseReadableSizeOrNull "
    "parseReadableSizeOrZero parseTimeDelta partitionId queryID revision rowNumberInAllBlocks rowNumberInBlock "
    "runningAccumulate runningDifference runningDifferenceStartingWithFirstValue sleep throwIf toColumnTypeName "
    "toTypeName transform uptime variantElement variantType version visibleWidth"
)
"""The harmless ones of the closed categories. ``file``, for one, reads any file that this process can."""

SETTING_PREFIXES = (
    *("max_", "min_", "optimize_", "group_by_", "join_", "insert_", "deduplicate_"),
    *("input_format_csv_", "input_format_json_"),
    *(f"output_format_{kind}_" for kind in ("csv", "json", "native", "pretty")),
)
SETTINGS = (
    "allow_nullable_key async_insert cast_string_to_dynamic_use_inference date_time_input_format "
    "date_time_output_format distinct_overflow_mode extremes final index_granularity index_granularity_bytes "
    "input_format_null_as_default input_format_skip_unknown_fields lightweight_deletes_sync log_comment "
    "materialize_ttl_after_modify merge_with_ttl_timeout mutations_sync non_replicated_deduplication_window "
    "old_parts_lifetime output_format_arrow_string_as_string parts_to_delay_insert parts_to_throw_insert "
    "prefer_column_name_to_alias read_overflow_mode readonly result_overflow_mode session_timezone "
    "sort_overflow_mode timeout_overflow_mode ttl_only_drop_parts use_skip_indexes wait_for_async_insert"
)
"""What a request may set: limits, formats of text, how tables keep their parts; never a path, a disk or an address."""


@dataclass(frozen=True, slots=True)
class Known:
    """What this engine has and a client may not use, in lower case. What the engine doesn't know it refuses itself."""

    functions: frozenset[str]
    settings: frozenset[str]


def known(
    functions: Iterable[tuple[str, str, str, int]], table_functions: Iterable[str], settings: Iterable[str]
) -> Known:
    """From the engine's own lists. ``functions``: name, the name it is an alias of, category, 1 for an aggregate."""
    rows = list(functions)
    harmless = {name.lower() for name in f"{FUNCTIONS} {TABLE_FUNCTIONS}".split()}
    harmless |= {name.lower() for name, _, category, aggregate in rows if aggregate or category in FUNCTION_CATEGORIES}
    harmless |= {name.lower() for name, alias, _, _ in rows if alias.lower() in harmless}
    everything = {name.lower() for name, *_ in rows} | {name.lower() for name in table_functions}
    return Known(frozenset(everything - harmless), frozenset(name for name in settings if not _may_set(name)))


def _may_set(name: str) -> bool:
    return name in SETTINGS.split() or name.startswith(SETTING_PREFIXES)


def judge(text: str, engine: Known) -> EngineError | None:
    """Why the statement, as the engine rewrote it, is refused; None when it may run."""
    found = list(tokens(text.encode()))
    if why := _verb(found) or _inside(found, engine):
        return refusal(497, "ACCESS_DENIED", f"The embedded engine does not serve {why}")
    return None


def judge_settings(names: Iterable[str], engine: Known) -> EngineError | None:
    """The same of a request's settings."""
    for name in names:
        if name in engine.settings:
            return refusal(497, "ACCESS_DENIED", f"The embedded engine does not let requests set {name}")
    return None


def _verb(found: list[Token]) -> str:
    words = [token.word or token.raw.decode(errors="replace") for token in found[:8]]
    first = words[0] if words else ""
    if first not in VERBS:
        return f"{first[:40]} statements"
    rest = [word for word in words[1:] if word not in PREFIXES]
    if VERBS[first] and (not rest or rest[0] not in VERBS[first]):
        return f"{first} {rest[0][:40] if rest else ''}"
    if first == "SET" and (len(words) < 3 or words[2] != "="):
        return "roles"
    if first == "EXPLAIN":
        return _explain(found)
    return _alter(found) if first == "ALTER" else ""


def _explain(found: list[Token]) -> str:
    """Past the kind and its options there must be a query, or an insert."""
    for token, after in pairwise(found[1:]):
        if token.word and token.word not in EXPLAINS and after.raw != b"=":
            return "" if token.word in {"SELECT", "WITH", "INSERT"} else f"EXPLAIN {token.word[:40]}"
    return "this EXPLAIN"


def _alter(found: list[Token]) -> str:
    depth = 0
    for token, after in pairwise(found):
        depth += (token.kind == "open") - (token.kind == "close")
        if token.kind == "open" and depth == 1 and after.word not in ALTERS:
            return f"ALTER TABLE … {after.word[:40]}"
    return ""


def _inside(found: list[Token], engine: Known) -> str:
    nothing = Token("end", "", b"")
    around = [nothing, nothing, *found, nothing]
    depth, clauses = 0, set[int]()
    for one, before, token, after in zip(around, around[1:], around[2:], around[3:], strict=False):
        depth += (token.kind == "open") - (token.kind == "close")
        clauses = {clause for clause in clauses if clause <= depth}
        if (before.word, token.word) in PAIRS:
            return f"{before.word} {token.word}"
        name = _name(token)
        if not name:
            continue
        called = after.raw == b"(" or before.word == "APPLY"
        if called and ("\\" in name or name.lower() in engine.functions):
            return f"the function {name[:40]}"
        if one.word == "ENGINE" and before.raw == b"=" and name not in ENGINES:
            return f"the engine {name[:40]}"
        if token.word in {"SETTINGS", "SETTING"} or (token.word == "SET" and before is nothing):
            clauses.add(depth)
        elif depth in clauses and after.raw == b"=" and name in engine.settings and _starts_a_setting(before):
            return f"the setting {name[:40]}"
    return ""


def _starts_a_setting(before: Token) -> bool:
    return before.raw == b"," or before.word in {"SETTINGS", "SETTING", "SET"}


def _name(token: Token) -> str:
    """Of an identifier, quoted or not; a quoted one with an escape keeps it, and is no function of ours."""
    if token.kind == "word":
        return token.raw.decode()
    return token.raw[1:-1].decode() if token.kind == "quoted" and token.raw[:1] in b'`"' else ""
