"""The collector: OTLP in, ClickHouse out. No Django here."""
