"""From rows to the document that workers serve, and from two documents to what changed.

Owns the translation and the digest. Takes rows (anything with their attributes) and gives values;
it asks neither the database nor the clock.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from apps.gateway.core import config
from apps.gateway.core.config import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

SECTIONS = {
    "services": "service",
    "routes": "route",
    "rate_limits": "rate limit",
    "consumers": "consumer",
    "keys": "key",
    "issuers": "issuer",
}
"""The document's members and what one of each is called."""


def document(
    *,
    services: Iterable[Any],
    routes: Iterable[Any],
    rate_limits: Iterable[Any],
    consumers: Iterable[Any],
    keys: Iterable[Any],
    issuers: Iterable[Any],
) -> config.Document:
    """The document of these rows, checked, with its digest, as revision 0; ConfigError when it doesn't hold.

    A service row carries ``instances``, ``policy`` and ``override`` (the last two may be None).
    """
    made = config.Document(
        revision=0,
        created_at=0.0,
        services=tuple(service(row) for row in services),
        routes=tuple(route(row) for row in routes),
        rate_limits=tuple(rate_limit(row) for row in rate_limits),
        consumers=tuple(consumer(row) for row in consumers),
        keys=tuple(key(row) for row in keys),
        issuers=tuple(issuer(row) for row in issuers),
    )
    config.check(made)
    return msgspec.structs.replace(made, digest=digest(made))


def digest(made: config.Document) -> str:
    """Hex SHA-256 of the content: revision, time and digest left out."""
    content = msgspec.structs.replace(made, revision=0, created_at=0.0, digest="")
    return hashlib.sha256(config.encode(content)).hexdigest()


def service(row: Any) -> config.Service:
    policy, override = row.policy, row.override
    values: dict[str, Any] = {
        "name": row.name,
        "fleet": row.fleet,
        "instances": [
            {"name": instance.name, "url": instance.url.rstrip("/"), "weight": instance.weight}
            for instance in row.instances
        ],
    }
    chosen = None
    if policy is not None:
        values |= _take(policy, "balance", "connect_timeout", "idle_connections", "panic_threshold", "max_in_flight")
        values["outlier"] = _take(policy, *_members(config.Outlier))
        chosen = policy.breaker
    values["breaker"] = {} if chosen is None else _take(chosen, *_members(config.Breaker, "override"))
    values["breaker"]["override"] = None if override is None else override.state
    return _convert(values, config.Service, f"Service {row.name}")


def route(row: Any) -> config.Route:
    values = _take(row, *_members(config.Route, "service", "rate_limit"))
    values["service"] = row.service.name
    values["rate_limit"] = None if row.rate_limit is None else row.rate_limit.name
    return _convert(values, config.Route, f"Route {row.name}")


def rate_limit(row: Any) -> config.RateLimit:
    return _convert(_take(row, *_members(config.RateLimit)), config.RateLimit, f"Rate limit {row.name}")


def consumer(row: Any) -> config.Consumer:
    values = {
        "name": row.name,
        "rate_limit": None if row.rate_limit is None else row.rate_limit.name,
        **_take(row, "enabled", "groups", "subjects"),
    }
    return _convert(values, config.Consumer, f"Consumer {row.name}")


def key(row: Any) -> config.Key:
    values = {
        "hash": row.hash,
        "prefix": row.prefix,
        "consumer": row.consumer.name,
        "expires_at": None if row.expires_at is None else row.expires_at.timestamp(),
        "scopes": row.scopes,
        "revoked": row.revoked_at is not None,
    }
    return _convert(values, config.Key, f"Key {row.prefix}")


def issuer(row: Any) -> config.Issuer:
    return _convert(_take(row, *_members(config.Issuer)), config.Issuer, f"Issuer {row.name}")


def _members(struct: type[msgspec.Struct], *without: str) -> list[str]:
    return [name for name in struct.__struct_fields__ if name not in without]


def _take(row: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _convert(values: dict[str, Any], struct: type[S], what: str) -> S:
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.(\w+)", str(error))
        raise ConfigError(f"{what}: {error}.", found.group(1) if found else "") from None


def differences(old: config.Document | None, new: config.Document) -> list[dict[str, Any]]:
    """What changed, as ``{"kind", "name", "change": added|removed|changed, "fields": {name: [old, new]}}``.

    ``fields`` is there for a change alone. A key goes by its prefix; its hash stays out.
    """
    found: list[dict[str, Any]] = []
    for section, kind in SECTIONS.items():
        before = {} if old is None else {_name(item): item for item in getattr(old, section)}
        after = {_name(item): item for item in getattr(new, section)}
        found += [{"kind": kind, "name": name, "change": "added"} for name in after if name not in before]
        found += [{"kind": kind, "name": name, "change": "removed"} for name in before if name not in after]
        for name, item in after.items():
            if name in before and before[name] != item:
                fields = _fields(_plain(before[name]), _plain(item))
                found.append({"kind": kind, "name": name, "change": "changed", "fields": fields})
    return found


def _name(item: Any) -> str:
    return str(item.prefix if isinstance(item, config.Key) else item.name)


def _plain(item: msgspec.Struct) -> dict[str, Any]:
    """As JSON has it: lists for tuples, so that a change reads the same now and from the database."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(item))
    return found


def _fields(old: dict[str, Any], new: dict[str, Any], path: str = "") -> dict[str, list[Any]]:
    changed: dict[str, list[Any]] = {}
    for name in new:
        if old.get(name) == new[name] or (not path and name == "hash"):
            continue
        if isinstance(new[name], dict) and isinstance(old.get(name), dict):
            changed |= _fields(old[name], new[name], f"{path}{name}.")
        else:
            changed[path + name] = [old.get(name), new[name]]
    return changed


def summary(changes: list[dict[str, Any]], limit: int = 500) -> str:
    """The changes as one line for a person, cut with a count of the rest."""
    if not changes:
        return "Nothing changed"
    parts = [_sentence(change) for change in changes]
    line = "; ".join(parts)
    shown = len(parts)
    while len(line) > limit and shown > 1:
        shown -= 1
        line = "; ".join(parts[:shown]) + f"; and {len(parts) - shown} more"
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _sentence(change: dict[str, Any]) -> str:
    noun = f"{change['kind']} {change['name']}"
    fields = change.get("fields")
    if not fields:
        return f"{noun} {change['change']}"
    told = ", ".join(f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in fields.items())
    return f"{noun}: {told}"


def _shown(value: Any) -> str:
    if value is None or value in ([], ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items() if item) or "as by default"
    if isinstance(value, list):
        return ", ".join(
            f"{item.get('name')} {item.get('url', '')}".strip() if isinstance(item, dict) else str(item)
            for item in value
        )
    return str(value)
