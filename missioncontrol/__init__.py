"""The composition root: every process is put together here."""

VERSION = "0.1.0"
