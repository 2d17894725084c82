"""Claims of a team's unique names and numbers: small aggregates whose stream is the fence.

A name is claimed in the same atomic append as the thing that bears it, on the stream
`evt.<team>.<kind>.<uuid5 of the name>`; so two things of one name cannot both be born, whichever copies
of the service decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tapeline.contracts.references import HOLDER, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class NameClaimed:
    """`name` belongs to the aggregate `holder` of the same kind."""

    SCHEMA: ClassVar[int] = 1
    name: str
    holder: Annotated[str, Names(HOLDER)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameReleased:
    """`name` is free again."""

    SCHEMA: ClassVar[int] = 1
    name: str
    holder: Annotated[str, Names(HOLDER)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberTaken:
    """The team's counter of this kind stands at `number`, which belongs to `holder`.

    A number that was taken in advance belongs to `ahead-<id>`, the copy of the service that gives it to the next one.
    """

    SCHEMA: ClassVar[int] = 1
    number: int
    holder: Annotated[str, Names(HOLDER)]


NAME_EVENTS = (NameClaimed, NameReleased, NumberTaken)
NameEvent = NameClaimed | NameReleased | NumberTaken
