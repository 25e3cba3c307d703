"""Static files under hashed names, the imports between our own ES modules included.

Only files below ``js/`` are rewritten: what other packages ship is served as they made it.
"""

from __future__ import annotations

from typing import Any

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(CompressedManifestStaticFilesStorage):
    """An unchanged page loads nothing anew; a changed module changes the name of every module that imports it."""

    patterns: Any = (
        *CompressedManifestStaticFilesStorage.patterns,
        (
            "js/*.js",
            (
                (
                    r"""(?P<matched>import(?s:(?P<import>[\s\{].*?|\*\s*as\s*\w+))\s*from\s*['"](?P<url>[./].*?)["']\s*;)""",
                    """import%(import)s from "%(url)s";""",
                ),
                (
                    r"""(?P<matched>import\s*['"](?P<url>[./].*?)["']\s*;)""",
                    """import"%(url)s";""",
                ),
            ),
        ),
    )
