"""A small registry of events and a builder of commits, for tests of logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from tapeline.log import GENESIS, Appended, NewCommit
from tapeline.log.codec import Codec
from tapeline.subjects import Ref

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A till was opened."""

    SCHEMA: ClassVar[int] = 1
    name: str
    labels: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Something was added to a till."""

    SCHEMA: ClassVar[int] = 2
    amount: float
    at: datetime | None = None


def counted_1_to_2(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 of `Counted` had whole cents."""
    return {"amount": data["cents"] / 100}


EVENTS: dict[tuple[str, int], type] = {("Opened", 1): Opened, ("Counted", 2): Counted}
UPCASTERS = {("Counted", 1): counted_1_to_2}


def codec() -> Codec:
    """A codec of the small registry."""
    return Codec(EVENTS, UPCASTERS, app="test")


def till(id: str = "t1", team: str = "contoso") -> Ref:
    """An aggregate; logs do not care of which kind."""
    return Ref(team, "run", id)


def commit(
    command_id: str,
    *events: Any,
    ref: Ref | None = None,
    after: Appended | None = None,
    created_at: datetime = AT,
    actor: str = "user:ann",
    cause: str | None = None,
) -> NewCommit:
    """A commit that follows `after`, or is the first of its aggregate."""
    return NewCommit(
        ref=ref or till(),
        events=events or (Counted(amount=1.5),),
        sequence=after.sequence + 1 if after else 1,
        prev=after.digest if after else GENESIS,
        created_at=created_at,
        actor=actor,
        command="Count",
        command_id=command_id,
        cause=cause,
        correlation_id=None,
    )
