"""What Mission Control needs of a ClickHouse, over HTTP: the embedded engine passes it, and so does a real server.

Give CLICKHOUSE_URL to run the same suite against a server.
"""

from __future__ import annotations

import gzip
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
import requests
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from apps.telemetry.schema import runner

embedded_only = pytest.mark.skipif(bool(os.environ.get("CLICKHOUSE_URL")), reason="guards of the embedded engine alone")


@pytest.fixture
def database(clickhouse_url: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    requests.post(clickhouse_url, data=f"CREATE DATABASE {name}", timeout=10).raise_for_status()
    yield name
    requests.post(clickhouse_url, data=f"DROP DATABASE {name}", timeout=10).raise_for_status()


@pytest.fixture
def client(clickhouse_url: str, database: str) -> Iterator[Client]:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, autogenerate_session_id=False)
    client.database = database
    client.command("CREATE TABLE t (a UInt64, s LowCardinality(String), m Map(LowCardinality(String), String)) "
                   "ENGINE = MergeTree ORDER BY a")  # fmt: skip
    yield client
    client.close()


def post(url: str, sql: str | bytes, **options: Any) -> requests.Response:
    return requests.post(url, data=sql, timeout=10, **options)


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_rows_go_in_and_come_out_the_same_under_every_compression(
    clickhouse_url: str, database: str, client: Client, compress: str | bool
) -> None:
    with clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress, database=database) as packed:
        sent = [[number, f"name {number % 7}", {"key": "näme\n'\\"}] for number in range(5000)]
        summary = packed.insert("t", sent, column_names=["a", "s", "m"])
        assert summary.written_rows == 5000
        back = packed.query("SELECT a, s, m FROM t ORDER BY a").result_rows
    assert [list(row) for row in back] == sent


def test_arrow_goes_in_and_comes_out(client: Client) -> None:
    table = pa.table({"a": pa.array([1, 2], pa.uint64()), "s": ["x", "y"]})
    client.insert_arrow("t", table)
    back = client.query_arrow("SELECT a, s, m FROM t ORDER BY a")
    assert back["a"].to_pylist() == [1, 2]
    assert back["s"].to_pylist() == ["x", "y"]
    assert back["m"].to_pylist() == [[], []]


def test_parameters_carry_any_text(client: Client) -> None:
    nasty = "'; DROP TABLE t; -- \\ \n\t\0 é {x:String} "
    for size in (1, 1000):  # the long one travels as a form
        answer = client.query(
            "SELECT {x:String}, length({l:Array(String)})", parameters={"x": nasty * size, "l": [nasty]}
        )
        assert answer.result_rows == [(nasty * size, 1)]


def test_settings_hold_for_one_request_only(client: Client) -> None:
    ask = "SELECT getSetting('max_block_size')"
    before = client.query(ask).first_row[0]
    assert client.query(ask, settings={"max_block_size": 777}).first_row[0] == 777
    assert [client.query(ask).first_row[0] for _ in range(8)] == [before] * 8


def test_the_database_of_a_request_does_not_stick(clickhouse_url: str, database: str) -> None:
    ask = "SELECT currentDatabase()"
    assert post(f"{clickhouse_url}/?database={database}", ask).text == f"{database}\n"
    assert post(clickhouse_url, ask).text == "default\n"


@pytest.mark.parametrize(
    ("sql", "code", "status"),
    [
        ("SELECT nope", 47, 404),
        ("SELECT * FROM no_such_table", 60, 404),
        ("SELEC 1", 62, 400),
        ("SELECT sleep(3) SETTINGS max_execution_time = 0.2", 159, 408),
        ("SELECT throwIf(1)", 395, 500),
        ("SELECT 1; SELECT 2", 62, 400),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115, 404),
        ("", 62, 400),
    ],
)
def test_errors_carry_clickhouses_code_and_status(
    clickhouse_url: str, database: str, sql: str, code: int, status: int
) -> None:
    answer = post(f"{clickhouse_url}/?database={database}", sql)
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
    assert answer.status_code == status


