"""Logs of real events, in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NameClaimed, NameReleased
from tapeline.log import GENESIS, Appended, Head, NewCommit, StoredCommit, wire
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import name_ref
from tapeline.replay.segments import Line
from tapeline.subjects import Ref, ref_of

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


class Shelved:
    """A recorded log, read as one that nobody writes to."""

    def __init__(self, path: Path, log_id: str = "recorded") -> None:
        lines = (msgspec.json.decode(raw, type=Line) for raw in path.read_bytes().splitlines())
        self.commits = [
            StoredCommit(
                position=line.p, subject=line.s, header=line.h.encode(), body=line.b.encode(),
                stored_at=wire.time_of(line.t),
            )
            for line in lines
        ]  # fmt: skip
        self._log_id = log_id

    async def head(self) -> Head:
        return Head(log_id=self._log_id, position=len(self.commits), size_bytes=0, max_bytes=1)

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        for start in range(after, len(self.commits) if upto is None else upto, 7):
            yield self.commits[start : min(start + 7, upto or len(self.commits))]

    async def page(self, *, after: int, limit: int, team: str | None = None) -> list[StoredCommit]:
        found = [one for one in self.commits if one.position > after and team in (None, ref_of(one.subject).team)]
        return found[:limit]

    async def refs(self, place: str) -> list[Ref]:
        return sorted({ref for one in self.commits if str(ref := ref_of(one.subject)) == place})

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        return [
            one
            for one in self.commits
            if one.subject == ref.subject and after < one.position <= (upto or len(self.commits))
        ]


@pytest.fixture
def recorded() -> Shelved:
    """The log of a whole demo: a tape, an asset, two canvases, two runs and a vault item."""
    return Shelved(Path(__file__).parents[2] / "assets" / "logs" / "demo" / "0.1.0.jsonl")


@pytest.fixture
def every_type() -> Shelved:
    """The log of that demo, and after it every other type of event that there is."""
    return Shelved(Path(__file__).parents[2] / "assets" / "logs" / "0.1.0.jsonl")
