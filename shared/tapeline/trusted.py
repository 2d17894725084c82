"""Objects of what was checked before: of a class, as it would make them, without checking their fields again.

Checking a page of a hundred runs takes longer than reading it. Whoever uses this says where the fields were checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel

from tapeline.objects import made

M = TypeVar("M", bound=BaseModel)
_FIELDS, _SET, _EXTRA, _PRIVATE = (
    BaseModel.__dict__[name]
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


def trusted(kind: type[M], given: Mapping[str, Any]) -> M:
    """An object of some fields; what the class does not know is left out."""
    defaults, private, factories = _blank(kind)
    known = {name: value for name, value in given.items() if name in defaults}
    found = kind.__new__(kind)
    _FIELDS.__set__(found, {**defaults, **known})
    _SET.__set__(found, set(known))
    _EXTRA.__set__(found, None)
    _PRIVATE.__set__(found, {**private, **{name: factory() for name, factory in factories}} or None)
    return found


def trusted_rows(kind: type[M], columns: Mapping[str, Any], count: int) -> list[M]:
    """Objects of a class without private attributes, column by column: a list, or what all objects share."""
    defaults, _, _ = _blank(kind)
    fields = {**defaults, **columns}
    slots = {_SET: set(columns), _EXTRA: None, _PRIVATE: None}
    return made(kind, slots, tuple(fields), tuple(fields.values()), count)


@cache
def _blank(kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any], list[tuple[str, Any]]]:
    """The fields of a class as it leaves them, its private attributes, and those that are made anew each time."""
    if any(field.default_factory is not None for field in kind.model_fields.values()):
        raise TypeError(f"{kind.__name__} makes some of its fields anew each time")
    fields = {name: None if field.is_required() else field.default for name, field in kind.model_fields.items()}
    own = kind.__private_attributes__
    private = {name: each.default for name, each in own.items() if each.default_factory is None}
    return fields, private, [(name, each.default_factory) for name, each in own.items() if each.default_factory]
