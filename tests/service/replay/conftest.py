"""Logs of real events, in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NameClaimed, NameReleased
from tapeline.log import GENESIS, Appended, NewCommit
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import name_ref

MakeLog = Callable[..., Awaitable[InMemoryLog]]
AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@pytest.fixture
def make_log() -> MakeLog:
    """A log of claims and releases of a few names, several events a commit."""

    async def make(commits: int, *, events: int = 1, names: int = 5, log: InMemoryLog | None = None) -> InMemoryLog:
        made = log or InMemoryLog(Codec(EVENTS, UPCASTERS))
        tails: dict[int, Appended] = {}
        for i in range(commits):
            last = tails.get(i % names)
            name = f"name{i % names}"
            pair = (NameClaimed(name=name, holder=f"h{i}"), NameReleased(name=name, holder=f"h{i}"))
            begun = last.sequence if last else 0
            tails[i % names] = await made.append(
                NewCommit(
                    ref=name_ref("contoso", "vault", name),
                    events=tuple(pair[(begun + k) % 2] for k in range(events)),
                    sequence=begun + 1,
                    prev=last.digest if last else GENESIS,
                    created_at=AT + timedelta(seconds=i),
                    actor="user:ann",
                    command="ClaimName",
                    command_id=f"c{i}",
                ),
                expected=last.position if last else 0,
            )
        return made

    return make
