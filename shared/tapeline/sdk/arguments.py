"""Checks of argument kinds that all functions share: limits, sorts, selects, ids. They send nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tapeline.errors import NotFoundError

PAGE_ROWS = 1000
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)


class BadValue(ValueError):
    """An argument that cannot be meant; told before anything is sent.

    Attributes
    ----------
    code : always `invalid`
    hint : what to write instead; tracebacks show it
    """

    code = "invalid"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"Hint: {hint}")


class BadType(TypeError):
    """An argument of another type than the one that is taken; told before anything is sent. As `BadValue`."""

    code = "invalid"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"Hint: {hint}")


def count(name: str, value: Any, default: int) -> int:
    """A limit or offset: the default for None; `ValueError` for anything but an int of at least 0."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadValue(f"{name} must be an int of at least 0, not {value!r}", hint=f"leave it out for {default}")
    return value


def one_of(name: str, value: Any, valid: Sequence[str]) -> str:
    """A word of a list; `ValueError` names the bad one, the valid ones and the nearest."""
    if isinstance(value, str) and value in valid:
        return str(value)
    near = difflib.get_close_matches(str(value), valid, n=1)
    message = f"{name} {value!r} is not one of {', '.join(valid)}"
    if near:
        raise BadValue(f"{message}; did you mean {near[0]!r}?", hint=f"write {near[0]!r}")
    raise BadValue(message, hint=f"write one of {', '.join(valid)}")


def picture_path(path: str | Path, *endings: str) -> Path:
    """Where a picture is to be written: with an ending that can be drawn, in a folder that is there.

    Raises
    ------
    ValueError
        Another ending.
    NotFoundError
        There is no such folder.
    """
    target = Path(path)
    if target.suffix.lower() not in endings:
        ending = target.suffix or "nothing"
        raise BadValue(
            f"{target.name} ends in {ending}; a drawing ends in {' or '.join(endings)}",
            hint=f"write {target.stem}{endings[0]}",
        )
    if not target.parent.is_dir():
        raise NotFoundError.of("not_found", f"there is no folder {target.parent}", hint="make it, or name another one")
    return target


def some_of(name: str, values: Any, valid: Sequence[str]) -> list[str] | None:
    """Words of a list; None stays None."""
    if values is None:
        return None
    return [one_of(name, value, valid) for value in listed(name, values)]


def listed(name: str, values: Any) -> list[Any]:
    """The values as a list; `TypeError` for a bare string, which would be taken letter by letter."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise BadType(f"{name} must be a list, not {values!r}", hint=f"write {name}=[{values!r}]")
    return list(values)


def texts(name: str, values: Any) -> list[str] | None:
    """A list of strings; None stays None."""
    if values is None:
        return None
    found = listed(name, values)
    for value in found:
        if not isinstance(value, str):
            raise BadType(f"{name} must hold strings, not {value!r}", hint=f"write {str(value)!r}")
    return found


def ints(name: str, values: Any) -> list[int] | None:
    """A list of ints; None stays None."""
    if values is None:
        return None
    found = listed(name, values)
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadType(f"{name} must hold ints, not {value!r}", hint="write whole numbers")
    return found


def selected(values: Any, valid: Sequence[str]) -> list[str] | None:
    """Columns to select; an empty list is refused."""
    found = some_of("select", values, valid)
    if found == []:
        raise BadValue(f"select is empty; it takes some of {', '.join(valid)}", hint="leave it out for everything")
    return found


def sorts(values: Any, fields: Sequence[str]) -> list[str] | None:
    """Sort keys as `field:asc` or `field:desc`; a plain string is one, a bare field ascends."""
    if values is None:
        return None
    valid = [f"{field}:{direction}" for field in fields for direction in ("asc", "desc")]
    found = []
    for value in [values] if isinstance(values, str) else listed("sort", values):
        whole = f"{value}:asc" if isinstance(value, str) and value in fields else value
        found.append(one_of("sort", whole, valid))
    named = [each.split(":")[0] for each in found]
    if len(set(named)) != len(named):
        raise BadValue(f"sort names a field twice: {', '.join(found)}", hint="name each field once")
    return found


def patterns(name: str, values: Any) -> list[str] | None:
    """ILIKE patterns; `ValueError` for one over 1024 characters or with a lone backslash at its end."""
    found = texts(name, values)
    for pattern in found or []:
        if len(pattern) > 1024:
            raise BadValue(
                f"a pattern of {name} has {len(pattern)} characters; the limit is 1024",
                hint="write a shorter one, with %",
            )
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
            raise BadValue(f"the pattern {pattern!r} ends with a lone backslash", hint="double it to match a backslash")
    return found


def moment(name: str, value: Any) -> datetime | None:
    """An aware UTC time; a naive one is read as UTC."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise BadType(f"{name} must be a datetime, not {value!r}", hint="write datetime(2026, 1, 31, tzinfo=UTC)")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def grace(value: Any) -> float | None:
    """Seconds of a grace period; `ValueError` below 1 s or over 24 h."""
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise BadType(f"grace_period must be a timedelta, not {value!r}", hint="write timedelta(minutes=10)")
    seconds = value.total_seconds()
    if not 1.0 <= seconds <= 86_400.0:
        raise BadValue(f"grace_period must be between 1 s and 24 h, not {value}", hint="leave it out for 10 minutes")
    return seconds


def name(what: str, value: Any, longest: int = 255) -> str:
    """A non-empty text without control characters."""
    if not isinstance(value, str):
        raise BadType(f"{what} must be a string, not {value!r}", hint=f"write {str(value)!r}")
    if not 1 <= len(value) <= longest or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise BadValue(
            f"{what} must have 1 to {longest} characters and no control characters", hint=f"give another {what}"
        )
    return value


def semver(value: Any) -> str:
    """A semantic version; `ValidationError` for anything else, before it is sent."""
    from tapeline.errors import ValidationError

    if not isinstance(value, str) or _SEMVER.fullmatch(value) is None:
        raise ValidationError.of("invalid", f"version {value!r} is not SemVer 2.0.0", hint="write 1.0.0")
    return value


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {key: value for key, value in fields.items() if value is not None}


def matches_nothing(*filters: Any) -> bool:
    """Whether one of the filters is an empty list, so that no request is needed."""
    return any(each is not None and len(each) == 0 for each in filters)


def paged(fetch: Callable[[int, int], dict[str, Any]], limit: int, offset: int) -> list[Any]:
    """Rows `offset .. offset + limit`, fetched in pages of at most 1000; `fetch(size, start)` gives one."""
    found: list[Any] = []
    while len(found) < limit:
        size = min(PAGE_ROWS, limit - len(found))
        page = fetch(size, offset + len(found))
        found += page["items"]
        if is_last(page, size):
            break
    return found


def is_last(page: dict[str, Any], size: int) -> bool:
    """Whether nothing comes after a page; a short one may have been cut where a message is full."""
    return not page["items"] or (len(page["items"]) < size and page.get("next") is None)
