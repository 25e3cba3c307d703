"""Policies of a route, a file each; ``order`` has them all."""
