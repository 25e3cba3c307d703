"""mint: balances, kept by double entry from the transactions that covenant records."""
