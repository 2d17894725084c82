"""Resources as Kubernetes quantities: parsed exactly, kept as given."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

import pydantic

from tapeline.contracts.runs import ResourcesView
from tapeline.errors import TapelineError

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([0-9]{1,2}))?")
_SUFFIXES: dict[str, Fraction] = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "k": Fraction(10**3),
    "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}  # fmt: skip
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run needs of a device: cores, bytes, and accelerators."""

    cpu: Fraction
    memory: int
    gpu_count: int = 0
    gpu_type: str = ""


def quantity(text: str, field: str) -> Fraction:
    """The exact value of a quantity.

    Examples
    --------
    >>> quantity("500m", "cpu"), quantity("5Gi", "memory"), quantity("5E3", "memory")
    (Fraction(1, 2), Fraction(5368709120, 1), Fraction(5000, 1))
    """
    found = _QUANTITY.fullmatch(text) if len(text) <= 64 else None
    if found is None:
        raise TapelineError(
            f"{field}: {text[:64]!r} is not a quantity",
            code="invalid",
            hint='write it as "500m", "2", "512Mi" or "1e3"',
        )
    number = Fraction(Decimal(found[1]))
    if found[3]:
        return number * Fraction(10 ** int(found[3]))
    return number * _SUFFIXES.get(found[2] or "", Fraction(1))


def wanted(resources: dict[str, Any]) -> Wanted:
    """What resources come to; `invalid` when they are malformed."""
    # Runs by the thousand ask for the same.
    return _wanted(json.dumps(resources))


@lru_cache(maxsize=1024)
def _wanted(text: str) -> Wanted:
    resources = json.loads(text)
    try:
        given = ResourcesView.model_validate(resources, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise TapelineError(
            f"resources.{place}: {first['msg']}",
            code="invalid",
            hint='for example {"cpu": "1", "memory": "1Gi"}',
        ) from error
    unknown = sorted(set(resources) - set(ResourcesView.model_fields))
    if unknown:
        raise TapelineError(
            f"resources: {unknown[0]!r} is not known",
            code="invalid",
            hint=f"fields are {', '.join(ResourcesView.model_fields)}",
        )
    cpu = quantity(given.cpu, "cpu")
    if cpu <= 0 or (cpu * 1000).denominator != 1:
        raise TapelineError(f"cpu: {given.cpu!r} is not above 0 in steps of 1m", code="invalid", hint='write "500m"')
    memory = _bytes(given.memory, "memory")
    if given.ephemeral_storage is not None:
        _bytes(given.ephemeral_storage, "ephemeral_storage")
    gpu = given.gpu
    return Wanted(cpu, memory, gpu.count if gpu else 0, gpu.type if gpu else "")


def _bytes(text: str, field: str) -> int:
    size = ceil(quantity(text, field))
    if size < MIB:
        number = re.match(r"[0-9.]+", text)
        raise TapelineError(
            f"{field}: {text!r} is less than 1Mi",
            code="invalid",
            hint=f'did you mean "{number[0] if number else 512}Mi"?',
        )
    return size