def test_a_failed_insert_stores_nothing_and_leaves_the_next_alone(
    client: Client, clickhouse_url: str, database: str
) -> None:
    url = f"{clickhouse_url}/?database={database}"
    for bad in (b"INSERT INTO t (a) FORMAT Native\n" + os.urandom(300), b'INSERT INTO t FORMAT JSONEachRow {"a":"x"}'):
        assert post(url, bad).status_code >= 400
    with pytest.raises(DatabaseError):
        client.insert("t", [[1]], column_names=["no_such_column"], column_type_names=["UInt8"])
    assert client.query("SELECT count() FROM t").first_row[0] == 0
    client.insert("t", [[1]], column_names=["a"])
    assert client.query("SELECT count() FROM t").first_row[0] == 1


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("CREATE MATERIALIZED VIEW v TO u AS SELECT a + throwIf(a = 9) AS a FROM t", 395),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK a < 9", 469),
        ("DROP TABLE t; CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a PARTITION BY a % 1000", 252),
    ],
    ids=["a view that fails", "a constraint", "too many partitions"],
)
def test_an_insert_that_fails_late_is_never_acknowledged(
    client: Client, clickhouse_url: str, database: str, statement: str, code: int
) -> None:
    client.command("CREATE TABLE u (a UInt64) ENGINE = MergeTree ORDER BY a")
    for one in statement.split("; "):
        client.command(one)
    rows = b"".join(b"%d\n" % number for number in range(300))
    answer = post(f"{clickhouse_url}/?database={database}", b"INSERT INTO t (a) FORMAT TSV\n" + rows)
    assert answer.headers.get("X-ClickHouse-Exception-Code") == str(code), answer.text
    assert client.query("SELECT count() FROM u").first_row[0] == 0


def test_settings_of_an_insert_hold(clickhouse_url: str, database: str, client: Client) -> None:
    url = f"{clickhouse_url}/?database={database}"
    quick = b"INSERT INTO t (a) SETTINGS input_format_csv_allow_variable_number_of_columns = 1 FORMAT CSV\n1,2,3\n"
    assert post(url, quick).status_code == 200
    assert post(url, b"INSERT INTO t (a) FORMAT CSV\n1,2,3\n").status_code == 400
    assert client.query("SELECT a FROM t").result_rows == [(1,)]


def test_an_insert_may_name_its_format_in_the_url_or_in_the_body(
    clickhouse_url: str, database: str, client: Client
) -> None:
    url = f"{clickhouse_url}/?database={database}"
    row = b'{"a": 5, "s": "FORMAT", "m": {"k": "v"}}'
    assert post(url, b"INSERT INTO t FORMAT JSONEachRow\n" + row).ok
    assert post(url, row, params={"query": "INSERT INTO t FORMAT JSONEachRow"}).ok
    assert post(url, b"INSERT INTO t VALUES (5, 'FORMAT', {'k': 'v'})").ok
    assert post(url, b"(5, 'FORMAT', {'k': 'v'})", params={"query": "INSERT INTO t VALUES"}).ok
    assert post(url, b"INSERT /* FORMAT Native */ INTO t SELECT 5, 'FORMAT', map('k', 'v')").ok
    assert client.query("SELECT a, s, m FROM t").result_rows == [(5, "FORMAT", {"k": "v"})] * 5


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("lz4", lz4.frame.compress), ("zstd", zstandard.compress)]
)
def test_bodies_may_be_packed(clickhouse_url: str, database: str, client: Client, coding: str, pack: Any) -> None:
    body = pack(b"INSERT INTO t (a) FORMAT TSV\n" + b"7\n" * 1000)
    answer = post(f"{clickhouse_url}/?database={database}", body, headers={"Content-Encoding": coding})
    assert answer.status_code == 200, answer.text
    assert client.query("SELECT count(), min(a) FROM t").first_row == (1000, 7)


def test_headers_tell_format_query_id_and_summary(clickhouse_url: str) -> None:
    answer = post(f"{clickhouse_url}/?query_id=mine&wait_end_of_query=1", "SELECT 1 AS x FORMAT JSONCompact")
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    assert answer.headers["X-ClickHouse-Format"] == "JSONCompact"
    assert answer.headers["X-ClickHouse-Timezone"]
    assert '"read_rows":"1"' in answer.headers["X-ClickHouse-Summary"]
    assert answer.json()["data"] == [[1]]
    assert post(f"{clickhouse_url}/?default_format=CSV", "SELECT 'a'").text == '"a"\n'


def test_get_only_reads(clickhouse_url: str, database: str) -> None:
    url = f"{clickhouse_url}/?database={database}"
    assert requests.get(url, params={"query": "SELECT 1"}, timeout=10).text == "1\n"
    refused = requests.get(url, params={"query": "CREATE TABLE x (a UInt8) ENGINE = Memory"}, timeout=10)
    assert refused.headers["X-ClickHouse-Exception-Code"] == "164"
    assert requests.get(f"{clickhouse_url}/ping", timeout=10).text == "Ok.\n"


