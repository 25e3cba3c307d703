"""Telemetry's tables: ordered SQL files, and the runner that applies each once."""
