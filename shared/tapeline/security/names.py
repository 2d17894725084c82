"""Which texts may be names: display names of things, and the stricter names of features and labels."""

from __future__ import annotations

import unicodedata

from tapeline.errors import TapelineError

DISPLAY_LIMIT = 255
FEATURE_LIMIT = 128

# Format characters that reorder or hide what stands around them; the rest of category Cf (joiners)
# is needed to write some languages.
_OVERRIDES = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_REFUSED = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})


def display_name(text: object, *, field: str = "name", limit: int = DISPLAY_LIMIT) -> str:
    """The name in Unicode form NFC, or the refusal of a text that cannot be a display name.

    Parameters
    ----------
    text : object
        What was given; anything but a `str` is refused.
    field : str
        How the refusal calls it.
    limit : int
        Most characters after normalisation.

    Raises
    ------
    TapelineError
        Code `invalid`: empty, too long, blank at an end, or a character that is not allowed.

    Notes
    -----
    Dots, slashes, `*` and `>` are plain data: a name never becomes a path or a subject.

    Examples
    --------
    >>> display_name("spy e1")
    'spy e1'
    """
    if not isinstance(text, str):
        raise _refusal(f"{field}: expected a text, got {type(text).__name__}")
    # Normalising is linear but not free: a text that is far too long is refused before it.
    if len(text) > 4 * limit:
        raise _refusal(f"{field}: {len(text)} characters, the limit is {limit}")
    # What Python calls printable is in none of the refused categories, and not a format character.
    for i, character in enumerate(text) if not text.isprintable() else ():
        if character in _OVERRIDES or unicodedata.category(character) in _REFUSED:
            raise _refusal(f"{field}: character U+{ord(character):04X} at {i} is not allowed")
    name = unicodedata.normalize("NFC", text)
    if not name:
        raise _refusal(f"{field}: the name is empty", hint=f"use 1 to {limit} characters")
    if len(name) > limit:
        raise _refusal(f"{field}: {len(name)} characters, the limit is {limit}")
    if name[0].isspace() or name[-1].isspace():
        raise _refusal(f"{field}: blank at the {'start' if name[0].isspace() else 'end'} of {name!r}")
    return name


def feature_name(text: object, *, field: str = "feature") -> str:
    """The name of a feature or label in form NFC; stricter, because it also names a data set.

    Raises
    ------
    TapelineError
        Code `invalid`, for what `display_name` refuses and for more than 128 characters, a slash,
        `.`, `..`, or a leading underscore.

    Examples
    --------
    >>> feature_name("90_1daybar_lp%")
    '90_1daybar_lp%'
    """
    name = display_name(text, field=field, limit=FEATURE_LIMIT)
    if "/" in name:
        raise _refusal(f"{field}: character U+002F at {name.index('/')} is not allowed in {name!r}")
    if name in (".", "..") or name.startswith("_"):
        raise _refusal(f"{field}: {name!r} is reserved", hint="names do not begin with '_' and are not dots")
    return name


def _refusal(message: str, *, hint: str | None = None) -> TapelineError:
    return TapelineError(message, code="invalid", hint=hint or "use visible characters, with no blank at either end")
