"""The seam between whoever has events and the broker that carries them: see ``base``.

Each broker's module is imported only when a URL names it (``connect``), so that its driver is needed by nobody else.
"""
