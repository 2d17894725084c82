"""Today's process managers on yesterday's events: what they would ask for now, against what is on the log.

A process manager is given the tables as they were before each commit, at the time of that commit, and whatever it
asks for is captured. A captured command is compared with the recorded commit that carries its id.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Cause, Decider, Deciders, Origin, Outcome, Step
from tapeline.errors import TapelineError
from tapeline.log import EventLog, StoredCommit, StoredEvent
from tapeline.projections import CANCEL_AGAIN_S, Projector
from tapeline.replay.reading import codec
from tapeline.replay.rehearsal import Dissent, Rehearsal, told_of
from tapeline.replay.still import StillLog, StillMetrics, refuse
from tapeline.service import Platform
from tapeline.store import LocalStore
from tapeline.subjects import Ref

PROCESSES = "tapeline.processes"
"""Group of entry points: by name of a process manager, what makes one on a platform."""
STEP_S = 30.0


class Process(Protocol):
    """A process manager that can be looked at from outside."""

    actor: str
    unseen: Mapping[str, str]
    """Commands that follow from what is no event, each with the reason: they cannot be compared."""
    projectors: Sequence[Projector]

    async def look(self) -> None:
        """Ask for all that is to be done now."""
        ...


class EventClock:
    """A clock that stands at the time of an event."""

    def __init__(self) -> None:
        self._now = datetime.fromtimestamp(0, UTC)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def move(self, to: datetime) -> None:
        """Go to a time; never back."""
        self._now = max(self._now, to)


@dataclass(slots=True)
class Asked:
    """A captured command: what it would have led to, and before which position it was asked for last."""

    ref: Ref
    command: str
    before: int
    events: list[Any] | None
    why: str | None = None


class Capturing(Deciders):
    """Folds what is recorded and decides on it, appends nothing, and keeps what it was asked."""

    def __init__(self, log: EventLog, clock: EventClock) -> None:
        super().__init__(log, codec(), clock)
        self._now = clock.now
        self._events: dict[Ref, list[Any]] = defaultdict(list)
        self.asked: dict[str, Asked] = {}
        self.position = 1

    def take(self, events: Sequence[StoredEvent]) -> None:
        """What has come onto the log."""
        self._events[events[0].ref] += [event.data for event in events]
        self.position = events[0].position + 1

    async def state(self, decider: Decider[Any, Any, Any], ref: Ref, *, fresh: bool = True) -> Any:
        """The aggregate as of what has been taken."""
        state = decider.initial()
        for event in self._events[ref]:
            state = decider.evolve(state, event)
        return state

    async def cause(self, decider: Decider[Any, Any, Any], ref: Ref, event: str | None = None) -> Cause:
        """Nothing: causes are not compared."""
        return Cause()

    async def handle(self, decider: Decider[Any, Any, Any], ref: Ref, command: Any, origin: Origin) -> Outcome[Any]:
        """Keep the command and what it would lead to; nothing changes."""
        state = await self.state(decider, ref)
        asked = Asked(ref, type(command).__name__, self.position, None)
        self.asked[origin.command_id] = asked
        try:
            asked.events = list(decider.decide(state, command.model_copy(update={"at": self._now()})))
        except TapelineError as error:
            asked.why = f"{error.code}: {error.message}"
            raise
        return Outcome(state=state, position=self.position - 1, sequence=0)

    async def handle_together(self, steps: Sequence[Step[Any]], origin: Origin) -> NoReturn:
        """Refused: a process manager asks one aggregate at a time."""
        refuse(self.position)


class Stepped(StillLog):
    """A log that grows by a commit at a time."""

    def __init__(self, log_id: str) -> None:
        super().__init__(log_id, 0)
        self._commits: list[StoredCommit] = []
        self._grown = asyncio.Condition()

    async def add(self, commit: StoredCommit) -> None:
        """Let the next commit be read."""
        async with self._grown:
            self._commits.append(commit)
            self._position = commit.position
            self._grown.notify_all()

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit that there is, and with `follow` each that comes."""
        while True:
            found = self._commits[after : self._position if upto is None else min(upto, self._position)]
            if found:
                after = found[-1].position
                yield found
            elif not follow:
                return
            else:
                async with self._grown:
                    while self._position <= after:
                        await self._grown.wait()


