"""The decider loop: fold an aggregate, decide, append, and try again when another came first.

A decider is a module with three pure functions, `initial`, `decide` and `evolve`; `Deciders` runs
commands through it. Nothing else writes to the log.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from tapeline.clock import Clock
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import new_id
from tapeline.log import GENESIS, Appended, Conflict, EventLog, NewCommit, StoredCommit
from tapeline.log.codec import Codec, event_id, link, read_brief
from tapeline.subjects import Ref, ref_of

S = TypeVar("S")
C_contra = TypeVar("C_contra", contravariant=True)
E = TypeVar("E")

request_content: ContextVar[str | None] = ContextVar("request_content", default=None)
"""Digest of the request that is being handled; set by the bus, None outside of one."""

REMEMBERED_COMMANDS = 64
REMEMBERED_EVENTS = 64
CACHED_AGGREGATES = 10_000
ATTEMPTS = 5
LOOKED_AT = 8
"""Commits in which the end of a command is looked for at a time: most change one aggregate or three."""
LAG_S, LAGS = 0.05, 40


class Decider(Protocol[S, C_contra, E]):
    """Three pure functions: no clock, no input or output, no randomness."""

    def initial(self) -> S:
        """The state of an aggregate of which nothing has happened."""
        ...

    def decide(self, state: S, command: C_contra, /) -> list[E]:
        """The events that a command causes; empty when the wish is already true."""
        ...

    def evolve(self, state: S, event: E, /) -> S:
        """The state after an event; never raises on one that was ever legal."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who asked, and why: the actor as the broker says, and the event that caused the command, if any.

    `content` is a digest of the request, None for commands that no request carried.
    """

    actor: str
    command_id: str
    content: str | None = None
    cause: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[S]):
    """One command on one aggregate.

    `is_birth` says that nothing of the aggregate is expected to be on the log: it is not looked for before the
    append, which is refused if there is something after all.
    """

    decider: Decider[S, Any, Any]
    ref: Ref
    command: Any
    is_birth: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[S]):
    """What became of a command: the state after it, and where the last commit of all that it changed stands.

    `events` is empty when the wish was already true; `replayed` says that the command was known.
    """

    state: S
    position: int
    sequence: int
    events: list[Any] = field(default_factory=list)
    replayed: bool = False


class Cause(NamedTuple):
    """The event that makes a service ask for something: `<event id>@<position>`, and whose chain it belongs to."""

    cause: str | None = None
    correlation_id: str | None = None


class _Done(NamedTuple):
    command: str
    content: str | None
    position: int
    sequence: int
    end: int | None = None
    """Where the last commit of the command stands, whichever aggregate it is of; None when only the log knows."""


@dataclass(slots=True)
class _Folded:
    state: Any
    position: int = 0
    sequence: int = 0
    digest: str = GENESIS
    created_at: datetime | None = None
    commands: OrderedDict[str, _Done] = field(default_factory=OrderedDict)
    events: OrderedDict[str, Cause] = field(default_factory=OrderedDict)

    def tell(self, event: str, position: int, correlation_id: str) -> None:
        self.events[event] = Cause(f"{event}@{position}", correlation_id)
        while len(self.events) > REMEMBERED_EVENTS:
            self.events.popitem(last=False)

    def remember(self, command_id: str, done: _Done) -> None:
        self.commands[command_id] = done
        while len(self.commands) > REMEMBERED_COMMANDS:
            self.commands.popitem(last=False)


Listener = Callable[[Ref, Appended, NewCommit], Awaitable[None]]


class Deciders:
    """Runs commands through deciders on one log; commands of one aggregate wait for each other.

    `listeners` are told of every commit of our own once it is on the log.
    """

    def __init__(self, log: EventLog, codec: Codec, clock: Clock, *listeners: Listener) -> None:
        self._log = log
        self._codec = codec
        self._clock = clock
        self._listeners = listeners
        self._cache: OrderedDict[Ref, _Folded] = OrderedDict()
        self._locks: WeakValueDictionary[Ref, asyncio.Lock] = WeakValueDictionary()

    async def handle(self, decider: Decider[S, Any, Any], ref: Ref, command: Any, origin: Origin) -> Outcome[S]:
        """Run one command. Raises what `decide` raises, and what the log answers; see `EventLog.append`."""
        (outcome,) = await self.handle_together([Step(decider=decider, ref=ref, command=command)], origin)
        return outcome

    async def handle_together(self, steps: Sequence[Step[Any]], origin: Origin) -> list[Outcome[Any]]:
        """Run commands on several aggregates, all or none, as one atomic append."""
        now = self._clock.now()
        stamped = [_stamp(step, now) for step in steps]
        held: list[asyncio.Lock] = []
        try:
            # One order for all callers, or two of them would wait for each other.
            for ref in sorted({step.ref for step in stamped}):
                lock = self._lock(ref)
                await lock.acquire()
                held.append(lock)
            for attempt in range(ATTEMPTS):
                try:
                    return await self._attempt(stamped, origin, now, fresh=attempt > 0)
                except Conflict:
                    # A random pause lets the others through; full lock-step would conflict again.
                    await asyncio.sleep(random.uniform(0, 0.02))
        finally:
            for lock in held:
                lock.release()
        raise TapelineError(
            f"{stamped[0].ref} changed {ATTEMPTS} times while this command was decided",
            code="conflict",
            hint="repeat the command",
        )

    def knows(self, ref: Ref) -> bool:
        """Whether something of an aggregate was folded here not long ago."""
        folded = self._cache.get(ref)
        return folded is not None and folded.position > 0

    async def state(self, decider: Decider[S, Any, Any], ref: Ref, *, fresh: bool = True) -> S:
        """The aggregate's state as the log has it now; unless it is to be `fresh`, as it was last seen here."""
        async with self._lock(ref):
            folded = await self._fold(decider, ref, fresh=fresh)
            state: S = folded.state
            return state

    async def cause(self, decider: Decider[Any, Any, Any], ref: Ref, event: str | None = None) -> Cause:
        """What a command that follows from an event of an aggregate names as its cause.

        `event` is its id, that of the last one by default; one that is not among the latest gives no cause.
        """
        async with self._lock(ref):
            known = (await self._fold(decider, ref, fresh=False)).events
            if event is None and known:
                event = next(reversed(known))
            return known.get(event or "", Cause())

    def _lock(self, ref: Ref) -> asyncio.Lock:
        lock = self._locks.get(ref)
        if lock is None:
            lock = self._locks[ref] = asyncio.Lock()
        return lock

    async def _attempt(
        self, steps: list[Step[Any]], origin: Origin, now: datetime, *, fresh: bool
    ) -> list[Outcome[Any]]:
        folds = [
            _Folded(step.decider.initial())
            if step.is_birth and not fresh and not self.knows(step.ref)
            else await self._fold(step.decider, step.ref, fresh=fresh)
            for step in steps
        ]
        known = [self._known(step, folded, origin) for step, folded in zip(steps, folds, strict=True)]
        if any(known) and not fresh and any(step.is_birth for step in steps):
            # What was taken for new without a look is not: it was born by this very command.
            return await self._attempt(steps, origin, now, fresh=True)
        if any(known):
            # An atomic append is on the log whole: what knows nothing of the command had decided to nothing.
            end = await self._end(steps[0].ref.team, origin.command_id, [found for found in known if found])
            return [
                Outcome(
                    state=folded.state,
                    position=end,
                    sequence=found.sequence if found else folded.sequence,
                    replayed=True,
                )
                for folded, found in zip(folds, known, strict=True)
            ]
        decided = [
            list(step.decider.decide(folded.state, step.command)) for step, folded in zip(steps, folds, strict=True)
        ]
        passed("handler.decided")
        commits = [
            (self._commit(step, folded, events, origin, now), folded.position)
            for step, folded, events in zip(steps, folds, decided, strict=True)
            if events
        ]
        if len(commits) == 1:
            appended = [await self._log.append(commits[0][0], expected=commits[0][1])]
        elif commits:
            appended = await self._log.append_all(commits)
        else:
            appended = []
        passed("handler.appended")
        end = max([place.position for place in appended] or [folded.position for folded in folds])
        if any(place.replayed for place in appended):
            # An earlier try, perhaps elsewhere, may have changed more than this one decides.
            end = await self._end_on_log(steps[0].ref.team, origin.command_id, end)
        places = iter(appended)
        outcomes: list[Outcome[Any]] = []
        told: list[tuple[Ref, Appended, NewCommit]] = []
        written = iter(commits)
        for step, folded, events in zip(steps, folds, decided, strict=True):
            replayed = False
            sequence = folded.sequence
            if events:
                place, (commit, _) = next(places), next(written)
                replayed, sequence = place.replayed, place.sequence
                if place.replayed:
                    # What is on the log was decided by an earlier try, perhaps elsewhere: read it, do not assume it.
                    folded = await self._fold(step.decider, step.ref, fresh=True)
                    self._known(step, folded, origin)  # refuses an id that another command has used
                    events = []
                else:
                    self._advance(step, folded, events, place, commit, end)
                    told.append((step.ref, place, commit))
            outcomes.append(
                Outcome(
                    state=folded.state,
                    position=end,
                    sequence=sequence,
                    events=events,
                    replayed=replayed,
                )
            )
        for ref, place, commit in told:
            for listener in self._listeners:
                await listener(ref, place, commit)
        return outcomes

    def _known(self, step: Step[Any], folded: _Folded, origin: Origin) -> _Done | None:
        found = folded.commands.get(origin.command_id)
        if found is None:
            return None
        other_content = None not in (found.content, origin.content) and found.content != origin.content
        if found.command != type(step.command).__name__ or other_content:
            raise TapelineError(
                f"command {origin.command_id} was already used with different content ({found.command})",
                code="conflict",
                hint="give each command an id of its own",
            )
        return found

    async def _end(self, team: str, command_id: str, known: Sequence[_Done]) -> int:
        """Where the last commit of a command stands of which these are known."""
        ends = [done.end for done in known if done.end is not None]
        # Who has written it knows; who has read some of it may not have looked at all that it changed.
        return max(ends) if ends else await self._end_on_log(team, command_id, max(done.position for done in known))

    async def _end_on_log(self, team: str, command_id: str, position: int) -> int:
        """As the log has it: an atomic append is dense, and each of its commits names the command."""
        lags = 0
        while lags < LAGS:
            commits = await self._log.page(after=position, limit=LOOKED_AT)
            for commit in commits:
                brief = read_brief(commit.header, commit.position)
                if brief.cmd != command_id or ref_of(commit.subject).team != team:
                    return position
                position = commit.position
            if not commits:
                if (await self._log.head()).position <= position:
                    return position
                # A replica that has not heard of the rest yet.
                lags += 1
                await asyncio.sleep(LAG_S)
        raise TapelineError(
            f"the log has more than it shows after position {position}", code="unavailable", hint="retry"
        )

    def _commit(self, step: Step[Any], folded: _Folded, events: list[Any], origin: Origin, now: datetime) -> NewCommit:
        return NewCommit(
            ref=step.ref,
            events=tuple(events),
            sequence=folded.sequence + 1,
            prev=folded.digest,
            created_at=max(now, folded.created_at) if folded.created_at else now,
            actor=origin.actor,
            command=type(step.command).__name__,
            command_id=origin.command_id,
            cause=origin.cause,
            correlation_id=origin.correlation_id or origin.command_id,
            content=origin.content,
        )

    def _advance(
        self, step: Step[Any], folded: _Folded, events: list[Any], place: Appended, commit: NewCommit, end: int
    ) -> None:
        for event in events:
            folded.state = step.decider.evolve(folded.state, event)
        self._keep(step.ref, folded)
        folded.position, folded.sequence, folded.digest = place.position, place.sequence, place.digest
        folded.created_at = commit.created_at
        for index in range(len(events)):
            id = event_id(step.ref.subject, commit.command_id, index)
            folded.tell(id, place.position, commit.correlation_id or commit.command_id)
        folded.remember(commit.command_id, _Done(commit.command, commit.content, place.position, place.sequence, end))

    async def _fold(self, decider: Decider[Any, Any, Any], ref: Ref, *, fresh: bool) -> _Folded:
        folded, stale = self._cache.get(ref), fresh
        if folded is None:
            folded, stale = _Folded(decider.initial()), True
        self._keep(ref, folded)
        if stale:
            try:
                for commit in await self._log.load(ref, after=folded.position, leader=fresh):
                    self._take(decider, folded, commit)
            except BaseException:
                # Half a fold is no state: the next command starts from the log again.
                self._cache.pop(ref, None)
                raise
        return folded

    def _keep(self, ref: Ref, folded: _Folded) -> None:
        self._cache[ref] = folded
        self._cache.move_to_end(ref)
        while len(self._cache) > CACHED_AGGREGATES:
            self._cache.popitem(last=False)

    def _take(self, decider: Decider[Any, Any, Any], folded: _Folded, commit: StoredCommit) -> None:
        events = self._codec.decode(commit)
        for event in events:
            folded.state = decider.evolve(folded.state, event.data)
            folded.tell(event.id, event.position, event.correlation_id or event.command_id)
        last = events[-1]
        folded.position, folded.sequence = commit.position, last.sequence
        folded.digest = link(commit)
        folded.created_at = last.created_at
        folded.remember(last.command_id, _Done(last.command, last.content, commit.position, last.sequence))


def _stamp(step: Step[Any], now: datetime) -> Step[Any]:
    if not hasattr(step.command, "at"):
        return step
    command = step.command.model_copy(update={"at": now})
    return Step(decider=step.decider, ref=step.ref, command=command, is_birth=step.is_birth)


def origin_of(
    actor: str, command_id: str | None, *, cause: str | None = None, correlation: str | None = None
) -> Origin:
    """The origin of a command of the request in hand; makes a command id when there is none."""
    return Origin(
        actor=actor,
        command_id=command_id or new_id(),
        content=request_content.get(),
        cause=cause,
        correlation_id=correlation,
    )
