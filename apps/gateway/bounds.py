"""Django validators read from the document's own structs, so that a form, the API and a worker refuse alike.

Knows the shapes in apps.gateway.core.config and nothing of models.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import msgspec.inspect as shapes
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator

SMALLEST = 0.001
"""What "more than 0" means for a duration or a rate: a millisecond, a tenth of a per cent."""


def finite(value: float) -> None:
    """Refuse infinity and not-a-number, which compare as neither too small nor too large."""
    if not math.isfinite(value):
        raise ValidationError("This must be a number.")


def validators(struct: type[msgspec.Struct], name: str) -> list[Any]:
    """The validators of member ``name`` of ``struct``."""
    kind = _bare(_member(struct, name).type)
    options = kind.types if isinstance(kind, shapes.UnionType) else (kind,)
    found: list[Any] = []
    for option in options:
        if isinstance(option, shapes.IntType | shapes.FloatType):
            if isinstance(option, shapes.FloatType):
                found.append(finite)
            low = option.ge if option.ge is not None else (SMALLEST if option.gt is not None else None)
            if low is not None:
                found.append(MinValueValidator(low))
            if option.le is not None:
                found.append(MaxValueValidator(option.le))
        elif isinstance(option, shapes.StrType) and option.pattern:
            found.append(RegexValidator(re.compile(option.pattern)))
    return found


def default(struct: type[msgspec.Struct], name: str) -> Any:
    """The default of member ``name``."""
    return _member(struct, name).default


def choices(struct: type[msgspec.Struct], name: str) -> list[str]:
    """The words that member ``name`` may hold (or that its list may), in the order in which they are declared."""
    found = _words(get_type_hints(struct)[name])
    if not found:
        raise LookupError(f"{struct.__name__}.{name} is not one of a few words.")
    return found


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    return [word for part in get_args(hint) for word in _words(part)]


def _member(struct: type[msgspec.Struct], name: str) -> shapes.Field:
    kind = shapes.type_info(struct)
    assert isinstance(kind, shapes.StructType)  # noqa: S101 - holds for every Struct
    return next(field for field in kind.fields if field.name == name)


def _bare(kind: shapes.Type) -> shapes.Type:
    """Without what is told of it to people."""
    return kind.type if isinstance(kind, shapes.Metadata) else kind


def pattern(struct: type[msgspec.Struct], name: str) -> str:
    """How each word in the list that is member ``name`` looks."""
    kind = _member(struct, name).type
    assert isinstance(kind, shapes.VarTupleType) and isinstance(kind.item_type, shapes.StrType)  # noqa: S101
    return kind.item_type.pattern or ""
