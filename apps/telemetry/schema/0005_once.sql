-- An insert that comes again under the same insert_deduplication_token is stored once, in its table and in the views
-- over it: each of them remembers the tokens of its last inserts. (Replicated tables do so by themselves.)
ALTER TABLE otel_traces MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_traces_trace_id_ts MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_red_10s MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_red_1m MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_edge_10s MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_edge_1m MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_metrics_gauge MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_metrics_sum MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_metrics_histogram MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_metrics_exponential_histogram MODIFY SETTING non_replicated_deduplication_window = 1000;
ALTER TABLE otel_metrics_summary MODIFY SETTING non_replicated_deduplication_window = 1000;
