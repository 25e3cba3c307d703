"""Chaos, counted in the open: events go through every broker while the parts that carry them are killed.

``python -m tests.chaos`` (``make chaos``) runs it and prints a table; ``tests/wire/test_chaos.py`` is a small run of
the same. What it shows: nothing accepted is lost, each key keeps its order, each effect happens once, and what was
parked is handled when its cause is gone.
"""
