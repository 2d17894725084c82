"""How deeply a JSON text nests and about how many values it holds, found without parsing it."""

from __future__ import annotations

_OTHER = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")


def outside_strings(text: bytes) -> bytes:
    """The text without the contents of its strings, so that what is left is structure.

    Notes
    -----
    A backslash means something only inside a string, so an escaped backslash or quote can be dropped
    first; after that every quote begins or ends a string.
    """
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    return b"".join(plain.split(b'"')[::2])


def is_deeper_than(structure: bytes, limit: int) -> bool:
    """Whether arrays and objects nest more than `limit` deep; `structure` is of `outside_strings`.

    Notes
    -----
    One pass removes every innermost pair, so `limit` passes flatten what is allowed. Each pass is one
    `bytes.replace`; the standard parser would recurse instead and fail at a depth of 100,000.
    """
    brackets = structure.translate(None, _OTHER).translate(_ALIKE)
    for _ in range(limit):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return b"[]" in brackets or brackets.count(b"[") > limit
