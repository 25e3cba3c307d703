-- Spans, under the names of the OpenTelemetry Collector's ClickHouse exporter, so that anything that
-- reads its tables (Grafana's plugin above all) reads these.
--
-- The order differs from the exporter's on purpose: second first. Spans arrive nearly in time order, so
-- parts hardly overlap, an insert has little to sort, "newest first" reads stop early, and a trace whose
-- seconds are known (otel_traces_trace_id_ts) is a granule or two. Charts never read this table: see 0002.
-- Codecs are the server's default (its <compression> section), where the exporter writes ZSTD(1).
CREATE TABLE IF NOT EXISTS otel_traces
(
    Timestamp DateTime64(9) CODEC(Delta(8), Default),
    TraceId String,
    SpanId String,
    ParentSpanId String,
    TraceState String,
    SpanName LowCardinality(String),
    SpanKind LowCardinality(String),
    ServiceName LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String),
    ScopeName String,
    ScopeVersion String,
    SpanAttributes Map(LowCardinality(String), String),
    Duration UInt64 CODEC(T64, Default),
    StatusCode LowCardinality(String),
    StatusMessage String,
    Events Nested
    (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ),
    Links Nested
    (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ),
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
ORDER BY (toDateTime(Timestamp), ServiceName, SpanName)
TTL toDateTime(Timestamp) + toIntervalDay(7)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

-- One row a trace once merged: where its spans lie in time (the exporter's columns) and what a list of
-- traces shows. Rows not yet merged add up the same way, so readers always GROUP BY TraceId.
CREATE TABLE IF NOT EXISTS otel_traces_trace_id_ts
(
    TraceId String,
    Start SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta(8), Default),
    End SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta(8), Default),
    Spans SimpleAggregateFunction(sum, UInt64) CODEC(T64, Default),
    Errors SimpleAggregateFunction(sum, UInt64) CODEC(T64, Default),
    RootName SimpleAggregateFunction(max, String),
    RootService SimpleAggregateFunction(max, String),
    Services SimpleAggregateFunction(groupUniqArrayArray, Array(String)),
    Day Date
)
ENGINE = AggregatingMergeTree
PARTITION BY Day
ORDER BY TraceId
TTL Day + toIntervalDay(8)
SETTINGS index_granularity = 1024, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_traces_trace_id_ts_mv TO otel_traces_trace_id_ts AS
SELECT
    TraceId,
    min(Timestamp) AS Start,
    max(Timestamp + toIntervalNanosecond(Duration)) AS End,
    count() AS Spans,
    countIf(StatusCode = 'Error') AS Errors,
    max(if(ParentSpanId = '', SpanName, '')) AS RootName,
    max(if(ParentSpanId = '', ServiceName, '')) AS RootService,
    groupUniqArray(toString(ServiceName)) AS Services,
    toDate(Start) AS Day
FROM otel_traces
GROUP BY TraceId;