def test_the_schema_applies_once_and_refuses_a_changed_file(client: Client, database: str) -> None:
    names = [file.name for file in runner.files()]
    assert runner.apply(client, database) == names
    assert runner.apply(client, database) == []
    changed = [runner.read(names[0], "CREATE TABLE IF NOT EXISTS other (a UInt8) ENGINE = Memory")]
    with pytest.raises(runner.SchemaError, match=names[0]):
        runner.apply(client, database, changed)
    # A runner killed after a file's statements and before its note runs them again, harmlessly.
    client.command("TRUNCATE TABLE mc_migrations")
    assert runner.apply(client, database) == names


def test_rollups_count_every_span_once_whatever_the_batches(client: Client, database: str) -> None:
    runner.apply(client, database)
    now = int(time.time()) // 10 * 10
    for batch in range(4):
        client.command(
            "INSERT INTO otel_traces "
            "(Timestamp, TraceId, SpanId, SpanName, SpanKind, ServiceName, Duration, StatusCode) "
            "SELECT fromUnixTimestamp64Nano(toInt64({now:UInt32}) * 1000000000 + number), toString(number % 10), "
            "toString(number), 'op', 'Server', 'svc', pow(10, number % 9), if(number % 5 = 0, 'Error', 'Unset') "
            f"FROM numbers({batch * 100}, 100)",
            parameters={"now": now},
        )
    for table in ("otel_red_10s", "otel_red_1m"):
        total, errors, duration = client.query(
            f"SELECT sum(Count), sumIf(Count, IsError = 1), sum(DurationSum) FROM {table}"
        ).first_row
        assert (total, errors) == (400, 80)
        assert duration == sum(10 ** (number % 9) for number in range(400))
    bucket, log_bucket = client.query(
        "SELECT min(Bucket), toUInt16(floor(log(100000000) / log(1.1))) FROM otel_red_10s "
        "WHERE DurationSum >= 100000000"
    ).first_row
    assert bucket == log_bucket
    traces = client.query(
        "SELECT TraceId, sum(Spans), sum(Errors) FROM otel_traces_trace_id_ts GROUP BY TraceId"
    ).result_rows
    assert len(traces) == 10
    assert {spans for _, spans, _ in traces} == {40}


@embedded_only
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8123"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_is_refused(clickhouse_url: str, headers: dict[str, str]) -> None:
    assert post(clickhouse_url, "SELECT 1", headers=headers).status_code == 403


@embedded_only
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT 1 INTO OUTFILE '/tmp/never'",
        "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
        "SELECT * FROM Python(body)",
        "CREATE TABLE f (a String) ENGINE = File(TSV, '/tmp/never')",
        "CREATE USER mallory",
        "SELECT * FROM executable('id', 'TSV', 'a String')",
    ],
)
def test_files_programs_and_addresses_are_out_of_reach(clickhouse_url: str, sql: str) -> None:
    answer = post(clickhouse_url, sql)
    assert answer.status_code >= 400
    assert answer.headers["X-ClickHouse-Exception-Code"] != "0"


@embedded_only
def test_a_body_past_the_bounds_is_413_packed_or_not(clickhouse_url: str) -> None:
    bomb = gzip.compress(bytes(300 * 1024 * 1024), compresslevel=1)
    assert post(clickhouse_url, bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    declared = requests.Request("POST", clickhouse_url, data=b"SELECT 1").prepare()
    declared.headers["Content-Length"] = str(10**9)
    with requests.Session() as session:
        assert session.send(declared, timeout=10).status_code == 413


@embedded_only
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content-Encoding": "gzip"}, 400), ({"Content-Encoding": "br"}, 501), ({"Content-Encoding": "zstd"}, 400)],
)
def test_broken_and_unknown_codings_are_refused(clickhouse_url: str, headers: dict[str, str], status: int) -> None:
    assert post(clickhouse_url, b"SELECT 1", headers=headers).status_code == status


@embedded_only
def test_health_and_ready_answer(clickhouse_url: str) -> None:
    body = requests.get(f"{clickhouse_url}/health", timeout=5).json()
    assert body["status"] == "ok"
    assert body["service"] == "clickhouse"
    assert body["uptime_s"] >= 0
    assert requests.get(f"{clickhouse_url}/ready", timeout=5).status_code == 200
    assert requests.get(f"{clickhouse_url}/nowhere", timeout=5).status_code == 404
    assert requests.delete(clickhouse_url, timeout=5).status_code == 405
