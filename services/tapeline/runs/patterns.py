r"""Patterns as `ILIKE` reads them: the whole text, whatever its case; `%` any run, `_` one, `\` escapes."""

from __future__ import annotations

import re

from tapeline.errors import TapelineError

MAX_PATTERN = 1024


def checked(pattern: str) -> str:
    """The pattern itself; `invalid` when it is too long or ends in a lone backslash."""
    if len(pattern) > MAX_PATTERN:
        raise TapelineError(f"a pattern of {len(pattern)} characters; the limit is {MAX_PATTERN}", code="invalid")
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise TapelineError(
            f"the pattern {pattern[:60]!r} ends in a lone backslash", code="invalid", hint="write it twice"
        )
    return pattern


def lowered(pattern: str) -> str:
    """The pattern for `LIKE ... ESCAPE '\\'` on a column that Python has lower-cased."""
    made, i = [], 0
    text = checked(pattern).lower()
    while i < len(text):
        if text[i] == "\\" and text[i + 1] not in "%_\\":
            # It escapes nothing: databases differ on what that means, so it is written twice.
            made.append("\\\\")
        elif text[i] == "\\":
            made.append(text[i : i + 2])
            i += 1
        else:
            made.append(text[i])
        i += 1
    return "".join(made)


def literal(pattern: str) -> str | None:
    r"""The one lower-case text that a pattern matches; None where it matches more than one.

    Examples
    --------
    >>> literal("Test-Run"), literal(r"test\\_run"), literal("test_run"), literal("%")
    ('test-run', 'test_run', None, None)
    """
    made, i = [], 0
    text = checked(pattern).lower()
    while i < len(text):
        if text[i] in "%_":
            return None
        if text[i] == "\\" and text[i + 1] in "%_\\":
            i += 1
        made.append(text[i])
        i += 1
    return "".join(made)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern matches a text.

    Examples
    --------
    >>> matches("1.%", "1.0.0"), matches(r"test\\_run", "TEST_RUN"), matches("test", "test-run")
    (True, True, False)
    """
    parts, i = [], 0
    made = lowered(pattern)
    while i < len(made):
        if made[i] == "\\":
            parts.append(re.escape(made[i + 1]))
            i += 1
        else:
            parts.append({"%": ".*", "_": "."}.get(made[i]) or re.escape(made[i]))
        i += 1
    return re.fullmatch("".join(parts), text.lower(), re.DOTALL) is not None
