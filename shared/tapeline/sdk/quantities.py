"""Kubernetes quantities, parsed exactly: `500m`, `5Gi`, `1e3`."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from tapeline.sdk.arguments import BadType, BadValue

_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>[eE][0-9]+|[A-Za-z]*)", re.ASCII)
_UNITS: dict[str, Fraction] = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
} | {
    unit: Fraction(value)
    for i, letter in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
    for unit, value in ((letter, 1000**i), (("K" if letter == "k" else letter) + "i", 1024**i))
}
_LONGEST = 64
_LARGEST_EXPONENT = 30
_MIB = 1024**2


@lru_cache(1024)
def parse(text: str) -> Fraction:
    """The exact value of a quantity.

    Raises
    ------
    ValueError
        The text is no quantity: signs, spaces and `K` are refused.
    """
    if not isinstance(text, str):
        raise BadType(f"a quantity is a string such as '500m' or '5Gi', not {text!r}", hint=f"write {str(text)!r}")
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise _no_quantity(text)
    number, unit = Fraction(found["number"].rstrip(".")), found["unit"]
    if unit in _UNITS:
        return number * _UNITS[unit]
    if unit[0] in "eE" and unit[1:] and int(unit[1:]) <= _LARGEST_EXPONENT:
        return number * Fraction(10) ** int(unit[1:])
    raise _no_quantity(text)


@lru_cache(1024)
def cores(text: str) -> Fraction:
    """Cores of a `cpu` quantity, rounded up to `1m`; `ValueError` unless above 0."""
    value = parse(text)
    if value <= 0:
        raise BadValue(f"cpu {text!r} must be above 0", hint='write "1" or "500m"')
    return Fraction(-(-value * 1000 // 1), 1000)


@lru_cache(1024)
def size_bytes(name: str, text: str) -> int:
    """Bytes of a memory quantity, rounded up; `ValueError` below `1Mi`."""
    value = parse(text)
    if value < _MIB:
        number = re.match(r"[0-9.]+", text)
        meant = f'did you mean "{number[0]}Mi"?' if number else ""
        message = f"{name} {text!r} is below 1Mi"
        raise BadValue(message, hint=meant or 'write "64Mi"')
    return int(-(-value // 1))


def _no_quantity(text: str) -> BadValue:
    meant = f'did you mean "{text[:-1]}k" or "{text[:-1]}Ki"?' if text.endswith("K") else ""
    message = (
        f"{text[:_LONGEST]!r} is not a quantity: a decimal number, then one of n, u, m, k, M, G, T, P, E, "
        f"Ki, Mi, Gi, Ti, Pi, Ei or an exponent"
    )
    return BadValue(message, hint=meant or "write 500m, 2, 64Mi or 5Gi")
