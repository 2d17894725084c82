"""What is left of an event when the law has something of it removed.

An event that was erased whole has the data `{"erased": true}` and is read as the tombstone of its kind; one
that lost a field is read with that field's default, or with a blank where the field has none.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

ERASED = {"erased": True}
"""The data of an event of which nothing is left."""

BLANK_TEXT = "erased"


def blanks(event: type) -> dict[str, Any]:
    """A value for each required field of an event class that may be erased: texts, lists, objects
    and what may be None."""
    return {name: _BLANKS[kind]() for name, kind in _required(event).items() if kind in _BLANKS}


def fixed(event: type) -> frozenset[str]:
    """The fields of an event class that cannot be erased alone: what reads them needs a value of their own."""
    return frozenset(name for name, kind in _required(event).items() if kind not in _BLANKS)


_BLANKS: dict[Any, Any] = {str: lambda: BLANK_TEXT, list: list, dict: dict, None: lambda: None}


@cache
def _required(event: type) -> dict[str, Any]:
    hints = typing.get_type_hints(event)
    return {
        field.name: _plain(hints[field.name])
        for field in fields(event)
        if field.default is MISSING and field.default_factory is MISSING
    }


def _plain(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if type(None) in typing.get_args(hint):
        return None
    if origin is None:
        return hint
    return dict if isinstance(origin, type) and issubclass(origin, Mapping) else origin
