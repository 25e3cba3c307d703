-- Rate, errors and duration, kept as counts by time, labels and a log-scale latency bucket, so that no
-- chart scans spans. Bucket b holds durations from 1.1^b to 1.1^(b+1) nanoseconds; a quantile read at its
-- geometric middle is off by 4.9% at most (apps/telemetry/quantiles.py). Sums of counts merge exactly on
-- any cluster, where quantile sketches would need the same build everywhere.
CREATE TABLE IF NOT EXISTS otel_red_10s
(
    Time DateTime CODEC(Delta(4), Default),
    ServiceName LowCardinality(String),
    SpanKind LowCardinality(String),
    IsError UInt8,
    Bucket UInt16,
    Count UInt64 CODEC(T64, Default),
    DurationSum UInt64 CODEC(T64, Default)
)
ENGINE = SummingMergeTree
PARTITION BY toDate(Time)
ORDER BY (Time, ServiceName, SpanKind, IsError, Bucket)
TTL Time + toIntervalDay(7)
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_red_10s_mv TO otel_red_10s AS
SELECT
    toStartOfInterval(toDateTime(Timestamp), INTERVAL 10 SECOND) AS Time,
    ServiceName,
    SpanKind,
    toUInt8(StatusCode = 'Error') AS IsError,
    toUInt16(log2(greatest(Duration, 1)) / log2(1.1)) AS Bucket,
    count() AS Count,
    sum(Duration) AS DurationSum
FROM otel_traces
GROUP BY Time, ServiceName, SpanKind, IsError, Bucket;

-- The same by operation and minute, kept longer: what a service's page breaks down.
CREATE TABLE IF NOT EXISTS otel_red_1m
(
    Time DateTime CODEC(Delta(4), Default),
    ServiceName LowCardinality(String),
    SpanKind LowCardinality(String),
    SpanName LowCardinality(String),
    IsError UInt8,
    Bucket UInt16,
    Count UInt64 CODEC(T64, Default),
    DurationSum UInt64 CODEC(T64, Default)
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(Time)
ORDER BY (ServiceName, SpanKind, Time, SpanName, IsError, Bucket)
TTL Time + toIntervalDay(90)
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_red_1m_mv TO otel_red_1m AS
SELECT
    toStartOfMinute(toDateTime(Timestamp)) AS Time,
    ServiceName,
    SpanKind,
    SpanName,
    toUInt8(StatusCode = 'Error') AS IsError,
    toUInt16(log2(greatest(Duration, 1)) / log2(1.1)) AS Bucket,
    count() AS Count,
    sum(Duration) AS DurationSum
FROM otel_traces
WHERE SpanKind IN ('Server', 'Consumer')
GROUP BY Time, ServiceName, SpanKind, SpanName, IsError, Bucket;
