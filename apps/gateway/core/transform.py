"""Header fields set, added and removed on the way, for one route and one direction. Pure.

What may be changed at all is apps.gateway.core.fields' to say, and was checked when the document was read.
"""

from __future__ import annotations

from collections.abc import Mapping

from apps.gateway.core.config import Route
from apps.gateway.core.fields import Template
from apps.gateway.core.headers import plain


class _Plain(dict[bytes, bytes]):
    """A field's name as it was sent → as it is told from others; learns spellings, up to a bound."""

    def __missing__(self, name: bytes) -> bytes:
        found = plain(name)
        if len(self) < 1024 and len(name) < 64:
            self[name] = found
        return found


_PLAIN = _Plain()


class Change:
    """What happens to the fields of a message, ready for one run over its lines."""

    __slots__ = ("_gone", "_lines", "_open")

    def __init__(self, put: Mapping[str, str], add: Mapping[str, str], remove: tuple[str, ...]) -> None:
        """``put`` in place of what is there under that name, ``add`` beside it, ``remove`` it."""
        self._gone = frozenset(plain(name.encode()) for name in (*put, *remove))
        fields = [(name.encode(), Template(value)) for name, value in (*put.items(), *add.items())]
        self._lines = [b"%b: %b" % (name, value.literal) for name, value in fields if value.literal is not None]
        self._open = tuple((name, value) for name, value in fields if value.literal is None)

    def __bool__(self) -> bool:
        return bool(self._gone or self._lines or self._open)

    @property
    def open(self) -> bool:
        """Something in it is told by the request: ``fill`` is called as well."""
        return bool(self._open)

    def apply(self, lines: list[bytes]) -> list[bytes]:
        """``lines`` with the change made, but for what ``fill`` adds.

        What is there under a name that is set goes, however it is spelt: a service may read ``X_Tenant`` as
        ``X-Tenant``. And it goes even when there is nothing to set, as nobody is known to call or the value would be no
        field text: a client's word never stands where the gateway's should.
        """
        gone, name_of = self._gone, _PLAIN
        kept = [line for line in lines if name_of[line.partition(b":")[0]] not in gone] if gone else lines.copy()
        kept += self._lines
        return kept

    def fill(self, lines: list[bytes], consumer: str, request_id: str) -> None:
        """Add to ``lines`` what was left open."""
        for name, template in self._open:
            if template.needs_consumer and not consumer:
                continue
            value = template.fill(consumer, request_id)
            if value is not None:
                lines.append(b"%b: %b" % (name, value))


def in_words(route: Route) -> str:
    """What changes, for a person; empty when nothing does."""
    headers = route.policies.headers
    if headers is None:
        return ""
    told = []
    for side in ("request", "response"):
        put, add, remove = (getattr(headers, f"{side}_{what}") for what in ("set", "add", "remove"))
        parts = [f"sets {', '.join(put)}"] if put else []
        parts += [f"adds {', '.join(add)}"] if add else []
        parts += [f"removes {', '.join(remove)}"] if remove else []
        if parts:
            told.append(f"{side}: {', '.join(parts)}")
    return "; ".join(told)
