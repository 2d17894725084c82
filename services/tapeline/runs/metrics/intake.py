"""Taking batches in: gapless per attempt, once each, fenced by the lease epoch."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

from tapeline.clock import Clock
from tapeline.errors import TapelineError
from tapeline.log import Conflict
from tapeline.log.metrics import MetricsMessage
from tapeline.logs import get_logger
from tapeline.metric_archives import archived_before, marker_of
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.archived import ArchivedRun, resolved
from tapeline.runs.metrics.batch import Open
from tapeline.store import ArtifactStore

log = get_logger()

REMEMBERED_RUNS = 10_000
TRIES = 5
SEGMENT_POINTS = 4096
POINTS_A_TAG = 1024
"""Batches become segments once their tags have so many points each, on average."""
MOST_UNSEALED = 1 << 20
MOST_BATCHES = 1024


class Metrics(Protocol):
    """The stream of measurements; `tapeline.log.metrics.MetricsStream` is the real one."""

    async def append(
        self, team: str, run: str, attempt: int, batch: int, body: bytes, *, expected: int | None = None
    ) -> int: ...

    async def tail(self, team: str, run: str) -> MetricsMessage | None: ...

    async def head(self) -> int: ...

    async def missing(self) -> int: ...

    def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[MetricsMessage], None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A batch as its sender numbers it.

    Attributes
    ----------
    records : the first and the last record of the sender's spool that it covers; None for one without a spool
    is_last : nothing of this attempt is to follow, so that it is compacted at once
    may_be_late : whether it is taken although a later attempt measures already
    """

    team: str
    run: str
    attempt: int
    epoch: int
    batch: int
    columns: Sequence[Mapping[str, Any]]
    progress: list[dict[str, Any]]
    records: tuple[int, int] | None = None
    is_last: bool = False
    may_be_late: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """How far an attempt is: the last batch without a hole before it, and the last record of its spool."""

    batch: int
    upto: int


@dataclass(slots=True)
class _Tail:
    """Where a run's measurements end, and how far each of its attempts is."""

    position: int = 0
    last_us: int = 0
    attempt: int = 0
    ledger: dict[int, Open] = field(default_factory=dict)

    def known(self, given: Incoming) -> Stored | None:
        """How far the attempt is, when all of a batch is stored already."""
        mine = self.ledger.get(given.attempt)
        if mine is None:
            return None
        is_known = given.batch <= mine.batch
        if given.records is not None and given.records[0] <= given.records[1]:
            is_known = given.records[1] <= mine.upto
        return Stored(mine.batch, mine.upto) if is_known else None

    def is_next(self, given: Incoming) -> bool:
        mine = self.ledger.get(given.attempt, Open())
        follows = given.records is None or given.records[0] == mine.upto + 1
        return given.batch == mine.batch + 1 and follows

    def is_over(self, given: Incoming) -> bool:
        return given.attempt < self.attempt and not given.may_be_late


