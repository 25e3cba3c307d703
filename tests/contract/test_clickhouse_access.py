"""Whoever holds the embedded ClickHouse's secret may work on its tables, and reach nothing else of this machine.

Every source that the engine has is walked, not those that we thought of: a new build's new sources are tried too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from apps.telemetry.engine import access
from tests.clickhouse import ROOT, Engine

CANARY = "canary-in-a-file-of-mode-0600"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("clickhouse")) as found:
        secret = found.home / "secrets" / "mc_key_pepper"
        secret.parent.mkdir()
        secret.write_text(CANARY + "\n")
        # Where a client's words could name it without a path.
        (found.home / "clickhouse" / "data" / "user_files").mkdir(exist_ok=True)
        (found.home / "clickhouse" / "data" / "user_files" / "pepper").write_text(CANARY + "\n")
        found.query("CREATE DATABASE d")
        found.query("CREATE TABLE d.t (a String) ENGINE = MergeTree ORDER BY a")
        yield found


def say(engine: Engine, sql: str | bytes, **params: str) -> requests.Response:
    return requests.post(engine.url, data=sql, params={"database": "d", **params}, timeout=20)


def secret(engine: Engine) -> str:
    return str(engine.home / "secrets" / "mc_key_pepper")


def refused(answer: requests.Response, code: str = "497") -> bool:
    return answer.status_code in {400, 403} and answer.headers.get("X-ClickHouse-Exception-Code") == code


def names(engine: Engine, sql: str) -> list[str]:
    return engine.query(sql).splitlines()


def test_every_table_function_that_does_not_make_its_own_rows_is_refused(engine: Engine) -> None:
    everything = set(names(engine, "SELECT name FROM system.table_functions"))
    assert {"file", "url", "s3", "remote", "executable", "python", "sqlite", "filesystem", "eval"} <= everything
    served: list[str] = []
    for name in sorted(everything - set(access.TABLE_FUNCTIONS.split())):
        asked = (
            f"SELECT * FROM {name}('{secret(engine)}', 'LineAsString')",
            f"INSERT INTO FUNCTION {name}('/tmp/x', 'TSV', 'a String') SELECT 'x'",
            f"CREATE TABLE from_{name} AS {name}('{secret(engine)}', 'LineAsString')",
            f"DESCRIBE TABLE {name}('{secret(engine)}', 'LineAsString')",
            f"EXPLAIN SELECT * FROM `{name}` /* */ ('{secret(engine)}')",
            f"CREATE VIEW v_{name} AS SELECT * FROM {name.upper()}('{secret(engine)}')",
        )
        # 62: the one whose grammar wants something else there.
        served += [sql for sql in asked if not (refused(say(engine, sql)) or refused(say(engine, sql), "62"))]
    assert not served


def test_every_table_engine_but_those_of_local_tables_is_refused(engine: Engine) -> None:
    everything = set(names(engine, "SELECT name FROM system.table_engines"))
    assert {"File", "URL", "S3", "MySQL", "Kafka", "Executable", "Remote", "Distributed"} <= everything
    asked = [f"CREATE TABLE e (a String) ENGINE = {name}('{secret(engine)}')" for name in everything - access.ENGINES]
    asked += [f"CREATE TABLE e (a String) ENGINE = {name}" for name in everything - access.ENGINES]
    assert [sql for sql in asked if not refused(say(engine, sql))] == []


def test_every_database_engine_but_the_local_ones_is_refused(engine: Engine) -> None:
    everything = set(names(engine, "SELECT name FROM system.database_engines"))
    assert {"Filesystem", "MySQL", "S3", "SQLite"} <= everything
    asked = [f"CREATE DATABASE e ENGINE = {name}('{secret(engine)}')" for name in everything - access.ENGINES]
    assert [sql for sql in asked if not refused(say(engine, sql))] == []


def test_every_function_that_is_not_one_of_its_arguments_alone_is_refused(engine: Engine) -> None:
    rows = names(engine, "SELECT name, categories, is_aggregate, alias_to FROM system.functions")
    closed = [
        name
        for name, category, aggregate, alias in (row.split("\t") for row in rows)
        if aggregate == "0" and not alias and category not in access.FUNCTION_CATEGORIES
        if name not in access.FUNCTIONS.split()
    ]
    assert {"file", "dictGet", "aiGenerate", "showCertificate", "getMacro", "addressToLine"} <= set(closed)
    served = [name for name in closed if not refused(say(engine, f"SELECT {name}('x')"))]
    assert not served


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT file('{secret}')",
        "SELECT FILE('{secret}')",
        "SELECT file/**/('{secret}')",
        "SELECT `file`('{secret}')",
        "SELECT \"file\"('{secret}')",
        "SELECT `fi\\x6ce`('{secret}')",
        "SELECT $$'$$, file('{secret}'), ''",
        "SELECT $a$'$a$, file('{secret}') -- '",
        "SELECT '\\'', file('{secret}'), ''",
        "SELECT '''', file('{secret}'), ''",
        "SELECT # '\nfile('{secret}') # '",
        "SELECT “a”, file('{secret}') FROM (SELECT 1 AS a)",
        "WITH file('{secret}') AS x SELECT x",
        "SELECT * APPLY file FROM (SELECT '{secret}' AS a)",
        "SELECT * APPLY(file) FROM (SELECT '{secret}' AS a)",
        "SELECT * APPLY(x -> file(x)) FROM (SELECT '{secret}' AS a)",
        "SELECT COLUMNS('a') APPLY file FROM (SELECT '{secret}' AS a)",
        "SELECT arrayMap(x -> file(x), ['{secret}'])",
        "SELECT (SELECT file('{secret}'))",
        "SELECT 1 WHERE file('{secret}') != ''",
        "SELECT throwIf(1, file('{secret}'))",
        "SELECT * FROM view(SELECT file('{secret}'))",
        "SELECT * FROM (SELECT 1) AS a JOIN (SELECT file('{secret}') AS b) AS c ON 1",
        "EXPLAIN SELECT file('{secret}')",
        "CREATE VIEW v AS SELECT file('{secret}')",
        "CREATE MATERIALIZED VIEW v ENGINE = Memory AS SELECT file('{secret}') AS x FROM d.t",
        "CREATE TABLE n (a String DEFAULT file('{secret}')) ENGINE = Memory",
        "CREATE TABLE n (a String, b String ALIAS file('{secret}')) ENGINE = Memory",
        "CREATE TABLE n ENGINE = Memory AS SELECT file('{secret}') AS a",
        "ALTER TABLE d.t UPDATE a = file('{secret}') WHERE 1",
        "ALTER TABLE d.t ADD COLUMN b String DEFAULT file('{secret}')",
        "INSERT INTO d.t SELECT file('{secret}')",
        "DELETE FROM d.t WHERE a = file('{secret}')",
        "SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
        "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '{secret}:X'",
        "SELECT 1 SETTINGS max_threads = 1, format_schema = '{secret}'",
        "SELECT * FROM (SELECT 1 SETTINGS format_template_row = '{secret}') SETTINGS max_threads = 1",
        "SET format_template_row = '{secret}'",
        "SET max_threads = 1, url_base = 'http://127.0.0.1/'",
        "CREATE TABLE n (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/tmp/')",
        "CREATE TABLE n (a String) ENGINE = MergeTree ORDER BY a SETTINGS storage_policy = 'x'",
        "ALTER TABLE d.t MODIFY SETTING storage_policy = 'x'",
        "SELECT 1 INTO OUTFILE '/tmp/never'",
        "SELECT 1 INTO OUTFILE '/tmp/never' TRUNCATE FORMAT CSV",
        "INSERT INTO d.t FROM INFILE '{secret}' FORMAT LineAsString",
        "SELECT * FROM Python(body)",
        "SELECT * FROM Python /* */ (body)",
        "CREATE DICTIONARY x (a String) PRIMARY KEY a SOURCE(FILE(path '{secret}' format 'TSV')) LAYOUT(FLAT())",
        "CREATE FUNCTION f AS x -> file(x)",
        "CREATE USER mallory",
        "CREATE NAMED COLLECTION c AS url = 'x'",
        "GRANT ALL ON *.* TO default",
        "SET ROLE ALL",
        "EXECUTE AS default SELECT 1",
        "BACKUP TABLE d.t TO File('/tmp/never')",
        "RESTORE TABLE d.t FROM File('/tmp/never')",
        "ATTACH TABLE d.x FROM '/etc' (a String) ENGINE = MergeTree ORDER BY a",
        "DETACH TABLE d.t",
        "ALTER TABLE d.t FREEZE",
        "ALTER TABLE d.t ATTACH PARTITION ALL FROM d.t",
        "ALTER TABLE d.t FETCH PARTITION ALL FROM '/x'",
        "ALTER TABLE d.t MOVE PARTITION tuple() TO DISK 'x'",
        "CREATE TABLE n ON CLUSTER default (a String) ENGINE = Memory",
        "CREATE DATABASE e PARALLEL WITH SYSTEM SHUTDOWN",
        "SYSTEM SHUTDOWN",
        "SYSTEM KILL",
        "SYSTEM RELOAD CONFIG",
        "SYSTEM STOP MERGES",
        "SYSTEM FLUSH LOGS",
        "system/**/shutdown",
        "EXPLAIN SYSTEM SHUTDOWN",
        "KILL TRANSACTION WHERE 1",
    ],
)
def test_no_way_round_is_served(engine: Engine, sql: str) -> None:
    answer = say(engine, sql.replace("{secret}", secret(engine)))
    assert CANARY not in answer.text
    assert refused(answer) or refused(answer, "62"), (answer.status_code, answer.text)
    assert not Path("/tmp/never").exists()
    assert requests.get(f"{engine.address}/ready", timeout=5).status_code == 200


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM `{secret}`", "SELECT * FROM '{secret}'", "SELECT * FROM default.`{secret}`",
            "SELECT * FROM {{t:Identifier}}", "DESCRIBE TABLE `{secret}`", "INSERT INTO `/tmp/never` SELECT 1"]
)  # fmt: skip
def test_a_path_in_a_tables_place_is_refused_by_the_grants(engine: Engine, sql: str) -> None:
    answer = say(engine, sql.format(secret=secret(engine)), database="default", param_t=secret(engine))
    assert CANARY not in answer.text
    assert answer.status_code >= 400
    assert not Path("/tmp/never").exists()


def test_values_are_literals_in_which_nothing_is_called(engine: Engine) -> None:
    for sql in (
        f"INSERT INTO d.t VALUES (file('{secret(engine)}'))",
        f"INSERT INTO d.t FORMAT Values (file('{secret(engine)}'))",
        f"INSERT INTO d.t SETTINGS input_format_values_interpret_expressions = 1 VALUES (file('{secret(engine)}'))",
        "INSERT INTO d.t VALUES (concat('a', 'b'))",
    ):
        assert say(engine, sql).status_code >= 400, sql
    assert not say(engine, "INSERT INTO d.t VALUES ('x')", input_format_values_interpret_expressions="1").ok
    assert engine.query("SELECT count() FROM d.t") == "0"


@pytest.mark.parametrize(
    "name",
    ["format_schema", "format_template_row", "url_base", "storage_policy", "filesystem_cache_name",
     "allow_introspection_functions", "allow_experimental_eval_table_function", "input_format_record_errors_file_path",
     "output_format_schema", "format_avro_schema_registry_url", "dialect"],
)  # fmt: skip
def test_a_requests_settings_are_limits_and_formats_alone(engine: Engine, name: str) -> None:
    answer = say(engine, "SELECT 1", **{name: "1"})
    assert answer.status_code in {403, 404}, answer.text
    assert say(engine, "SELECT 1", max_threads="1", max_result_rows="10", session_timezone="UTC").ok


def test_work_on_tables_is_served(engine: Engine) -> None:
    for sql in (
        "CREATE TABLE d.w (a UInt64, b String, m Map(String, String)) ENGINE = ReplacingMergeTree ORDER BY a",
        "INSERT INTO d.w SELECT number, concat('x', toString(number)), map('k', 'v') FROM numbers(10)",
        "INSERT INTO d.w VALUES (11, 'y', {'k': 'v'})",
        "SELECT CASE WHEN a > 3 THEN 'x' ELSE b END, quantileIf(0.5)(a, a > 1) FROM d.w GROUP BY ALL",
        "SELECT sum(a) OVER (PARTITION BY b) FROM d.w",
        "SELECT a FROM d.w FINAL WHERE b LIKE 'x%' AND a NOT IN (1, 2) LIMIT 1 BY b SETTINGS max_threads = 1",
        "WITH 1 AS one SELECT one, format('{} {}', 'a', 'b'), if(1, replace('a', 'a', 'b'), left('x', 1))",
        "ALTER TABLE d.w ADD COLUMN c UInt8 DEFAULT 1, MODIFY COMMENT 'x'",
        "ALTER TABLE d.w MODIFY SETTING ttl_only_drop_parts = 1",
        "ALTER TABLE d.w DELETE WHERE a = 5",
        "CREATE VIEW d.v AS SELECT a FROM d.w",
        "EXPLAIN indexes = 1 SELECT * FROM d.w WHERE a = 1",
        "DESCRIBE TABLE d.w",
        "SHOW CREATE TABLE d.w",
        "EXISTS TABLE d.w",
        "CHECK TABLE d.w",
        "OPTIMIZE TABLE d.w FINAL",
        "SELECT * FROM merge('d', '^w$')",
        "SELECT name, value FROM system.settings",
        "RENAME TABLE d.w TO d.w2",
        "TRUNCATE TABLE d.w2",
        "DROP VIEW d.v",
        "DROP TABLE d.w2",
    ):
        answer = say(engine, sql)
        assert answer.ok, (sql, answer.text)


def test_a_reading_statement_changes_nothing_whatever_it_says(engine: Engine) -> None:
    assert engine.query("SELECT getSetting('readonly')") == "2"
    assert not say(engine, "SELECT 1 SETTINGS readonly = 0").ok


GRANTS = """
import json, pathlib, sys
from apps.telemetry.engine import config
from apps.telemetry.engine.embedded import Embedded

