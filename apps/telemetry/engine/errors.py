"""ClickHouse's error codes as HTTP statuses, and the engine's own refusals in ClickHouse's words. Pure.

The statuses are those of a real server (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp).
"""

from __future__ import annotations

import re

_STATUS = {
    400: (6, 26, 27, 33, 36, 38, 41, 42, 43, 44, 50, 53, 62, 69, 72, 117, 130, 131, 321, 386, 456, 457),
    401: (194,),
    403: (192, 193, 497, 516),
    404: (46, 47, 60, 63, 73, 78, 80, 81, 115, 277),
    408: (159,),
    413: (307, 619),
    501: (48,),
    503: (202, 209, 439),
}
STATUS = {code: status for status, codes in _STATUS.items() for code in codes}
_CODE = re.compile(r"Code: (\d+)\.")
_VERSION = re.compile(r" \(version [^)]*\)\s*$")


class EngineError(Exception):
    """The engine, or the interface in its name, refused; ``text`` is what a ClickHouse server would write."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        found = _CODE.search(text)
        self.code = int(found.group(1)) if found else 1001

    @property
    def status(self) -> int:
        """The HTTP status that a ClickHouse server gives this code."""
        return STATUS.get(self.code, 500)

    @classmethod
    def from_chdb(cls, message: str, version: str) -> EngineError:
        """chdb's message, without what chdb wraps around it, with the version that a server appends."""
        start = message.find("Code: ")
        body = message[start:] if start >= 0 else f"Code: 1001. DB::Exception: {message} (STD_EXCEPTION)"
        return cls(f"{_VERSION.sub('', body.strip())} (version {version})")


def refusal(code: int, name: str, message: str) -> EngineError:
    """A refusal of the interface itself."""
    return EngineError(f"Code: {code}. DB::Exception: {message} ({name})")