class Intake:
    """Stores the batches that trainers send.

    Attributes
    ----------
    position : where the last batch that was stored here lies in METRICS; 0 before the first
    """

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.position = 0
        self._tails: OrderedDict[tuple[str, str], _Tail] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def take(self, given: Incoming) -> Stored:
        """Store a batch and say how far its attempt is without a hole.

        A batch that cannot be right is stored empty with its refusal, so that numbers stay gapless.

        Raises
        ------
        TapelineError
            `gap` with the expected number; `conflict` for an attempt that is over.
        """
        key = (given.team, given.run)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock:
            for _ in range(TRIES):
                tail = await self._tail(key)
                if (known := tail.known(given)) is not None:
                    return known
                if tail.is_over(given) or not tail.is_next(given):
                    # Another copy of the service may have stored what is missing here.
                    self._tails.pop(key, None)
                    tail = await self._tail(key)
                if (known := tail.known(given)) is not None:
                    return known
                self._check(tail, given)
                made = self._made(given, tail)
                try:
                    position = await self._metrics.append(
                        *key, given.attempt, given.batch, batches.encode(made), expected=tail.position
                    )
                except Conflict:
                    self._tails.pop(key, None)
                    continue
                self.position = max(self.position, position)
                self._tails[key] = _Tail(position, made.last_us, max(tail.attempt, given.attempt), made.ledger)
                mine = made.ledger[given.attempt]
                return Stored(mine.batch, mine.upto)
        raise TapelineError(f"the measurements of run {given.run} moved {TRIES} times", code="unavailable")

    def _check(self, tail: _Tail, given: Incoming) -> None:
        if tail.is_over(given):
            raise TapelineError(
                f"attempt {given.attempt} of run {given.run} is over; attempt {tail.attempt} measures now",
                code="conflict",
                hint="drop the batch",
            )
        if not tail.is_next(given):
            mine = tail.ledger.get(given.attempt, Open())
            expected = {"expected": mine.batch + 1}
            after = ""
            if given.records is not None:
                after = f" from record {mine.upto + 1}"
                expected["upto"] = mine.upto
            raise TapelineError(
                f"expected batch {mine.batch + 1} of attempt {given.attempt}{after}, got {given.batch}",
                code="gap",
                hint=f"send again from {mine.batch + 1}",
                data=expected,
            )

    def _made(self, given: Incoming, tail: _Tail) -> batches.Batch:
        now_ns = int(self._clock.now().timestamp() * 1e9)
        made = batches.Batch(
            run=given.run, attempt=given.attempt, batch=given.batch, epoch=given.epoch, last_us=tail.last_us
        )
        mine = tail.ledger.get(given.attempt, Open())
        made.upto = mine.upto if given.records is None else given.records[1]
        try:
            made.columns, made.last_us = batches.timed(batches.parse(given.columns), tail.last_us)
            made.progress = batches.progress_of(given.progress, now_ns)
        except TapelineError as error:
            log.warning("metrics_refused", run=given.run, batch=given.batch, why=error.message)
            made.columns, made.progress, made.last_us = [], [], tail.last_us
            made.refused = error.message
        is_first = mine.first == given.batch
        points = made.points + (0 if is_first else mine.points)
        tags = max(len(made.columns), 0 if is_first else mine.tags)
        full = min(max(SEGMENT_POINTS, POINTS_A_TAG * tags), MOST_UNSEALED)
        if points and (given.is_last or points >= full or given.batch - mine.first >= MOST_BATCHES - 1):
            made.seal = mine.first
            now = Open(given.batch, made.upto, given.batch + 1)
        else:
            now = Open(given.batch, made.upto, mine.first, points, tags)
        made.ledger = {**tail.ledger, given.attempt: now}
        return made

    async def _tail(self, key: tuple[str, str]) -> _Tail:
        tail = self._tails.get(key)
        if tail is None:
            found = await self._metrics.tail(*key)
            if found is not None and found.is_archive:
                # The archive goes on counting where the batches that it stands for have ended.
                marker = marker_of(found.body)
                ledger = {attempt: Open(*reached) for attempt, reached in marker.ledger.items()}
                tail = _Tail(found.position, marker.last_us, max(ledger, default=0), ledger)
            elif found is None or not found.is_batch:
                tail = _Tail(0 if found is None else found.position)
            else:
                stored = batches.decode(found.body)
                tail = _Tail(found.position, stored.last_us, max(stored.ledger), stored.ledger)
            self._tails[key] = tail
            while len(self._tails) > REMEMBERED_RUNS:
                self._tails.popitem(last=False)
        self._tails.move_to_end(key)
        return tail


class MetricsSource:
    """The batches of every run, for a projector; its positions are those of METRICS, not of the log.

    The marker of an archive comes with its manifest. A message that is neither is set aside and named: nothing that
    it says can belong to an attempt.
    """

    stream = "METRICS"

    def __init__(self, metrics: Metrics, log_id: str, store: ArtifactStore) -> None:
        self._metrics = metrics
        self._log_id = log_id
        self._store = store

    async def identity(self) -> str:
        return self._log_id

    async def head(self) -> int:
        return await self._metrics.head()

    def aggregate(self, event: MetricsMessage | ArchivedRun) -> str:
        return f"{event.team}/run/{event.run}"

    async def load(self, aggregate: str, upto: int) -> list[MetricsMessage | ArchivedRun]:
        return [
            each
            async for many in self._metrics.read(upto=upto)
            for each in await self._known([one for one in many if self.aggregate(one) == aggregate])
        ]

    async def missing(self) -> int:
        """How many batches were purged that no archive stands for."""
        lost = await self._metrics.missing()
        return lost - await archived_before(self._metrics.read()) if lost else 0

    async def read(
        self, after: int, upto: int | None = None
    ) -> AsyncGenerator[tuple[int, list[MetricsMessage | ArchivedRun]], None]:
        async for many in self._metrics.read(after=after, upto=upto, follow=upto is None):
            yield many[-1].position, await self._known(many)

    async def _known(self, many: Sequence[MetricsMessage]) -> list[MetricsMessage | ArchivedRun]:
        found: list[MetricsMessage | ArchivedRun] = []
        for one in many:
            if one.is_batch:
                found.append(one)
            elif one.is_archive:
                found.append(await resolved(self._store, one))
            else:
                log.error("metrics_message_set_aside", position=one.position, aggregate=self.aggregate(one))
        return found