home, names = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
engine = Embedded(home, config.Limits())
connection = engine._open()
raw = connection._conn
done = []
for sql in names:
    try:
        done.append([sql, raw.query(sql, "TSV", params={}).bytes().decode(), True])
    except RuntimeError as error:
        done.append([sql, str(error), False])
print(json.dumps(done))
sys.stdout.flush()
"""


def test_the_engines_grants_refuse_sources_and_system_statements_by_themselves(tmp_path: Path) -> None:
    """Past the parser: the engine is asked directly."""
    path = tmp_path / "secret"
    path.write_text(CANARY)
    asked = [
        f"SELECT * FROM file('{path}', 'LineAsString')",
        f"SELECT * FROM `{path}`",
        f"SELECT * FROM filesystem('{path}')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM remote('127.0.0.1:1', system.one)",
        "SELECT * FROM s3('http://127.0.0.1:1/bucket/x', 'TSV', 'a String')",
        "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
        "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
        "SELECT * FROM mongodb('127.0.0.1:1', 'd', 'c', 'u', 'p', 'a String')",
        "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String, v String')",
        f"SELECT * FROM sqlite('{path}', 't')",
        "SELECT * FROM executable('id', 'TSV', 'a String')",
        "CREATE DATABASE e",
        f"CREATE TABLE e.t (a String) ENGINE = File(TSV, '{path}')",
        "CREATE TABLE e.t (a String) ENGINE = URL('http://127.0.0.1:1/', TSV)",
        f"CREATE DATABASE f ENGINE = Filesystem('{tmp_path}')",
        "SELECT 1 SETTINGS format_schema = 'x'",
        "SELECT 1 SETTINGS input_format_values_interpret_expressions = 1",
        "CREATE USER mallory",
        "CREATE FUNCTION f AS x -> x",
        "BACKUP DATABASE e TO File('/tmp/never')",
        "SYSTEM RELOAD CONFIG",
        "SYSTEM FLUSH LOGS",
        "SYSTEM SHUTDOWN",
        "SYSTEM KILL",
    ]
    argv = [sys.executable, "-c", GRANTS, str(tmp_path / "home"), json.dumps(asked)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == len(asked)
    assert CANARY not in done.stdout
    assert [sql for sql, _, worked in answers if worked] == ["CREATE DATABASE e"]
