"""Serve Plotly from its own Python package: one file, under the name ``vendor/plotly.min.js``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

NAME = "plotly.min.js"


class PlotlyFinder(BaseFinder):
    """Finds the one file without importing the package (which would cost a second)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        spec = find_spec("plotly")
        folder = Path(next(iter(spec.submodule_search_locations or ()))) / "package_data" if spec else Path()
        self.storage = FileSystemStorage(location=folder)
        self.storage.prefix = "vendor"  # type: ignore[attr-defined]
        super().__init__(*args, **kwargs)

    def check(self, **kwargs: Any) -> list[Any]:
        return []

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        wanted = bool(kwargs.get("all", find_all))
        if path != f"vendor/{NAME}":
            return [] if wanted else None
        return [self.storage.path(NAME)] if wanted else self.storage.path(NAME)

    def list(self, ignore_patterns: Any) -> Iterator[tuple[str, Any]]:
        yield NAME, self.storage
