"""covenant: an append-only ledger of transactions, each sealed by the hash of the one before it."""
