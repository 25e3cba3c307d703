"""Policies as forms and the API show them: read from the document's own structs, so that a new policy has both at once.

Knows the shapes under apps.gateway.core.config.Policies and no policy by name. What a policy's settings may be is the
struct's to say, and ``read`` asks it; the kinds here only choose how a member is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import msgspec.inspect as shapes

from apps.gateway import bounds
from apps.gateway.core import config

Kind = Literal["flag", "whole", "number", "text", "choice", "words", "fields"]


@dataclass(frozen=True, slots=True)
class Member:
    """One setting of a policy."""

    name: str
    title: str
    help: str
    kind: Kind
    default: Any
    optional: bool
    """None is a value of it."""
    validators: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """One policy."""

    name: str
    title: str
    help: str
    members: tuple[Member, ...]


class Wrong(ValueError):
    """These settings are none. ``policy`` and ``member`` say where, as far as that is known."""

    def __init__(self, policy: str, member: str, message: str) -> None:
        super().__init__(message)
        self.policy = policy
        self.member = member


def members(struct: type[msgspec.Struct]) -> tuple[Member, ...]:
    """The settings of a policy, in the order in which they are declared."""
    kind = shapes.type_info(struct)
    assert isinstance(kind, shapes.StructType)  # noqa: S101 - holds for every Struct
    return tuple(_member(struct, field) for field in kind.fields)


def _member(struct: type[msgspec.Struct], field: shapes.Field) -> Member:
    told: dict[str, Any] = {}
    kind = field.type
    if isinstance(kind, shapes.Metadata):
        told, kind = kind.extra_json_schema or {}, kind.type
    options = kind.types if isinstance(kind, shapes.UnionType) else (kind,)
    plain = [option for option in options if not isinstance(option, shapes.NoneType)]
    how, choices = _kind(plain[0])
    return Member(
        name=field.name,
        title=told.get("title", field.name.replace("_", " ").capitalize()),
        help=told.get("description", ""),
        kind=how,
        default=field.default_factory() if field.default is msgspec.NODEFAULT else field.default,
        optional=len(plain) < len(options),
        validators=tuple(bounds.validators(struct, field.name)),
        choices=choices,
    )


def _kind(kind: shapes.Type) -> tuple[Kind, tuple[str, ...]]:
    """How a type is asked for; LookupError for one that no form has a field for yet."""
    if isinstance(kind, shapes.LiteralType):
        return "choice", tuple(str(value) for value in kind.values)
    simple: tuple[tuple[type, Kind], ...] = (
        (shapes.BoolType, "flag"),
        (shapes.IntType, "whole"),
        (shapes.FloatType, "number"),
        (shapes.StrType, "text"),
        (shapes.VarTupleType, "words"),
        (shapes.DictType, "fields"),
    )
    for shape, how in simple:
        if isinstance(kind, shape):
            return how, ()
    raise LookupError(f"No form has a field for {kind}: add one to apps.gateway.described.")


def _described() -> tuple[Described, ...]:
    kind = shapes.type_info(config.Policies)
    assert isinstance(kind, shapes.StructType)  # noqa: S101 - holds for every Struct
    found = []
    for field in kind.fields:
        assert isinstance(field.type, shapes.UnionType)  # noqa: S101 - each may be left out
        of = next(option for option in field.type.types if isinstance(option, shapes.StructType))
        title = field.name.replace("_", " ").capitalize()
        about = (of.cls.__doc__ or "").partition(" (")[0].partition("\n")[0]
        found.append(Described(field.name, title, about, members(of.cls)))
    return tuple(found)


POLICIES = _described()
"""In the order in which ``Policies`` declares them."""


def read(given: Any) -> dict[str, Any]:
    """Settings by policy in their normal form, defaults filled in; those that are None are left out. Wrong when they
    do not hold."""
    try:
        found = msgspec.convert(given, config.Policies)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return {name: settings for name, settings in plain.items() if settings is not None}


def _wrong(message: str) -> Wrong:
    """The struct's words: ``sentence - at `$.policy.member```, or ``member: sentence`` from a rule of its own."""
    sentence, _, path = message.partition(" - at `$.")
    policy, _, member = path.rstrip("`").partition(".")
    own = re.match(r"(\w+): ", sentence)
    if own is not None and not member:
        member, sentence = own[1], sentence[own.end() :]
    member = re.split(r"[.\[]", member)[0]
    return Wrong(policy, member, f"{sentence[:1].upper()}{sentence[1:]}.".replace("`", "'"))
