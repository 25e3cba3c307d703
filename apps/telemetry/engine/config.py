"""The embedded engine's configuration: memory, background work and what a query may do. Pure: makes the XML.

The one user (its password is asked for by the interface before us) is granted what telemetry needs: no source
of files, URLs or programs, no SYSTEM statement. What grants don't cover is refused in access.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

MIB = 1024 * 1024

GRANTS = (
    "SELECT, INSERT, SHOW, CHECK, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, DROP DATABASE, "
    "DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE, KILL QUERY, ALTER UPDATE, ALTER DELETE, ALTER COLUMN, ALTER INDEX, "
    "ALTER PROJECTION, ALTER CONSTRAINT, ALTER TTL, ALTER MATERIALIZE TTL, ALTER SETTINGS, "
    "ALTER MODIFY COMMENT, ALTER VIEW ON *.*"
)
FIXED = {
    # Else ``INSERT … VALUES (f(…))`` calls any function, in data that no one judges.
    "input_format_values_interpret_expressions": 0,
    "input_format_values_deduce_templates_of_expressions": 0,
    "format_schema": "",
    "format_template_resultset": "",
    "format_template_row": "",
    "allow_experimental_eval_table_function": 0,
    "allow_introspection_functions": 0,
}
"""Settings that no request changes: they would reach files, or call what access.py doesn't see."""
LONGEST_QUERY = 256 * 1024
"""Bytes of one statement, without an INSERT's data."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may use. Bytes and seconds."""

    memory: int = 1200 * MIB
    """Of the whole engine; past it queries fail with MEMORY_LIMIT_EXCEEDED, and inserts are refused for a retry."""
    query_memory: int = 700 * MIB
    result: int = 256 * MIB
    query_seconds: int = 30
    threads: int = 2
    free: int = 100 * MIB
    """Left free on the disk: inserts are refused (NOT_ENOUGH_SPACE) before they meet its end half-way."""
    fsync: bool = False
    """fsync every part: safe over a power cut, at some milliseconds an insert. ``kill -9`` does not need it."""


def profile(limits: Limits) -> dict[str, int | str]:
    """The settings of every query unless its request says otherwise."""
    return {
        "max_threads": limits.threads,
        "max_memory_usage": limits.query_memory,
        "max_bytes_before_external_group_by": limits.query_memory // 2,
        "max_bytes_before_external_sort": limits.query_memory // 2,
        "max_execution_time": limits.query_seconds,
        "max_result_bytes": limits.result,
        "max_insert_threads": 1,
        # Only an insert that asks for it, by a token, is compared with those before it.
        "insert_deduplicate": 0,
        "deduplicate_insert": "backward_compatible_choice",
        # The views' output is grouped already, and merges build the skip indexes of what lives long enough.
        "optimize_on_insert": 0,
        "materialize_skip_indexes_on_insert": 0,
        "input_format_parallel_parsing": 0,
        "log_queries": 0,
        "use_uncompressed_cache": 0,
        "compile_expressions": 0,
        "compile_aggregate_expressions": 0,
        "compile_sort_description": 0,
        # A statement is first asked about, as one long literal in another (embedded.py).
        "max_query_size": 4 * LONGEST_QUERY,
    }


def users_xml(limits: Limits) -> str:
    """users.xml: one profile, one user, its grants."""
    settings = "".join(f"<{name}>{value}</{name}>" for name, value in (profile(limits) | FIXED).items())
    fixed = "".join(f"<{name}><const/></{name}>" for name in FIXED)
    return (
        f"<clickhouse><profiles><default>{settings}<constraints>{fixed}</constraints></default></profiles>"
        "<users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile>"
        f"<quota>default</quota><grants><query>GRANT {GRANTS}</query></grants></default></users>"
        "<quotas><default/></quotas></clickhouse>\n"
    )


def config_xml(limits: Limits, users_file: str) -> str:
    """config.xml: caches and pools small enough for a machine that also runs everything else."""
    values = {
        "users_config": escape(users_file),
        "max_server_memory_usage": limits.memory,
        "mark_cache_size": 64 * MIB,
        "primary_index_cache_size": 32 * MIB,
        "index_mark_cache_size": 16 * MIB,
        "query_condition_cache_size": 16 * MIB,
        "compiled_expression_cache_size": MIB,
        "mmap_cache_size": 64,
        # Asked every 50 ms by default, which is most of what an idle engine spends.
        "memory_worker_period_ms": 1000,
        "background_pool_size": 2,
        "background_merges_mutations_concurrency_ratio": 1,
        "background_schedule_pool_size": 2,
        "max_thread_pool_size": 256,
        "max_thread_pool_free_size": 16,
    }
    tree = {
        # Small parts arrive several times a second; merged soon, and dropped soon after that.
        "old_parts_lifetime": 60,
        "merge_selecting_sleep_ms": 2000,
        # Every merge rewrites its rows. Wide merges with a ceiling rewrite a row two or three times, not five.
        "min_parts_to_merge_at_once": 4,
        "max_bytes_to_merge_at_max_space_in_pool": 1024 * MIB,
        "min_bytes_for_wide_part": 64 * MIB,
        "number_of_free_entries_in_pool_to_lower_max_size_of_merge": 1,
        "number_of_free_entries_in_pool_to_execute_mutation": 1,
        "number_of_free_entries_in_pool_to_execute_optimize_entire_partition": 1,
        "min_free_disk_bytes_to_perform_insert": limits.free,
        "fsync_after_insert": int(limits.fsync),
        "fsync_part_directory": int(limits.fsync),
    }
    return (
        "<clickhouse>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
        # LZ4 (the default) while parts are young and soon rewritten; ZSTD once they are large and here to stay.
        + f"<compression><case><min_part_size>{64 * MIB}</min_part_size><min_part_size_ratio>0</min_part_size_ratio>"
        + "<method>zstd</method><level>1</level></case></compression>"
        + "<merge_tree>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in tree.items())
        + "</merge_tree></clickhouse>\n"
    )
