-- What the gateway answered, as it counted it (apps/gateway/core/edge.py): every request, sampled or not, by
-- service, route, consumer, status and failure, in the buckets of an OTLP exponential histogram of scale 3.
-- Empty names are requests that had none. A point without buckets says only that its gateway lives: Newest
-- tells readers how old what they see is. A gateway whose clock is ahead counts as now.
-- SimpleAggregateFunction, because a SummingMergeTree drops the rows whose sums are zero.
CREATE TABLE IF NOT EXISTS otel_edge_10s
(
    Time DateTime CODEC(Delta(4), Default),
    Service LowCardinality(String),
    Route LowCardinality(String),
    Consumer LowCardinality(String),
    Status UInt16,
    Failure LowCardinality(String),
    Bucket Int16,
    Count SimpleAggregateFunction(sum, UInt64) CODEC(T64, Default),
    Newest SimpleAggregateFunction(max, DateTime64(3))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(Time)
ORDER BY (Time, Service, Route, Consumer, Status, Failure, Bucket)
TTL Time + toIntervalDay(7)
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_edge_10s_mv TO otel_edge_10s AS
SELECT
    toStartOfInterval(toDateTime(least(TimeUnix, now64(9))), INTERVAL 10 SECOND) AS Time,
    Attributes['mc.service'] AS Service,
    Attributes['mc.route'] AS Route,
    Attributes['mc.consumer'] AS Consumer,
    toUInt16OrZero(Attributes['http.response.status_code']) AS Status,
    Attributes['error.type'] AS Failure,
    toInt16(PositiveOffset + Place) AS Bucket,
    sum(Counted) AS Count,
    max(toDateTime64(least(TimeUnix, now64(9)), 3)) AS Newest
FROM otel_metrics_exponential_histogram
LEFT ARRAY JOIN PositiveBucketCounts AS Counted, range(length(PositiveBucketCounts)) AS Place
WHERE MetricName = 'mc.gateway.request.duration' AND Scale = 3 AND AggregationTemporality = 1
    AND (Counted > 0 OR empty(PositiveBucketCounts))
GROUP BY Time, Service, Route, Consumer, Status, Failure, Bucket;

-- The same by minute, kept longer: what pages read over more than two hours.
CREATE TABLE IF NOT EXISTS otel_edge_1m
(
    Time DateTime CODEC(Delta(4), Default),
    Service LowCardinality(String),
    Route LowCardinality(String),
    Consumer LowCardinality(String),
    Status UInt16,
    Failure LowCardinality(String),
    Bucket Int16,
    Count SimpleAggregateFunction(sum, UInt64) CODEC(T64, Default),
    Newest SimpleAggregateFunction(max, DateTime64(3))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(Time)
ORDER BY (Time, Service, Route, Consumer, Status, Failure, Bucket)
TTL Time + toIntervalDay(90)
SETTINGS ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_edge_1m_mv TO otel_edge_1m AS
SELECT
    toStartOfMinute(toDateTime(least(TimeUnix, now64(9)))) AS Time,
    Attributes['mc.service'] AS Service,
    Attributes['mc.route'] AS Route,
    Attributes['mc.consumer'] AS Consumer,
    toUInt16OrZero(Attributes['http.response.status_code']) AS Status,
    Attributes['error.type'] AS Failure,
    toInt16(PositiveOffset + Place) AS Bucket,
    sum(Counted) AS Count,
    max(toDateTime64(least(TimeUnix, now64(9)), 3)) AS Newest
FROM otel_metrics_exponential_histogram
LEFT ARRAY JOIN PositiveBucketCounts AS Counted, range(length(PositiveBucketCounts)) AS Place
WHERE MetricName = 'mc.gateway.request.duration' AND Scale = 3 AND AggregationTemporality = 1
    AND (Counted > 0 OR empty(PositiveBucketCounts))
GROUP BY Time, Service, Route, Consumer, Status, Failure, Bucket;