async def dry_run_process(
    log: EventLog, process: str, *, after: int = 0, upto: int | None = None, store: Path | None = None,
    make: Callable[[Platform], Process] | None = None,
) -> Rehearsal:  # fmt: skip
    """What a process manager would ask for today, against the recorded commits that carry its commands' ids.

    Parameters
    ----------
    process : str
        Its name, such as `dispatcher`.
    after, upto : int
        Only commits with `after < position <= upto` are compared; the ones before are read.
    make
        Another process manager than the installed one.

    Raises
    ------
    TapelineError
        `not_found` for a process that no installed service has, `invalid` for a position past the end.
    """
    head = await log.head()
    end = head.position if upto is None else upto
    if not 0 <= after <= end <= head.position:
        raise TapelineError(
            f"positions {after} to {end} are not within the log, which ends at {head.position}",
            code="invalid",
            hint="tapeline log tail -n 1",
        )
    chosen = make or _installed(process)
    with tempfile.TemporaryDirectory(prefix="tapeline-dry-run-") as folder:
        play = _Play(Rehearsal(process), after)
        stepped, clock = Stepped(head.log_id), EventClock()
        deciders = Capturing(stepped, clock)
        engine = make_engine(sqlite_url(Path(folder) / "tables.db"))
        try:
            found = chosen(
                Platform(
                    log=stepped, log_id=head.log_id, codec=codec(), metrics=StillMetrics(None, clock.now()),
                    deciders=deciders, engine=engine, store=LocalStore(store or Path(folder) / "store"), clock=clock,
                    publish=_unheard, home=Path(folder),
                )
            )  # fmt: skip
            for projector in found.projectors:
                await projector.open()
            async with _running(found.projectors):
                async for commits in log.read(upto=end):
                    for commit in commits:
                        events = codec().decode(commit)
                        clock.move(events[0].created_at)
                        await found.look()
                        play.compare(found, deciders, events)
                        deciders.take(events)
                        await stepped.add(commit)
                        for projector in found.projectors:
                            await projector.wait_for(commit.position, timeout_s=STEP_S)
        finally:
            await engine.dispose()
    return play.close(deciders, found, end)


@dataclass(slots=True)
class _Play:
    result: Rehearsal
    after: int
    _seen: set[str] = field(default_factory=set)

    def compare(self, process: Process, deciders: Capturing, events: Sequence[StoredEvent]) -> None:
        """Compare a recorded commit with what was asked for under its id."""
        first = events[0]
        asked = deciders.asked.get(first.command_id)
        self._seen.add(first.command_id)
        if first.position <= self.after or (asked is None and first.actor != process.actor):
            return
        if (reason := process.unseen.get(first.command)) is not None:
            self.result.lossy += 1
            self.result.reasons[f"{first.command}: {reason}"] += 1
            return
        recorded = told_of([event.data for event in events])
        place = f"{first.ref.team}/{first.ref}"
        if asked is None:
            self._dissent(first.position, place, first.command, recorded, None, "it is not asked for")
        elif asked.events is None:
            self._dissent(first.position, place, first.command, recorded, None, asked.why)
        elif (decided := told_of(asked.events)) == recorded:
            self.result.same += 1
        else:
            self._dissent(first.position, place, first.command, recorded, decided, None)

    def close(self, deciders: Capturing, process: Process, end: int) -> Rehearsal:
        """The result; what was asked for and is nowhere on the log is a difference, but for the last moment."""
        for id, asked in deciders.asked.items():
            is_new = id not in self._seen and asked.events and asked.command not in process.unseen
            if is_new and self.after < asked.before < end:
                place = f"{asked.ref.team}/{asked.ref}"
                self._dissent(asked.before, place, asked.command, [], told_of(asked.events or []), None)
        self.result.dissents.sort(key=lambda one: one.position)
        return self.result

    def _dissent(self, position: int, place: str, command: str, recorded: Any, decided: Any, why: str | None) -> None:
        self.result.dissents.append(Dissent(position, place, command, recorded, decided, why))


def _installed(name: str) -> Callable[[Platform], Process]:
    for found in entry_points(group=PROCESSES, name=name):
        made: Callable[[Platform], Process] = found.load()
        return made
    known = ", ".join(sorted(each.name for each in entry_points(group=PROCESSES)))
    raise TapelineError(f"no installed service has a process {name!r}", code="not_found", hint=known or None)


async def _unheard(subject: str, body: bytes) -> None:
    """Messages to agents are hints; in a dry run nobody hears them."""


@asynccontextmanager
async def _running(projectors: Sequence[Projector]) -> AsyncGenerator[None, None]:
    """Projectors that follow while the context is open."""
    tasks = [asyncio.ensure_future(projector.run()) for projector in projectors]
    try:
        yield
    finally:
        left = set(tasks)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=10 * CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)
