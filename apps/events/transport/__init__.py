"""The seam between Mission Control and the broker that carries its events: see ``base``."""
