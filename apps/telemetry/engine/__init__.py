"""The embedded ClickHouse: chdb in its own process, behind ClickHouse's own HTTP interface."""
